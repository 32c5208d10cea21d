"""Forks: a session that goes on from a point of another, read through it, and made in one row."""

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_service import appends, forks, messages, tool_usage_pages
from chat_service.events import Event
from chat_service.service import ChatService
from chat_service.work import Work
from models.database import Database
from models.errors import Conflict, Invalid, NotFound
from models.ids import SessionId, UserId
from models.inputs import NewSession, SessionChanges
from tests.support import (
    PROPERTY,
    Serving,
    asking,
    count_all_rows,
    done,
    fill,
    fill_long,
    hear,
    new_session,
    new_user,
    said,
    serving,
    watch_statements,
)

pytestmark = pytest.mark.anyio


async def fork(service: ChatService, user_id: UserId, session_id: SessionId, at_seq: int | None = None) -> SessionId:
    return SessionId((await service.fork_session(user_id, session_id, at_seq))["id"])


async def contents(service: ChatService, user_id: UserId, session_id: SessionId) -> list[str]:
    history = await service.get_session_history(user_id, session_id, 500)
    return [entry["content"] if "content" in entry else entry["tool_name"] for entry in history["entries"]]


async def test_a_fork_of_100_000_messages_is_one_row_and_changes_no_total(
    service: ChatService, database: Database, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    await fill_long(database, session_id, 50_000)
    before = await count_all_rows(database)
    totals = await service.summarize_tool_usage(user_id), await service.get_session_tool_usage(user_id)
    forked = await service.fork_session(user_id, session_id, 100_000)
    assert await count_all_rows(database) == before | {"chat_sessions": 2}
    assert (await service.summarize_tool_usage(user_id), await service.get_session_tool_usage(user_id)) == totals
    counted = (forked["last_seq"], forked["message_count"], forked["tool_usage_count"])
    assert counted == (100_000, 0, 0)
    last = await service.get_session_history(user_id, SessionId(forked["id"]), 3)
    assert [entry["seq"] for entry in last["entries"]] == [99_998, 99_999, 100_000]


async def test_a_fork_says_where_it_comes_from_and_has_what_its_parent_has(
    service: ChatService, user_id: UserId
) -> None:
    parent = await service.create_chat_session(
        user_id,
        NewSession(title="Plan", client="one", session_data={"workspace": "/w"}, source="file", source_id="7"),
    )
    parent_id = SessionId(parent["id"])
    await service.add_messages(user_id, parent_id, [said("1"), said("2")])
    heard = hear(service)
    forked = await service.fork_session(user_id, parent_id, 1)
    assert forked == parent | {
        "id": forked["id"],
        "created_at": forked["created_at"],
        "last_seq": 1,
        "source": None,
        "source_id": None,
        "forked_from": parent_id,
        "forked_from_seq": 1,
    }
    assert heard == [Event(user_id, SessionId(forked["id"]), "created", 1)]
    assert (await service.fork_session(user_id, parent_id, title="Other"))["title"] == "Other"
    assert (await service.get_session(user_id, parent_id))["last_seq"] == 2
    listed = (await service.get_user_sessions(user_id))["sessions"]
    assert [session["forked_from_seq"] for session in listed] == [2, 1, None]


async def test_both_go_on_by_themselves_after_the_fork_point(service: ChatService, user_id: UserId) -> None:
    parent_id = await new_session(service, user_id)
    await service.add_messages(user_id, parent_id, [said("1"), said("2"), said("3")])
    fork_id = await fork(service, user_id, parent_id, 2)
    (first,) = await service.add_messages(user_id, fork_id, [said("other 3")], expected_seq=2)
    assert first["seq"] == 3
    await service.add_message(user_id, parent_id, said("4"))
    assert await contents(service, user_id, parent_id) == ["1", "2", "3", "4"]
    assert await contents(service, user_id, fork_id) == ["1", "2", "other 3"]


async def test_an_inherited_entry_is_the_parents_in_every_way_of_reading(service: ChatService, user_id: UserId) -> None:
    parent_id = await new_session(service, user_id)
    await service.add_messages(user_id, parent_id, [said("one"), said("two", message_metadata={"a": 1})])
    await service.add_tool_usage(user_id, parent_id, done(result="x" * 50))
    whole = await service.get_session_history(user_id, parent_id)
    fork_id = await fork(service, user_id, parent_id)
    own = await service.add_message(user_id, fork_id, said("own"))
    history = await service.get_session_history(user_id, fork_id)
    assert history["entries"] == [*whole["entries"], own]
    assert [entry["id"] for entry in history["entries"]] == [
        *(f"{parent_id}:{seq}" for seq in (1, 2, 3)),
        f"{fork_id}:4",
    ]
    page = await service.get_session_messages(user_id, fork_id)
    assert page["messages"] == [entry for entry in history["entries"] if "message_type" in entry]
    preview = await service.get_session_preview(user_id, fork_id, content_limit=10)
    of_parent = await service.get_session_preview(user_id, parent_id, content_limit=10)
    assert preview["entries"][:3] == of_parent["entries"]
    assert (await service.get_session_tool_usage(user_id, fork_id))["tool_usages"] == whole["entries"][2:]
    assert (await service.summarize_tool_usage(user_id, fork_id))["calls"] == 1
    for seq in (1, 2, 3):
        piece = await service.get_session_entry(user_id, fork_id, seq)
        assert piece == await service.get_session_entry(user_id, parent_id, seq) | {"session_id": fork_id}
    with pytest.raises(NotFound, match="no entry with this seq"):
        await service.get_session_entry(user_id, fork_id, 5)


async def test_a_result_logged_in_the_fork_finds_the_message_that_asked_in_the_parent(
    service: ChatService, user_id: UserId
) -> None:
    parent_id = await new_session(service, user_id)
    await service.add_messages(user_id, parent_id, [said(), asking("call"), said("later"), asking("call")])
    before = await service.get_session_history(user_id, parent_id)
    fork_id = await fork(service, user_id, await fork(service, user_id, parent_id, 3))
    assert (await service.add_tool_usage(user_id, fork_id, done(tool_call_id="call")))["message_seq"] == 2
    await service.add_message(user_id, fork_id, asking("call"))
    assert (await service.add_tool_usage(user_id, fork_id, done(tool_call_id="call")))["message_seq"] == 5
    assert (await service.add_tool_usage(user_id, fork_id, done(tool_call_id="other")))["message_seq"] is None
    assert await service.get_session_history(user_id, parent_id) == before
    assert (await service.add_tool_usage(user_id, parent_id, done(tool_call_id="call")))["message_seq"] == 4


async def test_a_message_that_comes_after_the_fork_point_joins_nothing_before_it(
    service: ChatService, user_id: UserId
) -> None:
    parent_id = await new_session(service, user_id)
    await service.add_tool_usage(user_id, parent_id, done(tool_call_id="call"))
    fork_id = await fork(service, user_id, parent_id)
    await service.add_message(user_id, fork_id, asking("call"))
    (of_fork,) = (await service.get_session_tool_usage(user_id, fork_id))["tool_usages"]
    assert of_fork["message_seq"] is None
    await service.add_messages(user_id, parent_id, [said(), asking("call")])
    (of_parent,) = (await service.get_session_tool_usage(user_id, parent_id))["tool_usages"]
    assert of_parent["message_seq"] == 3
    for read in (service.get_session_history, service.get_session_preview):
        inherited: Any = (await read(user_id, fork_id))["entries"][0]
        assert inherited["message_seq"] is None, "the message that asked is none of the fork's"
    assert (await service.get_session_tool_usage(user_id, fork_id))["tool_usages"] == [of_fork]


async def test_an_entry_may_refer_to_what_it_inherits_and_to_nothing_past_the_fork_point(
    service: ChatService, user_id: UserId
) -> None:
    parent_id = await new_session(service, user_id)
    await service.add_messages(user_id, parent_id, [said(), said(), said()])
    fork_id = await fork(service, user_id, parent_id, 2)
    edit = await service.add_message(user_id, fork_id, said("edit", kind="replacement", replaces_seq=1))
    assert (edit["seq"], edit["replaces_seq"]) == (3, 1)
    assert (await service.add_tool_usage(user_id, fork_id, done(message_seq=2)))["message_seq"] == 2
    second_id = await fork(service, user_id, parent_id, 2)
    with pytest.raises(Invalid, match="replaces_seq"):
        await service.add_message(user_id, second_id, said("edit", kind="replacement", replaces_seq=3))
    with pytest.raises(Invalid, match="message_seq"):
        await service.add_tool_usage(user_id, second_id, done(message_seq=3))


async def test_idempotency_keys_are_each_sessions_own(service: ChatService, user_id: UserId) -> None:
    parent_id = await new_session(service, user_id)
    first = await service.add_message(user_id, parent_id, said("first", idempotency_key="key"))
    fork_id = await fork(service, user_id, parent_id)
    other = await service.add_message(user_id, fork_id, said("other", idempotency_key="key"))
    assert other["seq"] == 2
    assert await service.add_message(user_id, fork_id, said("other", idempotency_key="key")) == other
    assert await service.add_message(user_id, parent_id, said("first", idempotency_key="key")) == first


async def test_an_empty_and_an_archived_session_can_be_forked(service: ChatService, user_id: UserId) -> None:
    parent_id = await new_session(service, user_id)
    empty = await service.fork_session(user_id, parent_id)
    assert (empty["last_seq"], empty["forked_from"], empty["forked_from_seq"]) == (0, parent_id, 0)
    assert (await service.add_message(user_id, SessionId(empty["id"]), said()))["seq"] == 1
    await service.update_session(user_id, parent_id, SessionChanges(status="archived"))
    assert (await service.fork_session(user_id, parent_id))["status"] == "active"


async def test_what_cannot_be_forked_is_refused_and_leaves_nothing(
    service: ChatService, database: Database, user_id: UserId
) -> None:
    parent_id, target_id = await new_session(service, user_id), await new_session(service, user_id)
    await service.add_message(user_id, parent_id, said())
    heard = hear(service)
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"at_seq": 2}, "at_seq is past the session's last entry, which is 1"),
        ({"at_seq": -1}, "at_seq must be 0 or more"),
        ({"at_seq": 2**53}, "at_seq must be"),
        ({"title": ""}, "title must have 1 to 512"),
        ({"title": "x" * 513}, "title must have 1 to 512"),
        ({"title": "a\0b"}, "title"),
    ]
    for arguments, sentence in refusals:
        with pytest.raises(Invalid, match=sentence):
            await service.fork_session(user_id, parent_id, **arguments)
    assert heard == []
    await service.merge_sessions(user_id, parent_id, target_id)
    with pytest.raises(Conflict, match=f"was merged into {target_id}"):
        await service.fork_session(user_id, parent_id)
    assert (await count_all_rows(database))["chat_sessions"] == 2


