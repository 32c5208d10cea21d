"""The Database: units of work are whole or not at all, whatever becomes of their callers, neighbours and disk."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, insert, select, text
from sqlalchemy.exc import IntegrityError

from chat_service.service import ChatService
from models.database import Database
from models.errors import Conflict, Unavailable
from models.ids import new_id, utc_now
from models.sqlite import choose_library
from models.tables import users
from tests.conftest import url_of
from tests.reliability.scale import JOURNALS, library_for, make_ready
from tests.support import (
    SECONDS,
    Gate,
    count_rows,
    finish,
    held,
    last_seq,
    new_session,
    new_user,
    said,
    start_python,
    watch_commits,
)

pytestmark = pytest.mark.anyio

LONG_QUERY = text(
    "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1000000000) "
    "SELECT count(*) FROM numbers"
)
LONG_INSERT = text(
    "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1000000000) "
    "INSERT INTO users (id, username, created_at, last_seen_at) SELECT randomblob(16), 'user ' || n, 0, 0 FROM numbers"
)


def adding(username: str) -> Callable[[Connection], str]:
    """Make a unit that stores a user and returns the name."""

    def add(connection: Connection) -> str:
        seen = {"created_at": utc_now(), "last_seen_at": utc_now()}
        connection.execute(insert(users), {"id": new_id(), "username": username} | seen)
        return username

    return add


def count_users(connection: Connection) -> int:
    return int(connection.execute(select(func.count()).select_from(users)).scalar_one())


def fail(connection: Connection) -> None:
    adding("never")(connection)
    raise Conflict("no")


# Groups


async def test_units_that_wait_together_are_committed_together(database: Database) -> None:
    commits = await watch_commits(database)
    gate = Gate(adding("first"))
    first = await held(database, gate)
    writes = [asyncio.create_task(database.write(adding(f"user {number}"))) for number in range(100)]
    gate.open_after_what_waits()
    assert await asyncio.gather(first, *writes) == ["first", *(f"user {number}" for number in range(100))]
    assert len(commits) == 2
    assert await count_rows(database, users) == 101


async def test_many_concurrent_writes_take_fewer_commits_than_units(database: Database) -> None:
    commits = await watch_commits(database)
    await asyncio.gather(*(database.write(adding(f"user {number}")) for number in range(300)))
    assert await count_rows(database, users) == 300
    assert 1 <= len(commits) <= 3


async def test_a_failing_unit_costs_its_neighbours_nothing(database: Database) -> None:
    commits = await watch_commits(database)
    gate = Gate()
    first = await held(database, gate)
    units = [fail if number % 3 == 1 else adding(f"user {number}") for number in range(30)]
    writes = [asyncio.create_task(database.write(unit)) for unit in units]
    gate.open_after_what_waits()
    answers = await asyncio.gather(*writes, return_exceptions=True)
    assert await first == 0
    for number, answer in enumerate(answers):
        assert isinstance(answer, Conflict) if number % 3 == 1 else answer == f"user {number}"
    assert await count_rows(database, users) == 20
    assert len(commits) == 2


async def test_a_failing_statement_costs_its_neighbours_nothing(database: Database) -> None:
    units = [adding("a"), adding("a"), adding("b"), lambda connection: connection.execute(text("no sql")), adding("c")]
    answers = await asyncio.gather(*(database.write(unit) for unit in units), return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, str)] == ["a", "b", "c"]
    assert await count_rows(database, users) == 3


def adding_together(connection: Connection, usernames: Sequence[str]) -> list[str | Conflict]:
    """Store users for several callers, but for those named "refused"; a name twice is the database's error."""
    return [Conflict("no") if name == "refused" else adding(name)(connection) for name in usernames]


async def test_what_several_give_a_unit_is_done_in_one_call_and_each_hears_what_came_of_it(database: Database) -> None:
    commits = await watch_commits(database)
    calls: list[list[str]] = []
    told: list[str] = []

    def unit(connection: Connection, usernames: Sequence[str]) -> list[str | Conflict]:
        calls.append([*usernames])
        return adding_together(connection, usernames)

    given = ["a", "b", "refused", "c"]
    first = await held(database, gate := Gate())
    writes = [asyncio.create_task(database.write_together(unit, name, told.append)) for name in given]
    between = asyncio.create_task(database.write(adding("alone")))
    later = asyncio.create_task(database.write_together(unit, "d", told.append))
    gate.open_after_what_waits()
    answers = await asyncio.gather(*writes, between, later, return_exceptions=True)
    assert await first == 0
    assert [answer if isinstance(answer, str) else type(answer) for answer in answers] == [
        *("a", "b", Conflict, "c", "alone", "d"),
    ]
    assert calls == [given, ["d"]]
    assert told == ["a", "b", "c", "d"]
    assert len(commits) == 2
    assert await count_rows(database, users) == 5


