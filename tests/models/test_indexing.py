"""Indexing: entries are indexed after their commit, each once, and a search finds them from that commit on."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import Connection

from chat_service.service import ChatService
from models import full_text
from models.database import Database
from models.ids import SessionId, UserId
from models.indexing import index_some, read_progress
from models.sqlite import choose_library
from models.sqlite_file import path_from_url
from tests.support import (
    SECONDS,
    done,
    fill_long,
    new_session,
    new_user,
    said,
    start_python,
    watch_statements,
)

pytestmark = pytest.mark.anyio

INDEXES = {"messages": "message_search", "tool_usages": "tool_usage_search"}
_WORDS = "SELECT term, doc, col, offset FROM temp.words ORDER BY term, doc, col, offset"


def words_in(raw: Any, index: str) -> list[tuple[Any, ...]]:
    """Return every word of an index, and where it stands."""
    raw.execute(f"CREATE VIRTUAL TABLE temp.words USING fts5vocab('main', '{index}', 'instance')")
    try:
        return [tuple(row) for row in raw.execute(_WORDS).fetchall()]
    finally:
        raw.execute("DROP TABLE temp.words")


def words_of_everything(raw: Any, entries: str) -> list[tuple[Any, ...]]:
    """Return the words that the index of these entries should have, from an index that is made of them all at once."""
    index = INDEXES[entries]
    raw.execute("SAVEPOINT anew")
    try:
        raw.execute(f"INSERT INTO {index}({index}) VALUES ('delete-all')")  # noqa: S608
        raw.execute(full_text.add_statements()[entries], (0, 2**62))
        return words_in(raw, index)
    finally:
        raw.execute("ROLLBACK TO anew")
        raw.execute("RELEASE anew")


def check_words(connection: Connection) -> None:
    """Fail unless both indexes hold the words of all entries that are up to their progress, and no others."""
    raw: Any = connection.connection.dbapi_connection
    for entries, index in INDEXES.items():
        assert words_in(raw, index) == words_of_everything(raw, entries)


async def test_an_append_writes_nothing_to_the_index(database: Database, service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    before = await database.read(_blocks)
    await service.add_message(user_id, session_id, said("an orchid"))
    await service.add_tool_usage(user_id, session_id, done("dig"))
    assert await database.read(_blocks) == before
    assert not (await database.read(read_progress)).is_complete
    assert [hit["seq"] for hit in (await service.search_history(user_id, "orchid"))["hits"]] == [1]
    assert (await database.read(read_progress)).is_complete
    assert await database.read(_blocks) > before


async def test_a_search_that_has_nothing_to_index_writes_nothing(database_url: str) -> None:
    async with Database(database_url, readers=1) as database:
        service = ChatService(database)
        user_id = await new_user(service)
        session_id = await new_session(service, user_id)
        await service.add_message(user_id, session_id, said("an orchid"))
        await service.search_history(user_id, "orchid")
        statements = await watch_statements(database)
        assert (await service.search_history(user_id, "orchid"))["is_complete"]
        assert not [each for each in statements if "INSERT" in each or "IMMEDIATE" in each]


async def test_what_was_written_is_indexed_in_the_quiet_after_it(
    database: Database, service: ChatService, user_id: UserId
) -> None:
    assert await burst(database, service, user_id, "an orchid", 1_500) == 1_500
    while await database.read(_entries_behind):
        pass
    await database.write(check_words)


async def test_in_a_burst_that_is_long_the_writer_indexes_too(
    database: Database, service: ChatService, user_id: UserId
) -> None:
    # Twenty megabytes: a search would wait for seconds.
    assert 0 < await burst(database, service, user_id, "orchid " * 700, 4_000) < 4_000
    assert len((await service.search_history(user_id, "orchid", limit=100))["hits"]) == 100
    assert await database.read(_entries_behind) == 0


async def test_whoever_writes_while_much_is_indexed_waits_for_a_slice_or_two(
    database: Database, service: ChatService, user_id: UserId
) -> None:
    session_id = await begin_to_index_much(database, service, user_id)
    await service.add_message(user_id, session_id, said("orchid"))
    assert await database.read(_entries_behind) > 0
    while await database.read(_entries_behind):
        pass


async def test_closing_does_not_wait_until_much_is_indexed(database_url: str) -> None:
    async with Database(database_url) as database:
        service = ChatService(database)
        await begin_to_index_much(database, service, await new_user(service))
    async with Database(database_url) as database:
        assert await database.read(_entries_behind) > 0
        assert await database.index()
        await database.write(check_words)


async def test_what_another_process_keeps_locked_in_the_quiet_is_indexed_after_it(database_url: str) -> None:
    path = path_from_url(database_url)
    with closing(choose_library().connect(str(path), isolation_level=None, check_same_thread=False)) as other:
        # Where readers are refused too, so that not even how far the index is can be seen.
        other.execute("PRAGMA journal_mode=delete")
        async with Database(database_url) as database:
            service = ChatService(database)
            user_id = await new_user(service)
            session_id = await new_session(service, user_id)
            await service.add_messages(user_id, session_id, [said("orchid")] * 500)
            tries = await _watch_tries(database)
            await service.add_messages(user_id, session_id, [said("orchid")] * 500)
            other.execute("BEGIN EXCLUSIVE")
            for _ in range(2):
                assert await asyncio.to_thread(tries.acquire, timeout=SECONDS)
            other.execute("ROLLBACK")
            while await database.read(_entries_behind):
                pass
            await database.write(check_words)


async def test_another_process_that_writes_while_much_is_indexed_waits_for_few_slices(
    database: Database, service: ChatService, user_id: UserId
) -> None:
    with start_python(_WRITE_AND_TELL, f"sqlite+aiosqlite:///{database.path}") as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        await begin_to_index_much(database, service, user_id, "orchid lily " * 30)
        other.stdin.close()
        # All that it writes together; a slice has 500 entries.
        assert int(await asyncio.to_thread(other.stdout.readline)) <= 2_500


async def test_entries_that_cannot_be_indexed_do_not_make_a_writer_believe_that_they_are(
    database: Database, service: ChatService, user_id: UserId
) -> None:
    await fill_long(database, await new_session(service, user_id), 1)
    with closing(choose_library().connect(str(database.path), isolation_level=None)) as raw:
        # No text, of which no words can be made.
        raw.execute(_MESSAGE, (1, 3, b"orchid"))
        assert await burst(database, service, user_id, "orchid " * 700, 3_000) >= 3_000
        full_text.register(raw)
        raw.execute("DELETE FROM messages WHERE seq = 3 AND session_key = 1")
    # As much waits as before, so the writer indexes in this burst too, short as it is.
    assert await burst(database, service, user_id, "orchid", 3_100) < 6_000


async def begin_to_index_much(
    database: Database, service: ChatService, user_id: UserId, text: str = "orchid"
) -> SessionId:
    """Return a session that can be written to, where slices are being indexed of more than twenty thousand entries."""
    await fill_long(database, await new_session(service, user_id), 1)
    # Past the writer, as by another process that was killed.
    with closing(choose_library().connect(str(database.path))) as raw, raw:
        raw.executemany(_MESSAGE, [(1, seq, text) for seq in range(3, 20_003)])
    session_id = await new_session(service, user_id)
    for _ in range(2):
        await service.add_messages(user_id, session_id, [said("orchid")] * 500)
    while await database.read(_entries_behind) > 20_000:
        pass
    return session_id


async def burst(database: Database, service: ChatService, user_id: UserId, text: str, count: int) -> int:
    """Append so many messages while the event loop hears nothing, and return how many are not indexed at the end."""
    session_id = await new_session(service, user_id)
    appended = [asyncio.ensure_future(service.add_message(user_id, session_id, said(text))) for _ in range(count)]
    await asyncio.sleep(0)
    with closing(choose_library().connect(str(database.path))) as raw:
        while raw.execute("SELECT max(last_seq) FROM chat_sessions").fetchone() != (count,):
            pass
        (behind,) = raw.execute(_BEHIND).fetchone()
    await asyncio.gather(*appended)
    return int(behind)


async def test_many_long_entries_are_indexed_in_slices(
    database: Database, service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_messages(user_id, session_id, [said("orchid " * 40_000)] * 5)
    slices = 0
    while not (await database.write(index_some)).is_last:
        slices += 1
    assert slices >= 2
    assert len((await service.search_history(user_id, "orchid"))["hits"]) == 5


async def test_a_key_that_is_given_again_is_indexed_again(
    database: Database, service: ChatService, user_id: UserId
) -> None:
    kept, gone = await new_session(service, user_id), await new_session(service, user_id)
    await service.add_message(user_id, kept, said("kept"))
    await service.add_messages(user_id, gone, [said("gone")] * 3)
    await database.index()
    await service.add_message(user_id, gone, said("gone too, and not indexed"))
    await service.delete_session(user_id, gone)
    await service.finish_deletions()
    await service.add_message(user_id, kept, said("orchid"))
    assert [hit["seq"] for hit in (await service.search_history(user_id, "orchid"))["hits"]] == [2]
    assert (await service.search_history(user_id, "gone"))["hits"] == []
    await database.write(check_words)


KINDS = ("append", "append", "call", "call", "delete", "delete", "delete newest", "move", "merge", "change", "index")


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_is_done_to_entries_the_index_has_the_words_of_those_that_are_there(
    database: Database, seed: int
) -> None:
    random = Random(seed)  # noqa: S311 - a seed makes the run again
    await database.write(_three_sessions)
    for number in range(120):
        step = _Step(number, random.choice(KINDS), random.randrange(1, 12), random.randrange(1, 4))
        await database.write(step)
        if number % 12 == 11:
            assert await database.index()
            await database.write(check_words)


class _Step:
    """One thing done to the rows of entries."""

    def __init__(self, number: int, kind: str, first: int, second: int) -> None:
        self.number, self.kind, self.first, self.second = number, kind, first, second

    def __call__(self, connection: Connection) -> None:
        first, second, run = self.first, self.second, connection.exec_driver_sql
        if self.kind == "append":
            for place in range(second):
                run(_MESSAGE, (first % 3 + 1, self.number * 10 + place, f"word{self.number} getName{place}"))
        elif self.kind == "call":
            run(_CALL, (first % 3 + 1, self.number * 10, f"tool{self.number}"))
        elif self.kind == "delete":
            for entries in INDEXES:
                run(f"DELETE FROM {entries} WHERE key >= ? AND key < ?", (first, first + second))  # noqa: S608
        elif self.kind == "delete newest":
            for entries in INDEXES:
                newest = f"(SELECT max(key) FROM {entries})"  # noqa: S608
                run(f"DELETE FROM {entries} WHERE key > {newest} - ?", (second,))  # noqa: S608
        elif self.kind in ("move", "merge"):
            self._move(run)
        elif self.kind == "change":
            run("UPDATE tool_usages SET result = ? WHERE key = ?", (f'"changed {self.number}"', first))
        else:
            index_some(connection)

    def _move(self, run: Callable[..., Any]) -> None:
        under = "coalesce(indexed_in, session_key)" if self.kind == "merge" else "indexed_in"
        for entries in INDEXES:
            run(f"UPDATE {entries} SET session_key = ?, seq = seq + 1000 * ?, indexed_in = {under} "  # noqa: S608
                "WHERE session_key = ?", (self.second, self.number + 1, self.first % 3 + 1))  # fmt: skip


async def test_a_search_beside_a_lock_answers_without_the_newest_and_says_so(
    database: Database, service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_message(user_id, session_id, said("an old orchid"))
    await service.search_history(user_id, "orchid")
    await service.add_message(user_id, session_id, said("a new orchid"))
    with _locked(database.path):
        page = await service.search_history(user_id, "orchid")
    assert ([hit["seq"] for hit in page["hits"]], page["is_complete"]) == ([1], False)
    page = await service.search_history(user_id, "orchid")
    assert (sorted(hit["seq"] for hit in page["hits"]), page["is_complete"]) == ([1, 2], True)


async def test_what_a_killed_process_had_not_indexed_is_found_by_the_next(
    database_url: str, service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    with start_python(_APPEND_AND_WAIT, database_url, user_id, session_id) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "appended\n"
        killed.kill()
    hits = (await service.search_history(user_id, "orchid"))["hits"]
    assert sorted(hit["seq"] for hit in hits) == [1, 2, 3]


_APPEND_AND_WAIT = """
import asyncio, sys
from chat_service.service import ChatService
from models.database import Database
from models.inputs import NewMessage