async def test_reading_a_fork_takes_as_many_statements_as_reading_any_session(database_url: str) -> None:
    expected = {
        "get_session_history": 3,
        "get_session_preview": 3,
        "get_session_messages": 2,
        "get_session_tool_usage": 2,
        "summarize_tool_usage": 2,
        "summarize_token_usage": 2,
    }
    async with Database(database_url, readers=1) as database:
        service = ChatService(database)
        user_id = await new_user(service)
        session_id = await new_session(service, user_id)
        await fill(service, user_id, session_id, 40)
        statements = await watch_statements(database)
        for _ in range(10):
            session_id = await fork(service, user_id, session_id)
            await fill(service, user_id, session_id, 4)
            for name, count in expected.items():
                statements.clear()
                await getattr(service, name)(user_id, session_id)
                assert len(statements) == count, name
            statements.clear()
            await service.fork_session(user_id, session_id)
            assert len(statements) == 4
            statements.clear()
            await service.add_message(user_id, session_id, said())
            assert len(statements) == 3
            await service.add_tool_usage(user_id, session_id, done(tool_call_id="call"))
            assert len(statements) == 7


async def test_reading_a_page_of_a_long_lineage_looks_at_no_more_than_a_page_of_each_session(
    database: Database, service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    await fill(service, user_id, session_id, 5_000)
    fork_id = await fork(service, user_id, await fork(service, user_id, session_id, 4_000))
    counts = {}
    for of, before in ((session_id, 4_001), (fork_id, None)):

        def page(connection: Any, of: SessionId = of, before: int | None = before) -> int:
            raw: Any = connection.connection.driver_connection
            ticks = itertools.count()
            # SQLite calls back each time it has taken so many steps of its program.
            raw.set_progress_handler(lambda: next(ticks) < 0, 10)
            try:
                messages.get_page(connection, user_id, of, 10, before_seq=before)
                messages.get_page(connection, user_id, of, 10, after_seq=2_000)
                tool_usage_pages.list_tool_usage(connection, user_id, of, limit=10)
            finally:
                raw.set_progress_handler(None, 0)
            return next(ticks)

        counts[of] = await database.read(page)
    assert 0 < counts[fork_id] < 10 * counts[session_id] < 10_000


# Three levels against a list


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("forks")) as opened:
        yield opened