async def test_where_a_unit_fails_for_several_each_is_done_by_itself(database: Database) -> None:
    told: list[str] = []
    given = ["a", "b", "b", "refused", "c"]
    first = await held(database, gate := Gate())
    writes = [asyncio.create_task(database.write_together(adding_together, name, told.append)) for name in given]
    gate.open_after_what_waits()
    answers = await asyncio.gather(*writes, return_exceptions=True)
    assert await first == 0
    assert [answer if isinstance(answer, str) else type(answer) for answer in answers] == [
        *("a", "b", Unavailable, Conflict, "c"),
    ]
    assert told == ["a", "b", "c"]
    assert await count_rows(database, users) == 3


async def test_what_waited_too_long_is_refused_and_costs_its_neighbours_nothing(database_url: str) -> None:
    async with Database(database_url, deadline=1.0) as database:
        first = await held(database, gate := Gate())
        late = asyncio.create_task(database.write_together(adding_together, "late"))
        await asyncio.wait([late], timeout=1.1)
        fresh = asyncio.create_task(database.write_together(adding_together, "fresh"))
        gate.open_after_what_waits()
        answers = await asyncio.gather(late, fresh, return_exceptions=True)
        assert await first == 0
        assert isinstance(answers[0], Unavailable)
        assert answers[1] == "fresh"
        assert await count_rows(database, users) == 1