async def main(url, user_id, session_id):
    async with Database(url) as database:
        service = ChatService(database)
        await service.add_messages(user_id, session_id, [NewMessage(role="user", content="an orchid")] * 3)
        print("appended", flush=True)
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""
_WRITE_AND_TELL = """
import asyncio, sys
from models.database import Database

BEHIND = "SELECT max(key) - (SELECT indexed_key FROM search_progress WHERE entries = 'messages') FROM messages"

def behind(connection):
    return connection.exec_driver_sql(BEHIND).scalar_one()

async def main(url):
    async with Database(url) as database:
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        waited = []
        for number in range(9):
            before = await database.read(behind)
            waited.append(before - await database.write(behind))
        print(sum(waited), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""
_MESSAGE = (
    "INSERT INTO messages (session_key, seq, kind, role, author, created_at, content)"
    " VALUES (?, ?, 'message', 'user', 'user', 0, ?)"
)
_BEHIND = (
    "SELECT count(*) FROM messages WHERE key > (SELECT indexed_key FROM search_progress WHERE entries = 'messages')"
)
_CALL = (
    "INSERT INTO tool_usages (session_key, seq, tool_name, status, origin, created_at, arguments)"
    " VALUES (?, ?, ?, 'success', 'agent', 0, '{}')"
)


async def _watch_tries(database: Database) -> threading.Semaphore:
    """Return what is released with every look of the writer at how far the index is."""
    tries = threading.Semaphore(0)

    def note(statement: str) -> None:
        if "search_progress" in statement:
            tries.release()

    def listen(connection: Connection) -> None:
        raw: Any = connection.connection.driver_connection
        raw.set_trace_callback(note)

    await database.write(listen)
    return tries


def _three_sessions(connection: Connection) -> None:
    connection.exec_driver_sql(
        "INSERT INTO users (key, id, username, created_at, last_seen_at) VALUES (1, zeroblob(16), 'ada', 0, 0)"
    )
    for key in (1, 2, 3):
        connection.exec_driver_sql(
            "INSERT INTO chat_sessions (key, id, user_key, status, last_seq, message_count, tool_usage_count,"
            " created_at) VALUES (?, ?, 1, 'active', 0, 0, 0, 0)",
            (key, bytes([key]) * 16),
        )


def _blocks(connection: Connection) -> int:
    counts = (f"(SELECT count(*) FROM {index}_data)" for index in INDEXES.values())  # noqa: S608
    return int(connection.exec_driver_sql(f"SELECT {' + '.join(counts)}").scalar_one())


def _entries_behind(connection: Connection) -> int:
    return int(connection.exec_driver_sql(_BEHIND).scalar_one())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with closing(choose_library().connect(str(path), isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        yield