LEVELS = st.lists(
    st.tuples(st.integers(0, 8), st.lists(st.sampled_from(["message", "call"]), max_size=6)), min_size=4, max_size=4
)
"""For each session of a lineage: how far before its parent's end it was forked, and what was appended to it."""


@PROPERTY
@given(levels=LEVELS, limit=st.integers(1, 7))
def test_three_levels_of_forks_page_in_every_direction_as_a_plain_list(
    served: Serving, levels: list[tuple[int, list[str]]], limit: int
) -> None:
    served.runner.run(page_through(served, levels, limit))


async def page_through(served: Serving, levels: list[tuple[int, list[str]]], limit: int) -> None:
    service, user_id = served.service, served.user_id
    session_id = await new_session(service, user_id)
    model: list[Any] = []
    lineage: list[tuple[SessionId, list[Any]]] = []
    for level, (back, appended) in enumerate(levels):
        if level:
            model = model[: max(0, len(model) - back)]
            session_id = await fork(service, user_id, session_id, len(model))
        for kind in appended:
            model = [
                *model,
                await service.add_message(user_id, session_id, said(f"{level}"))
                if kind == "message"
                else await service.add_tool_usage(user_id, session_id, done(f"{level}")),
            ]
        lineage.append((session_id, model))
    for each_id, entries in lineage:
        said_in = [entry for entry in entries if "message_type" in entry]
        assert await forward(service.get_session_history, "entries", user_id, each_id, limit) == entries
        assert await backward(service.get_session_history, "entries", user_id, each_id, limit) == entries
        assert await forward(service.get_session_messages, "messages", user_id, each_id, limit) == said_in
        assert await backward(service.get_session_messages, "messages", user_id, each_id, limit) == said_in
        previews = await backward(service.get_session_preview, "entries", user_id, each_id, limit)
        assert [preview["seq"] for preview in previews] == [entry["seq"] for entry in entries]
        called = [entry for entry in entries if "tool_name" in entry]
        assert await listed_back(service, user_id, each_id, limit) == called
        totals = await service.summarize_tool_usage(user_id, each_id)
        assert totals["calls"] == len(called) == sum(tool["calls"] for tool in totals["tools"])