async def test_a_group_in_which_every_unit_fails_stores_nothing(database: Database) -> None:
    answers = await asyncio.gather(*(database.write(fail) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(answer, Conflict) for answer in answers)
    assert await count_rows(database, users) == 0
    assert await database.write(adding("next")) == "next"


async def test_each_unit_sees_what_those_before_it_wrote(database: Database) -> None:
    def add_and_count(connection: Connection) -> int:
        adding(new_id())(connection)
        return count_users(connection)

    counts = await asyncio.gather(*(database.write(add_and_count) for _ in range(50)))
    assert counts == list(range(1, 51))


async def test_a_unit_is_answered_only_after_its_commit(database_url: str) -> None:
    async with Database(database_url) as database, Database(database_url) as other:
        await asyncio.gather(*(database.write(adding(f"user {number}")) for number in range(10)))
        assert await other.read(count_users) == 10


@pytest.mark.parametrize("error", [StopIteration(), asyncio.CancelledError(), GeneratorExit()])
async def test_whatever_a_unit_raises_its_caller_is_answered_and_the_next_unit_works(
    database: Database, error: BaseException
) -> None:
    def raise_it(connection: Connection) -> None:
        adding("never")(connection)
        raise error

    for run in (database.write, database.read):
        (answer,) = await asyncio.gather(asyncio.wait_for(run(raise_it), 5), return_exceptions=True)
        assert isinstance(answer, BaseException)
        assert not isinstance(answer, TimeoutError)
        assert await asyncio.wait_for(database.write(adding(new_id())), 5)
    assert await count_rows(database, users) == 2


async def test_what_is_told_after_a_commit_may_fail(database: Database) -> None:
    def fail_to_tell(result: str) -> None:
        raise ValueError(result)

    assert await database.write(adding("a"), fail_to_tell) == "a"
    assert await database.write(adding("b")) == "b"


async def test_what_is_to_be_told_is_told_in_order_before_the_answer_and_never_of_a_failure(
    database: Database,
) -> None:
    told: list[Any] = []
    await asyncio.gather(
        *(database.write(adding(f"user {number}"), told.append) for number in range(20)),
        database.write(fail, told.append),
        return_exceptions=True,
    )
    assert told == [f"user {number}" for number in range(20)]


# Deadlines


async def test_a_unit_past_its_deadline_stores_nothing_and_the_next_one_works(database_url: str) -> None:
    async with Database(database_url, deadline=0.5) as database:

        def add_then_dawdle(connection: Connection) -> None:
            adding("never")(connection)
            connection.execute(LONG_QUERY)

        for unit in (add_then_dawdle, lambda connection: connection.execute(LONG_INSERT)):
            with pytest.raises(Unavailable, match="took too long, so nothing was stored"):
                await database.write(unit)
        assert await database.write(adding("next")) == "next"
        assert await count_rows(database, users) == 1


async def test_a_read_past_its_deadline_is_ended_and_the_next_one_works(database_url: str) -> None:
    async with Database(database_url, readers=1, deadline=0.5) as database:
        with pytest.raises(Unavailable, match="took too long"):
            await database.read(lambda connection: connection.execute(LONG_QUERY))
        assert await database.read(count_users) == 0


@pytest.mark.parametrize("long", [LONG_QUERY, LONG_INSERT], ids=["query", "insert"])
async def test_what_waits_beside_a_unit_past_its_deadline_is_stored_or_refused_as_it_is_told(
    database_url: str, long: Any
) -> None:
    async with Database(database_url, deadline=0.5) as database:
        gate = Gate(adding("first"))
        first = await held(database, gate)
        units = [adding("a"), lambda connection: connection.execute(long), adding("b")]
        waiting = [asyncio.create_task(database.write(unit)) for unit in units]
        gate.open_after_what_waits()
        answers = await asyncio.gather(first, *waiting, return_exceptions=True)
        assert isinstance(answers[2], Unavailable)
        assert all(isinstance(answer, (str, Unavailable)) for answer in answers)
        assert await database.write(adding("last")) == "last"
        stored = await database.read(lambda connection: set(connection.execute(select(users.c.username)).scalars()))
        assert stored == {"last", *(answer for answer in answers if isinstance(answer, str))}


# Reads


async def test_a_read_is_on_one_snapshot(database_url: str) -> None:
    async with Database(database_url, readers=1) as database:
        await database.write(adding("before"))
        in_wal = (await database.health())["journal_mode"] == "wal"
        gate = Gate(count_users)
        reading = asyncio.create_task(database.read(lambda connection: (count_users(connection), gate(connection))))
        await gate.begun.wait()
        writing = asyncio.create_task(database.write(adding("meanwhile")))
        if in_wal:
            # With a rollback journal the commit waits for the reader.
            await writing
        gate.let_go.set()
        assert await reading == (1, 1)
        await writing
        assert await database.read(count_users) == 2


async def test_a_read_never_stores_anything(database: Database) -> None:
    await database.read(adding("never"))
    assert await count_rows(database, users) == 0
    assert await database.write(adding("next")) == "next"


async def test_a_failing_read_leaves_its_reader_usable(database_url: str) -> None:
    async with Database(database_url, readers=1) as database:
        with pytest.raises(Conflict):
            await database.read(fail)
        assert await database.read(count_users) == 0


async def test_reads_run_beside_one_another(database: Database) -> None:
    gates = [Gate(), Gate()]
    reading = [asyncio.create_task(database.read(gate)) for gate in gates]
    for gate in gates:
        await gate.begun.wait()
    for gate in gates:
        gate.let_go.set()
    assert await asyncio.gather(*reading) == [0, 0]


# Closing, and callers who go


async def test_closing_finishes_what_has_begun_and_refuses_what_waits(database_url: str) -> None:
    database = await Database(database_url).open()
    told: list[str] = []
    gate = Gate(adding("begun"))
    begun = asyncio.create_task(database.write(gate, told.append))
    await gate.begun.wait()
    waiting = [asyncio.create_task(database.write(adding(f"waits {number}"), told.append)) for number in range(5)]
    closing = asyncio.create_task(database.close())
    gate.open_after_what_waits()
    await closing
    assert await begun == "begun"
    for task in waiting:
        with pytest.raises(Unavailable, match="shutting down, so nothing was stored"):
            await task
    assert told == ["begun"]
    async with Database(database_url) as again:
        assert await again.read(count_users) == 1


async def test_closing_finishes_a_read_that_has_begun(database_url: str) -> None:
    database = await Database(database_url).open()
    gate = Gate()
    reading = asyncio.create_task(database.read(gate))
    await gate.begun.wait()
    closing = asyncio.create_task(database.close())
    gate.open_after_what_waits()
    await closing
    assert await reading == 0


async def test_a_closed_database_answers_unavailable_until_it_is_opened_again(database_url: str) -> None:
    database = Database(database_url)
    for _ in range(2):
        with pytest.raises(Unavailable, match="closed"):
            await database.write(adding("never"))
        with pytest.raises(Unavailable, match="closed"):
            await database.read(count_users)
        with pytest.raises(Unavailable, match="closed"):
            await database.health()
        await database.open()
        await database.write(adding(new_id()))
        await database.close()
        await database.close()


@pytest.mark.parametrize("journal", JOURNALS)
async def test_the_data_version_tells_of_every_commit_and_of_nothing_else(tmp_path: Path, journal: str) -> None:
    path = tmp_path / "chat.db"
    make_ready(journal, path)
    library = library_for(journal)
    async with Database(url_of(path), library=library) as database, Database(url_of(path), library=library) as other:
        version = await database.data_version()
        for writing in (database, other, other):
            await writing.write(adding(new_id()))
            seen, version = version, await database.data_version()
            assert version != seen
            await asyncio.gather(*(each.read(count_users) for each in (database, other) * 4))
            with pytest.raises(Conflict):
                await other.write(fail)
            assert await database.data_version() == version
    with pytest.raises(Unavailable, match="closed"):
        await database.data_version()


async def test_closing_ends_the_threads(database_url: str) -> None:
    before = threading.active_count()
    async with Database(database_url, readers=3) as database:
        await database.write(adding("a"))
        assert threading.active_count() >= before + 4
        threads = [thread for thread in threading.enumerate() if "_connection_worker_thread" in thread.name]
        assert len(threads) == 4
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()


@pytest.mark.parametrize("how", ["cancel", "wait_for", "timeout"])
async def test_a_caller_who_goes_leaves_the_unit_to_be_finished_and_told(database_url: str, how: str) -> None:
    told: list[str] = []
    async with Database(database_url) as database:
        gate = Gate(adding("begun"))
        if how == "wait_for":
            caller = asyncio.create_task(asyncio.wait_for(database.write(gate, told.append), 0.05))
        elif how == "timeout":
            caller = asyncio.create_task(_within(0.05, database.write(gate, told.append)))
        else:
            caller = asyncio.create_task(database.write(gate, told.append))
        await gate.begun.wait()
        if how == "cancel":
            caller.cancel()
        with pytest.raises((asyncio.CancelledError, TimeoutError)):
            await caller
        assert told == []
        gate.let_go.set()
    assert told == ["begun"]
    async with Database(database_url) as again:
        assert await again.read(count_users) == 1


async def test_a_reading_caller_who_goes_leaves_the_reader_usable(database_url: str) -> None:
    async with Database(database_url, readers=1) as database:
        gate = Gate()
        caller = asyncio.create_task(database.read(gate))
        await gate.begun.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        gate.let_go.set()
        assert await database.read(count_users) == 0


async def test_an_opening_that_is_cancelled_leaves_nothing_behind(new_file_url: str) -> None:
    opening = asyncio.create_task(Database(new_file_url).open())
    asyncio.get_running_loop().call_soon(opening.cancel)
    with pytest.raises(asyncio.CancelledError):
        await opening
    async with Database(new_file_url) as database:
        assert await database.write(adding("a")) == "a"


async def _within(seconds: float, answer: Any) -> Any:
    async with asyncio.timeout(seconds):
        return await answer


# Others on the same file

APPEND = """
import asyncio, json, sys
from chat_service.service import ChatService
from models.database import Database
from models.inputs import NewMessage

async def main(url, user_id, session_id, count):
    async with Database(url) as database:
        service = ChatService(database)
        print("ready", flush=True)
        sys.stdin.readline()
        async def append(number):
            return (await service.add_message(user_id, session_id, NewMessage(role="user", content="hello")))["seq"]
        print(json.dumps(await asyncio.gather(*(append(number) for number in range(int(count))))))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_two_databases_on_one_file_append_without_gaps(database_url: str) -> None:
    async with Database(database_url) as one, Database(database_url) as other:
        services = ChatService(one), ChatService(other)
        user_id = await new_user(services[0])
        session_id = await new_session(services[1], user_id)

        async def append(service: ChatService) -> list[int]:
            return [(await service.add_message(user_id, session_id, said()))["seq"] for _ in range(60)]

        seqs = await asyncio.gather(*(append(service) for service in services for _ in range(2)))
        assert all(seq == sorted(seq) for seq in seqs)
        assert sorted(seq for some in seqs for seq in some) == list(range(1, 241))
        assert await last_seq(services[0], user_id, session_id) == 240


async def test_processes_on_one_file_append_without_gaps(database_url: str) -> None:
    async with Database(database_url) as database:
        service = ChatService(database)
        user_id = await new_user(service)
        session_id = await new_session(service, user_id)
    processes = [start_python(APPEND, database_url, user_id, session_id, 150) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
    # finish() ends their input, for which all of them wait.
    seqs = [seq for printed in await asyncio.to_thread(finish, processes) for seq in json.loads(printed)]
    assert sorted(seqs) == list(range(1, 451))


async def test_a_write_lock_that_is_let_go_in_time_only_delays(database: Database) -> None:
    lock = lock_of(database.path)
    writing = asyncio.create_task(database.write(adding("late")))
    # The writer has tried in vain by the time that a reader has answered.
    for _ in range(20):
        assert await database.read(count_users) == 0
    assert not writing.done()
    lock.close()
    assert await writing == "late"


async def test_a_write_lock_that_is_kept_past_the_deadline_is_unavailable(database_url: str) -> None:
    async with Database(database_url, deadline=0.2) as database:
        lock = lock_of(database.path)
        answers = await asyncio.gather(
            *(database.write(adding(f"never {number}")) for number in range(3)), return_exceptions=True
        )
        lock.close()
        assert [type(answer) for answer in answers] == [Unavailable] * 3
        assert "locked, so nothing was stored" in str(answers[0])
        assert await database.read(count_users) == 0
    async with Database(database_url) as again:
        assert await again.write(adding("next")) == "next"


async def test_closing_does_not_wait_for_a_lock_that_another_program_keeps(database_url: str) -> None:
    database = await Database(database_url).open()
    lock = lock_of(database.path)
    writing = asyncio.create_task(database.write(adding("waits")))
    for _ in range(20):
        await database.read(count_users)
    try:
        # Far less than the deadline of the unit.
        await asyncio.wait_for(database.close(), 5)
        with pytest.raises(Unavailable):
            await writing
    finally:
        lock.close()
        await database.close()
        await asyncio.gather(writing, return_exceptions=True)


def lock_of(path: Path) -> Any:
    """Take the write lock in a connection of our own, of the same library: two libraries undo each other's locks."""
    lock = choose_library().connect(path, isolation_level=None, check_same_thread=False)
    lock.execute("BEGIN IMMEDIATE")
    return lock


async def test_a_unit_that_catches_a_rollback_of_the_whole_transaction_is_not_acknowledged(database: Database) -> None:
    told: list[str] = []

    def swallow(connection: Connection) -> str:
        adding("first")(connection)
        with contextlib.suppress(IntegrityError):
            connection.exec_driver_sql("INSERT OR ROLLBACK INTO users SELECT * FROM users")
        return "stored"

    with pytest.raises(Unavailable):
        await database.write(swallow, told.append)
    assert told == []
    assert await database.read(count_users) == 0
    assert await database.write(adding("next")) == "next"


# A full disk


def limit_pages(pages: int) -> Callable[[Connection], int]:
    return lambda connection: int(connection.execute(text(f"PRAGMA max_page_count={pages}")).scalar_one())


def add_much(connection: Connection) -> str:
    for number in range(400):
        connection.execute(
            insert(users),
            {"id": new_id(), "username": f"{number} {'x' * 4000}", "created_at": utc_now(), "last_seen_at": utc_now()},
        )
    return "much"


async def test_a_full_disk_refuses_stores_nothing_half_and_writes_resume(database: Database) -> None:
    await database.write(adding("before"))
    pages = await database.write(lambda connection: connection.execute(text("PRAGMA page_count")).scalar_one())
    assert await database.write(limit_pages(pages + 20)) == pages + 20
    for _ in range(2):
        with pytest.raises(Unavailable, match="The disk is full, so nothing was stored"):
            await database.write(add_much)
        assert await count_rows(database, users) == 1
    assert await database.write(adding("small")) == "small"
    await database.write(limit_pages(100_000))
    assert await database.write(add_much) == "much"
    assert await count_rows(database, users) == 402
    integrity = await database.read(
        lambda connection: connection.execute(text("PRAGMA integrity_check")).scalars().all()
    )
    assert integrity == ["ok"]


async def test_a_unit_that_fills_the_disk_costs_its_group_nothing(database: Database) -> None:
    told: list[str] = []
    pages = await database.write(lambda connection: connection.execute(text("PRAGMA page_count")).scalar_one())
    await database.write(limit_pages(pages + 20))
    units = [adding("a"), adding("b"), add_much, adding("c"), fail, adding("d")]
    answers = await asyncio.gather(*(database.write(unit, told.append) for unit in units), return_exceptions=True)
    assert [answer if isinstance(answer, str) else type(answer) for answer in answers] == [
        "a",
        "b",
        Unavailable,
        "c",
        Conflict,
        "d",
    ]
    assert told == ["a", "b", "c", "d"]
    assert await count_rows(database, users) == 4
