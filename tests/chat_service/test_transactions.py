"""ChatService.transaction: several rooms in one commit, told once it is durable, whatever becomes of the caller."""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from chat_service import appends, sessions, tool_usage, users
from chat_service.events import Event
from chat_service.limits import Limits
from chat_service.service import ChatService
from chat_service.work import Work
from models.database import Database
from models.errors import Conflict, Invalid, NotFound, TooLarge
from models.ids import SessionId, UserId
from models.inputs import NewSession, NewUser
from models.shapes import MessageDict, SessionDict
from models.tables import chat_sessions
from models.tables import messages as messages_table
from tests.support import asking, count_rows, done, hear, last_seq, new_session, new_user, said

pytestmark = pytest.mark.anyio

SECONDS = 30
"""How long a thread of a test waits before it gives up: only a failing test waits."""


async def test_several_rooms_share_one_commit_and_one_time(service: ChatService, user_id: UserId) -> None:
    heard = hear(service)

    def begin_conversation(work: Work) -> tuple[SessionDict, list[MessageDict]]:
        session_id = SessionId(sessions.create(work, user_id, NewSession(title="New"))["id"])
        added = appends.add(work, user_id, session_id, [said("do it"), asking("call")])
        tool_usage.add(work, user_id, session_id, done(tool_call_id="call"))
        return sessions.get_session(work.connection, user_id, session_id), added

    session, added = await service.transaction(begin_conversation)
    session_id = SessionId(session["id"])
    assert (session["last_seq"], session["message_count"], session["tool_usage_count"]) == (3, 2, 1)
    history = await service.get_session_history(user_id, session_id)
    assert history["entries"][:2] == added
    assert {entry["created_at"] for entry in history["entries"]} == {session["created_at"]}
    assert [(event.change, event.session_id, event.last_seq) for event in heard] == [
        ("created", session_id, 0),
        ("appended", session_id, 2),
        ("appended", session_id, 3),
    ]


async def test_an_exception_inside_stores_nothing_and_tells_nothing(
    service: ChatService, database: Database, user_id: UserId
) -> None:
    heard = hear(service)

    def change_ones_mind(work: Work) -> None:
        session_id = SessionId(sessions.create(work, user_id, NewSession())["id"])
        appends.add(work, user_id, session_id, [said()])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await service.transaction(change_ones_mind)
    assert heard == []
    assert await count_rows(database, chat_sessions) == 0
    assert await count_rows(database, messages_table) == 0


async def test_a_refusal_by_a_later_room_undoes_the_earlier_ones(
    service: ChatService, database: Database, user_id: UserId, stranger_id: UserId
) -> None:
    heard = hear(service)

    def write_to_two(work: Work) -> None:
        session_id = SessionId(sessions.create(work, user_id, NewSession())["id"])
        appends.add(work, user_id, session_id, [said()])
        appends.add(work, stranger_id, session_id, [said()])

    with pytest.raises(NotFound):
        await service.transaction(write_to_two)
    assert heard == []
    assert await count_rows(database, chat_sessions) == 0


