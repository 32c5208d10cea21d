"""Changes: heard whichever process made them, looked for only while somebody listens, and read again without a gap."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_service import sessions
from chat_service.changes import NEWEST
from chat_service.limits import MAX_LISTENED, MAX_LISTENERS
from chat_service.service import ChatService
from models.database import Database
from models.errors import Invalid, NotFound, Unavailable
from models.ids import SessionId, UserId, new_id
from models.inputs import NewSession, NewUser, SessionChanges
from tests.conftest import url_of
from tests.support import PROPERTY, done, new_session, said, serving, watch_statements

pytestmark = pytest.mark.anyio

PATIENCE = 60.0
"""So long a test waits for what must come; nothing is measured against it."""

NEW_USER = NewUser(username="ada")
WATCHING = "watching for changes"


@pytest.fixture
async def elsewhere(database_url: str, database: Database) -> AsyncIterator[ChatService]:
    """The same file as another process has it: with connections and events of its own."""
    async with Database(database_url) as other:
        yield ChatService(other)


CHANGES: dict[str, Callable[[ChatService, UserId, SessionId], Awaitable[Any]]] = {
    "a message": lambda service, user, session: service.add_message(user, session, said()),
    "a tool call": lambda service, user, session: service.add_tool_usage(user, session, done()),
    "a title": lambda service, user, session: service.update_session(user, session, SessionChanges(title="New")),
    "a status": lambda service, user, session: service.update_session(user, session, SessionChanges(status="archived")),
    "metadata": lambda service, user, session: service.update_session(
        user, session, SessionChanges(session_data={"a": 1})
    ),
    "the end": lambda service, user, session: service.delete_session(user, session),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_is_heard_here_and_in_other_processes(
    service: ChatService, elsewhere: ChatService, user_id: UserId, change: str
) -> None:
    for changing, listener in ((service, elsewhere), (elsewhere, service), (service, service)):
        session_id = await new_session(service, user_id)
        async with listener.changes.listening(user_id, [session_id], to_list=True) as listening:
            await CHANGES[change](changing, user_id, session_id)
            heard: set[SessionId | None] = set()
            while heard != {session_id, None}:
                heard |= await asyncio.wait_for(listening.next(), PATIENCE)


async def test_sessions_that_come_and_go_are_heard_by_who_listens_to_the_list(
    service: ChatService, elsewhere: ChatService, user_id: UserId
) -> None:
    oldest = await new_session(service, user_id)
    for _ in range(NEWEST):
        await new_session(service, user_id)
    async with service.changes.listening(user_id, [], to_list=True) as listening:
        created = await new_session(elsewhere, user_id)
        assert await asyncio.wait_for(listening.next(), PATIENCE) == {None}
        await elsewhere.delete_session(user_id, created)
        assert await asyncio.wait_for(listening.next(), PATIENCE) == {None}
        await elsewhere.delete_session(user_id, oldest)
        assert await asyncio.wait_for(listening.next(), PATIENCE) == {None}


async def test_only_what_is_listened_to_is_heard(
    service: ChatService, elsewhere: ChatService, user_id: UserId, stranger_id: UserId
) -> None:
    mine, other = await new_session(service, user_id), await new_session(service, user_id)
    foreign = await new_session(service, stranger_id)
    async with service.changes.listening(user_id, [mine]) as listening:
        async with service.changes.listening(user_id, [other]) as of_other:
            for changing in (service, elsewhere):
                await changing.add_message(stranger_id, foreign, said())
                await changing.add_message(user_id, other, said())
                # All of one commit is compared at once: what the other has heard, this one would have.
                assert await asyncio.wait_for(of_other.next(), PATIENCE) == {other}
        heard = asyncio.create_task(listening.next())
        await service.get_session(user_id, mine)
        assert not heard.done()
        await elsewhere.add_message(user_id, mine, said())
        assert await asyncio.wait_for(heard, PATIENCE) == {mine}


async def test_changes_that_are_not_taken_yet_are_one(
    service: ChatService, elsewhere: ChatService, user_id: UserId
) -> None:
    slow_one, quick_one = await new_session(service, user_id), await new_session(service, user_id)
    async with (
        service.changes.listening(user_id, [slow_one, quick_one]) as slow,
        service.changes.listening(user_id, [slow_one]) as quick,
    ):
        for _ in range(5):
            await elsewhere.add_message(user_id, slow_one, said())
            assert await asyncio.wait_for(quick.next(), PATIENCE) == {slow_one}
        assert await asyncio.wait_for(slow.next(), PATIENCE) == {slow_one}
        await elsewhere.add_message(user_id, quick_one, said())
        assert await asyncio.wait_for(slow.next(), PATIENCE) == {quick_one}


async def test_a_foreign_session_cannot_be_listened_to_and_answers_as_an_absent_one(
    service: ChatService, user_id: UserId, stranger_id: UserId
) -> None:
    mine, foreign = await new_session(service, user_id), await new_session(service, stranger_id)
    told = []
    for session_id in (foreign, SessionId(new_id())):
        with pytest.raises(NotFound) as refused:
            async with service.changes.listening(user_id, [mine, session_id]):
                pass
        told.append(str(refused.value))
        with pytest.raises(NotFound):
            await service.wait_for_entries(user_id, session_id, 0, 30)
    assert told[0] == told[1]
    with pytest.raises(Invalid):
        async with service.changes.listening(user_id, [SessionId("x")]):
            pass
    assert watchers() == []


async def test_nobody_looks_while_nobody_listens(database_url: str) -> None:
    async with Database(database_url, readers=1) as database, Database(database_url) as other:
        service, elsewhere = ChatService(database), ChatService(other)
        looks = await watch_looks(database)
        user_id = UserId((await service.get_or_create_user(NEW_USER))["id"])
        session_id = await new_session(service, user_id)
        for _ in range(20):
            await service.add_message(user_id, session_id, said())
            await elsewhere.add_message(user_id, session_id, said())
            await service.wait_for_entries(user_id, session_id, 0, 30)
        assert looks == []
        assert watchers() == []
        async with service.changes.listening(user_id, [session_id]) as listening:
            await elsewhere.add_message(user_id, session_id, said())
            await asyncio.wait_for(listening.next(), PATIENCE)
            assert len(looks) > 0
            assert len(watchers()) == 1
        await asyncio.wait_for(all_gone(), PATIENCE)


async def test_any_number_of_listeners_cost_one_watcher_and_a_fixed_number_of_statements(database_url: str) -> None:
    async with Database(database_url, readers=1) as database, Database(database_url) as other:
        service, elsewhere = ChatService(database), ChatService(other)
        user_id = UserId((await service.get_or_create_user(NEW_USER))["id"])
        ids = [await new_session(service, user_id) for _ in range(60)]
        statements = await watch_statements(database)
        for listened, to_list, expected in ((ids[-1:], False, 1), (ids, False, 1), ([], True, 2), (ids, True, 3)):
            changed = listened[0] if listened else ids[-1]
            async with AsyncExitStack() as stack:
                listeners = [
                    await stack.enter_async_context(
                        service.changes.listening(user_id, listened[number::10], to_list=to_list)
                    )
                    for number in range(10)
                ]
                await elsewhere.add_message(user_id, changed, said())
                await asyncio.wait_for(listeners[0].next(), PATIENCE)
                statements.clear()
                await elsewhere.add_message(user_id, changed, said())
                await asyncio.wait_for(listeners[0].next(), PATIENCE)
                assert len(statements) == expected
                assert len(watchers()) == 1


async def test_listening_is_bounded_and_room_comes_back(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    async with AsyncExitStack() as stack:
        for _ in range(MAX_LISTENERS):
            await stack.enter_async_context(service.changes.listening(user_id, [session_id]))
        with pytest.raises(Unavailable, match="listened"):
            await service.wait_for_entries(user_id, session_id, 0, 30)
    many = await service.transaction(
        lambda work: [sessions.create(work, user_id, NewSession())["id"] for _ in range(MAX_LISTENED + 1)]
    )
    with pytest.raises(Unavailable, match="listened"):
        async with service.changes.listening(user_id, [SessionId(each) for each in many]):
            pass
    async with service.changes.listening(user_id, [SessionId(each) for each in many[1:]]):
        pass
    await asyncio.wait_for(all_gone(), PATIENCE)


# Waiting


async def test_a_wait_ends_with_the_entry_that_another_process_appends(
    service: ChatService, elsewhere: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    waiting = [asyncio.create_task(service.wait_for_entries(user_id, session_id, 1, 60)) for _ in range(50)]
    async with service.changes.listening(user_id, [session_id]) as listening:
        await elsewhere.add_message(user_id, session_id, said())
        await asyncio.wait_for(listening.next(), PATIENCE)
        assert not any(each.done() for each in waiting)
        assert len(watchers()) == 1
        await elsewhere.update_session(user_id, session_id, SessionChanges(title="nothing to wait for"))
        await elsewhere.add_message(user_id, session_id, said())
        assert {each["last_seq"] for each in await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE)} == {2}


async def test_a_wait_is_over_when_its_time_is(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    for seconds in (0, 0.001, 0.05):
        assert (await service.wait_for_entries(user_id, session_id, 0, seconds))["last_seq"] == 0
    for bad in (-1, 61, float("nan"), float("inf")):
        with pytest.raises(Invalid, match="seconds"):
            await service.wait_for_entries(user_id, session_id, 0, bad)
    await asyncio.wait_for(all_gone(), PATIENCE)


async def test_a_wait_for_a_session_that_is_deleted_tells_so(
    service: ChatService, elsewhere: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    waiting = asyncio.create_task(service.wait_for_entries(user_id, session_id, 0, 60))
    await elsewhere.delete_session(user_id, session_id)
    with pytest.raises(NotFound):
        await asyncio.wait_for(waiting, PATIENCE)


async def test_nothing_is_held_open_while_somebody_waits(service: ChatService, user_id: UserId, tmp_path: Path) -> None:
    session_id = await new_session(service, user_id)
    async with service.changes.listening(user_id, [session_id]):
        waiting = asyncio.create_task(service.wait_for_entries(user_id, session_id, 0, 60))
        await service.update_session(user_id, session_id, SessionChanges(title="a commit"))

        def truncate(connection: Any) -> Any:
            return connection.connection.driver_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

        # A reader that held a snapshot would keep the log from being emptied; outside WAL there is no log (-1).
        async with Database(url_of(tmp_path / "chat.db")) as other:
            busy, log, _ = await in_autocommit(other, truncate)
        assert (busy, log) in {(0, 0), (0, -1)}
        waiting.cancel()


async def test_closing_ends_listeners_and_waiters_of_now_and_later(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    async with service.changes.listening(user_id, [session_id]) as listening:
        waiting = asyncio.create_task(service.wait_for_entries(user_id, session_id, 0, 60))
        service.changes.close()
        assert await asyncio.wait_for(listening.next(), PATIENCE) == set()
        assert (await asyncio.wait_for(waiting, PATIENCE))["last_seq"] == 0
        assert (await asyncio.wait_for(service.wait_for_entries(user_id, session_id, 0, 60), PATIENCE))["last_seq"] == 0
    async with service.changes.listening(user_id, [session_id]) as listening:
        assert await asyncio.wait_for(listening.next(), PATIENCE) == set()


# What is lost is nothing


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.integers(0, 2**32))
@settings(PROPERTY, max_examples=40)
def _following_loses_nothing(world: Any, elsewhere: ChatService, batches: list[int], seed: int) -> None:
    world.runner.run(_follow(world, elsewhere, batches, random.Random(seed)))  # noqa: S311


def test_a_stream_that_is_dropped_anywhere_and_read_on_after_seq_loses_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as world:
        other = world.runner.run(Database(url_of(tmp_path / "chat.db")).open())
        try:
            _following_loses_nothing(world, ChatService(other))
        finally:
            world.runner.run(other.close())


async def _follow(world: Any, elsewhere: ChatService, batches: list[int], chance: random.Random) -> None:
    service, user_id = world.service, world.user_id
    session_id = await new_session(service, user_id)
    read: list[int] = []

    async def write() -> None:
        for count in batches:
            writer = chance.choice((service, elsewhere))
            await writer.add_messages(user_id, session_id, [said()] * count)
            for _ in range(chance.randint(0, 20)):
                await asyncio.sleep(0)

    async def read_on() -> None:
        window = await service.get_session_history(user_id, session_id, 500, after_seq=read[-1] if read else 0)
        read.extend(entry["seq"] for entry in window["entries"])

    async def listen() -> None:
        async with service.changes.listening(user_id, [session_id]) as listening:
            await read_on()
            while len(read) < sum(batches):
                await listening.next()
                await read_on()

    writing = asyncio.create_task(write())
    for _ in range(chance.randint(0, 5)):
        dropped = asyncio.create_task(listen())
        for _ in range(chance.randint(0, 60)):
            await asyncio.sleep(0)
        dropped.cancel()
        with suppress(asyncio.CancelledError):
            await dropped
    # The last one stays: where a change had gone unheard, it would wait for ever.
    await asyncio.wait_for(listen(), PATIENCE)
    await writing
    assert read == list(range(1, sum(batches) + 1))
    await asyncio.wait_for(all_gone(), PATIENCE)


def watchers() -> list[Any]:
    """Return the tasks that look at the file."""
    return [task for task in asyncio.all_tasks() if task.get_name() == WATCHING]


async def all_gone() -> None:
    """Wait until nobody looks at the file."""
    while remaining := watchers():
        await asyncio.wait(remaining)


async def watch_looks(database: Database) -> list[str]:
    """Collect the looks at the file from now on; the database has one reader."""
    looks: list[str] = []

    def note(statement: str) -> None:
        if "data_version" in statement:
            looks.append(statement)

    def listen(connection: Any) -> None:
        connection.connection.driver_connection.set_trace_callback(note)

    await database.read(listen)
    return looks


async def in_autocommit(database: Database, work: Callable[[Any], Any]) -> Any:
    """Run a statement that may stand in no transaction, on the reader's thread."""

    def unit(connection: Any) -> Any:
        connection.connection.driver_connection.execute("ROLLBACK")
        return work(connection)

    return await database.read(unit)
