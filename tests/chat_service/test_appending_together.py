"""Appends of several callers that wait together: few statements, and each is told what it would be told alone."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from chat_service.limits import Limits
from chat_service.service import ChatService
from models.database import Database
from models.errors import ChatError, Conflict, Invalid, NotFound, TooLarge, Unavailable
from models.ids import SessionId, UserId, new_id
from models.inputs import NewMessage, SessionChanges
from models.tables import messages, tool_call_references
from tests.conftest import empty_database
from tests.support import (
    Gate,
    asking,
    count_rows,
    done,
    hear,
    held,
    last_seq,
    new_session,
    new_user,
    said,
    watch_commits,
    watch_statements,
)

pytestmark = pytest.mark.anyio


class Wish(NamedTuple):
    """What one caller wants to be appended."""

    session_id: SessionId
    new_messages: Sequence[NewMessage]
    expected_seq: int | None = None


async def append_together(
    database: Database, service: ChatService, user_id: UserId, wishes: Sequence[Wish]
) -> list[Any]:
    """Let all wishes wait for the writer at once, and return what each was told: the messages, or the error."""
    gate = Gate()
    first = await held(database, gate)
    appends = [asyncio.create_task(service.add_messages(user_id, *wish)) for wish in wishes]
    gate.open_after_what_waits()
    answers = await asyncio.gather(*appends, return_exceptions=True)
    assert await first == 0
    return answers


def seqs_of(answer: Any) -> Any:
    """Shorten an answer: the seqs of the messages, or the kind of the error."""
    return type(answer) if isinstance(answer, BaseException) else [message["seq"] for message in answer]


async def test_appends_that_wait_together_take_the_statements_of_one(database_url: str) -> None:
    async with Database(database_url, readers=1) as database:
        service = ChatService(database)
        user_id = await new_user(service)
        session_ids = [await new_session(service, user_id) for _ in range(8)]
        commits = await watch_commits(database)
        statements = await watch_statements(database)
        commits.clear()
        answers = await append_together(database, service, user_id, [Wish(session_ids[0], [said()])] * 40)
        assert [seqs_of(answer) for answer in answers] == [[number] for number in range(1, 41)]
        assert len(statements) == 3
        assert len(commits) == 2
        statements.clear()
        wishes = [Wish(session_id, [said("one"), said("two")]) for session_id in session_ids[1:]] * 2
        answers = await append_together(database, service, user_id, wishes)
        assert [seqs_of(answer) for answer in answers] == [[1, 2]] * 7 + [[3, 4]] * 7
        # Each session is looked up, once.
        assert len(statements) == 7 + 2


async def test_each_caller_hears_what_became_of_its_own_messages(
    database: Database, service: ChatService, user_id: UserId
) -> None:
    session_id, archived = [await new_session(service, user_id) for _ in range(2)]
    stranger = await new_session(service, await new_user(service, "stranger"))
    await service.update_session(user_id, archived, SessionChanges(status="archived"))
    heard = hear(service)
    answers = await append_together(
        database,
        service,
        user_id,
        [
            Wish(session_id, [said("first")], expected_seq=0),
            Wish(session_id, [said("stale")], expected_seq=0),
            Wish(archived, [said("archived")]),
            Wish(stranger, [said("not mine")]),
            Wish(SessionId(new_id()), [said("nowhere")]),
            Wish(session_id, [said("x" * 2_000_000)]),
            Wish(session_id, []),
            Wish(session_id, [said("a"), said("b")], expected_seq=1),
            Wish(session_id, [said("edit", kind="replacement", replaces_seq=2)]),
            Wish(session_id, [said("edit", kind="replacement", replaces_seq=9)]),
            Wish(session_id, [said("last")]),
        ],
    )
    assert [seqs_of(answer) for answer in answers] == [
        *([1], Conflict, Conflict, NotFound, NotFound, TooLarge, Invalid, [2, 3], [4], Invalid, [5]),
    ]
    assert str(answers[1]).startswith("expected_seq is 0, but the session's last entry is 1")
    history = await service.get_session_history(user_id, session_id)
    assert history["entries"] == [message for answer in answers if isinstance(answer, list) for message in answer]
    session = await service.get_session(user_id, session_id)
    assert (session["last_seq"], session["message_count"]) == (5, 5)
    assert [(event.session_id, event.last_seq) for event in heard] == [(session_id, seq) for seq in (1, 3, 4, 5)]
    assert await count_rows(database, messages) == 5


async def test_a_replay_in_the_same_group_is_told_the_first_result(
    database: Database, service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    keyed = Wish(session_id, [said("once", idempotency_key="key")])
    other = Wish(session_id, [said("another", idempotency_key="key")])
    plain = Wish(session_id, [said("between")])
    answers = await append_together(database, service, user_id, [plain, keyed, plain, keyed, other, plain])
    assert [seqs_of(answer) for answer in answers] == [[1], [2], [3], [2], Conflict, [4]]
    assert answers[1] == answers[3]
    assert await last_seq(service, user_id, session_id) == 4


async def test_messages_that_ask_for_calls_join_the_records_of_calls_in_any_order(
    database: Database, service: ChatService, user_id: UserId
) -> None:
    session_ids = [await new_session(service, user_id) for _ in range(2)]
    for session_id in session_ids:
        await service.add_tool_usage(user_id, session_id, done(tool_call_id="call"))
    wishes = [Wish(session_id, [said(), asking("call", "later")]) for session_id in session_ids]
    answers = await append_together(database, service, user_id, wishes)
    assert [seqs_of(answer) for answer in answers] == [[2, 3], [2, 3]]
    for session_id in session_ids:
        await service.add_tool_usage(user_id, session_id, done(tool_call_id="later"))
        usages = (await service.get_session_tool_usage(user_id, session_id))["tool_usages"]
        assert [usage["message_seq"] for usage in usages] == [3, 3]
    assert await count_rows(database, tool_call_references) == 4


async def test_a_counter_of_tokens_that_fails_for_one_message_costs_the_others_nothing(database: Database) -> None:
    def count(text: str) -> int:
        if text == "uncountable":
            raise ZeroDivisionError
        return len(text)

    service = ChatService(database, limits=Limits(count_tokens=count))
    user_id = await new_user(service)
    session_id = await new_session(service, user_id)
    heard = hear(service)
    texts = ["one", "uncountable", "three"]
    wishes = [Wish(session_id, [said(text)]) for text in texts]
    answers = await append_together(database, service, user_id, wishes)
    assert [seqs_of(answer) for answer in answers] == [[1], ZeroDivisionError, [2]]
    assert [event.last_seq for event in heard] == [1, 2]
    history = await service.get_session_history(user_id, session_id)
    assert [entry["content"] for entry in history["entries"] if "content" in entry] == ["one", "three"]


async def test_a_disk_that_fills_up_costs_only_those_who_find_no_room(database: Database, service: ChatService) -> None:
    user_id = await new_user(service)
    session_id = await new_session(service, user_id)

    def limit(pages: int) -> Any:
        return lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count={pages}").scalar_one()

    pages = await database.write(lambda connection: connection.exec_driver_sql("PRAGMA page_count").scalar_one())
    await database.write(limit(pages + 8))
    small, large = Wish(session_id, [said("small")]), Wish(session_id, [said("large" * 20_000)])
    answers = await append_together(database, service, user_id, [small, large, small, large, small])
    await database.write(limit(2**30))
    assert [seqs_of(answer) for answer in answers] == [[1], Unavailable, [2], Unavailable, [3]]
    assert await last_seq(service, user_id, session_id) == 3
    assert await count_rows(database, messages) == 3


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_waits_together_is_told_and_stored_as_if_one_came_after_the_other(
    seed: int, tmp_path: Any
) -> None:
    chance = random.Random(seed)  # noqa: S311 - the same each time
    told: list[list[Any]] = []
    stored: list[Any] = []
    for way in ("together", "in turn"):
        async with Database(empty_database(tmp_path / f"{way}.db")) as database:
            service = ChatService(database)
            user_id = await new_user(service)
            session_ids = [await new_session(service, user_id) for _ in range(3)]
            chance.seed(seed)
            wishes = [some_wish(chance, session_ids) for _ in range(40)]
            if way == "together":
                answers = await append_together(database, service, user_id, wishes)
            else:
                answers = [await told_alone(service, user_id, wish) for wish in wishes]
            told.append([told_of(answer, session_ids) for answer in answers])
            histories = [await service.get_session_history(user_id, session_id, 500) for session_id in session_ids]
            stored.append([told_of(history["entries"], session_ids) for history in histories])
    assert told[0] == told[1]
    assert stored[0] == stored[1]


async def told_alone(service: ChatService, user_id: UserId, wish: Wish) -> Any:
    """Append what is wished for, and return the messages or the error."""
    try:
        return await service.add_messages(user_id, *wish)
    except ChatError as error:
        return error


def told_of(answer: Any, session_ids: Sequence[SessionId]) -> Any:
    """Return what does not differ between two databases of an answer."""
    if isinstance(answer, BaseException):
        return type(answer), str(answer)
    apart = {"id", "user_id", "created_at"}
    return [
        {name: value for name, value in message.items() if name not in apart}
        | {"session_id": session_ids.index(message["session_id"])}
        for message in answer
    ]


def some_wish(chance: random.Random, session_ids: Sequence[SessionId]) -> Wish:
    """Make a wish that may be granted: some keyed, some conditional, some that edit, ask for calls or are too large."""
    session_id = chance.choice([*session_ids, SessionId("00000000-0000-7000-8000-000000000000")])
    kind = chance.choice(["plain", "plain", "keyed", "conditional", "edit", "asking", "large", "mixed"])
    if kind == "keyed":
        return Wish(session_id, [said(chance.choice("ab"), idempotency_key=chance.choice("xyz"))])
    if kind == "conditional":
        return Wish(session_id, [said()], expected_seq=chance.randrange(6))
    if kind == "edit":
        return Wish(session_id, [said("edit", kind="replacement", replaces_seq=chance.randrange(1, 8))])
    if kind == "asking":
        return Wish(session_id, [asking(chance.choice(["call", "other"]))])
    if kind == "large":
        return Wish(session_id, [said(), said("x" * 1_100_000)])
    if kind == "mixed":
        return Wish(session_id, [said("mixed", message_metadata={"a": 1}), said(token_count=3), asking("call")])
    return Wish(session_id, [said(str(number)) for number in range(chance.randrange(1, 4))])