async def forward(read: Any, name: str, user_id: UserId, session_id: SessionId, limit: int) -> list[Any]:
    found: list[Any] = []
    after_seq: int | None = 0
    while after_seq is not None:
        page = await read(user_id, session_id, limit, after_seq=after_seq)
        found += page[name]
        after_seq = page["after_seq"] if len(page[name]) == limit else None
    return found


async def backward(read: Any, name: str, user_id: UserId, session_id: SessionId, limit: int) -> list[Any]:
    page = await read(user_id, session_id, limit)
    found: list[Any] = page[name]
    while page["before_seq"] is not None:
        page = await read(user_id, session_id, limit, before_seq=page["before_seq"])
        found = page[name] + found
    return found


async def listed_back(service: ChatService, user_id: UserId, session_id: SessionId, limit: int) -> list[Any]:
    found: list[Any] = []
    cursor: str | None = None
    while True:
        page = await service.get_session_tool_usage(user_id, session_id, status="success", limit=limit, cursor=cursor)
        found = page["tool_usages"][::-1] + found
        cursor = page["next_cursor"]
        if cursor is None:
            return found


def test_a_lineage_of_a_thousand_forks_is_read(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        service, user_id = served.service, served.user_id

        def lengthen(work: Work) -> SessionId:
            session_id = served.session_id
            for number in range(1_000):
                appends.add(work, user_id, session_id, [said(str(number))])
                session_id = SessionId(forks.fork_session(work, user_id, session_id)["id"])
            return session_id

        async def read() -> tuple[list[int], list[str]]:
            session_id = await service.transaction(lengthen)
            history = await service.get_session_history(user_id, session_id, 500, before_seq=900)
            page = await service.get_session_messages(user_id, session_id, 500)
            return [entry["seq"] for entry in history["entries"]], [entry["content"] for entry in page["messages"]]

        seqs, texts = served.runner.run(asyncio.wait_for(read(), 60))
    assert seqs == list(range(400, 900))
    assert texts == [str(number) for number in range(500, 1_000)]