async def test_a_refusal_that_the_function_handles_leaves_no_gap_and_tells_nothing(
    service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    heard = hear(service)

    def try_then_do(work: Work) -> None:
        with pytest.raises(Invalid):
            appends.add(work, user_id, session_id, [said("edit", kind="replacement", replaces_seq=7)])
        with pytest.raises(Invalid):
            tool_usage.add(work, user_id, session_id, done(message_seq=7))
        appends.add(work, user_id, session_id, [said()])

    await service.transaction(try_then_do)
    history = await service.get_session_history(user_id, session_id)
    assert [entry["seq"] for entry in history["entries"]] == [1]
    assert (history["session"]["last_seq"], history["session"]["message_count"]) == (1, 1)
    assert [event.last_seq for event in heard] == [1]


async def test_transactions_beside_one_another_do_not_mix(service: ChatService, user_id: UserId) -> None:
    def create(number: int) -> Callable[[Work], SessionDict]:
        def create_and_append(work: Work) -> SessionDict:
            session_id = SessionId(sessions.create(work, user_id, NewSession(title=str(number)))["id"])
            appends.add(work, user_id, session_id, [said(str(number))] * number)
            if number % 2:
                raise Conflict
            return sessions.get_session(work.connection, user_id, session_id)

        return create_and_append

    heard = hear(service)
    answers = await asyncio.gather(
        *(service.transaction(create(number)) for number in range(1, 21)), return_exceptions=True
    )
    stored = [answer for answer in answers if isinstance(answer, dict)]
    assert [(session["title"], session["last_seq"]) for session in stored] == [(str(n), n) for n in range(2, 21, 2)]
    assert len(heard) == 20
    assert (await service.get_user_sessions(user_id))["sessions"] == stored[::-1]


async def test_a_user_may_be_found_and_act_in_the_same_transaction(service: ChatService) -> None:
    def enter(work: Work) -> SessionDict:
        user_id = UserId(users.get_or_create(work, NewUser(username="new"))["id"])
        return sessions.create(work, user_id, NewSession())

    session = await service.transaction(enter)
    assert await service.get_session(UserId(session["user_id"]), SessionId(session["id"])) == session


# Callers who go


class Held:
    """An append that has begun and ends only once it is let go, so that its caller can go in the midst of it."""

    def __init__(self, service: ChatService, user_id: UserId, session_id: SessionId) -> None:
        self.begun = asyncio.Event()
        self.let_go = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._service = service
        self._given = user_id, session_id

    async def append(self) -> None:
        def add(work: Work) -> None:
            appends.add(work, *self._given, [said()])
            self._loop.call_soon_threadsafe(self.begun.set)
            assert self.let_go.wait(SECONDS), "the append was never let go"

        await self._service.transaction(add)


async def by_cancel(held: Held) -> None:
    caller = asyncio.create_task(held.append())
    await held.begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def by_wait_for(held: Held) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(held.append(), 0.05)


async def by_timeout(held: Held) -> None:
    async def append_within(seconds: float) -> None:
        async with asyncio.timeout(seconds):
            await held.append()

    with pytest.raises(TimeoutError):
        await append_within(0.05)


async def by_failing_task_group(held: Held) -> None:
    async def fail() -> None:
        await held.begun.wait()
        raise Conflict

    async def append_beside_a_failure() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(held.append())
            group.create_task(fail())

    with pytest.raises(ExceptionGroup):
        await append_beside_a_failure()


@pytest.mark.parametrize("go", [by_cancel, by_wait_for, by_timeout, by_failing_task_group])
async def test_a_caller_who_goes_never_takes_the_event_of_a_committed_append_along(
    database_url: str, go: Callable[[Held], Awaitable[None]]
) -> None:
    async with Database(database_url) as database:
        service = ChatService(database)
        user_id = await new_user(service)
        session_id = await new_session(service, user_id)
        heard = hear(service)
        for _ in range(3):
            held = Held(service, user_id, session_id)
            await go(held)
            held.let_go.set()
    assert [event.last_seq for event in heard] == [1, 2, 3]
    async with Database(database_url) as again:
        assert await last_seq(ChatService(again), user_id, session_id) == 3


async def test_of_many_callers_who_go_at_any_moment_each_committed_append_is_told_once(database_url: str) -> None:
    chance = random.Random(7)  # noqa: S311 - chooses moments
    async with Database(database_url) as database:
        service = ChatService(database)
        user_id = await new_user(service)
        session_id = await new_session(service, user_id)
        heard = hear(service)

        async def append(patience: float) -> None:
            await asyncio.wait_for(service.add_message(user_id, session_id, said()), patience)

        callers = [asyncio.create_task(append(chance.uniform(0, 0.03))) for _ in range(200)]

        def cancel_one(event: Event) -> None:
            chance.choice(callers).cancel()

        service.events.subscribe(cancel_one)
        answers: list[Any] = await asyncio.gather(*callers, return_exceptions=True)
    async with Database(database_url) as again:
        stored = await last_seq(ChatService(again), user_id, session_id)
        assert await count_rows(again, messages_table) == stored
    assert [event.last_seq for event in heard] == list(range(1, stored + 1))
    assert answers.count(None) <= stored


async def test_a_transaction_keeps_to_the_limits_of_the_service(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    large = "x" * (Limits().content + 1)
    with pytest.raises(TooLarge, match="content"):
        await service.transaction(lambda work: appends.add(work, user_id, session_id, [said(large)]))
    with pytest.raises(TooLarge, match="result"):
        await service.transaction(lambda work: tool_usage.add(work, user_id, session_id, done(result=large)))
    with pytest.raises(Invalid, match="messages is empty"):
        await service.transaction(lambda work: appends.add(work, user_id, session_id, []))
    assert await last_seq(service, user_id, session_id) == 0
