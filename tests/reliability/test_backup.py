"""Backup and restore: taken while others write, whole, private; put back without losing what was there.

All in one process, so all with one SQLite library: two libraries in one process undo each other's locks. A file with a
rollback journal is made by the library that keeps one, and then used by the same as all others.
"""

import asyncio
import random
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chat_service import appends, upkeep
from chat_service.service import ChatService
from chat_service.work import Work
from models.database import Database
from models.errors import ChatError, Conflict, NotFound, Unavailable
from models.ids import SessionId, UserId
from tests.conftest import url_of
from tests.reliability.scale import JOURNALS, figure, library_for, make_ready, patient, scale, seed
from tests.support import finish, new_session, new_user, run_python, said, start_python

pytestmark = patient

WRITERS = 4


class Record:
    """A database with one session, to be told apart from others by what its messages say."""

    def __init__(self, path: Path, journal: str, content: str, entries: int = 30) -> None:
        self.path = path
        self.url = url_of(path)
        self.content = content
        self.entries = entries
        make_ready(journal, path)
        asyncio.run(self._fill(journal))

    async def _fill(self, journal: str) -> None:
        async with Database(self.url, library=library_for(journal)) as database:
            service = ChatService(database)
            self.user_id = await new_user(service)
            self.session_id = await new_session(service, self.user_id)
            batch = [said(f"{self.content} {number}") for number in range(self.entries)]
            await service.add_messages(self.user_id, self.session_id, batch)
            assert (await database.health())["journal_mode"] == journal

    def read(self, path: Path | None = None) -> list[str]:
        """Read what the messages say: here, or in another file that should hold the same."""

        async def main() -> list[str]:
            async with Database(url_of(path or self.path)) as database:
                return await contents(ChatService(database), self.user_id, self.session_id)

        return asyncio.run(main())

    @property
    def all(self) -> list[str]:
        return [f"{self.content} {number}" for number in range(self.entries)]


async def contents(service: ChatService, user_id: UserId, session_id: SessionId) -> list[str]:
    """Read what all messages of a session say; fails where they are not dense."""
    found: list[str] = []
    while True:
        page = await service.get_session_history(user_id, session_id, limit=500, after_seq=len(found))
        found += [entry["content"] for entry in page["entries"] if "message_type" in entry]
        assert page["after_seq"] == len(found)
        if not page["newer"]:
            return found


def nothing(done: int, total: int) -> None:
    """Show no progress."""


def backup(record: Record, target: Path) -> Path:
    asyncio.run(upkeep.backup(record.url, target, nothing))
    return target


def restore(record: Record, source: Path, *, replace: bool) -> Path | None:
    return asyncio.run(upkeep.restore(record.url, source, nothing, replace=replace))


def names(folder: Path) -> set[str]:
    """Return the files of a folder, the lock files aside: those stay."""
    return {file.name for file in folder.iterdir() if not file.name.endswith(".lock")}


@contextmanager
def held(url: str) -> Iterator[None]:
    """Let another process have the database open."""
    process = start_python(HOLD, url)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        finish([process])


HOLD = """
import asyncio, sys
from models.database import Database

async def main():
    async with Database(sys.argv[1]):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


# Backup


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_backup_under_load_is_whole_private_and_has_all_that_was_acknowledged_before(
    tmp_path: Path, journal: str
) -> None:
    record = Record(tmp_path / "chat.db", journal, "first", entries=400)
    folder = tmp_path / "backups"
    seen = {"backups": 0, "appends meanwhile": 0, "lost": 0}

    async def main() -> None:
        async with Database(record.url) as database:
            service = ChatService(database)
            acknowledged: dict[int, str] = {}
            stop = asyncio.Event()

            async def write(writer: int) -> None:
                number = 0
                while not stop.is_set():
                    content = f"writer {writer} number {number} {'x' * 500}"
                    stored = await service.add_message(record.user_id, record.session_id, said(content))
                    acknowledged[stored["seq"]] = content
                    number += 1

            writers = [asyncio.create_task(write(writer)) for writer in range(WRITERS)]
            for number in range(scale(5, 50)):
                while len(acknowledged) < (number + 1) * 20:
                    await service.get_session(record.user_id, record.session_id)
                before = dict(acknowledged)
                target = folder / f"backup{number}.db"
                await upkeep.backup(record.url, target, nothing)
                seen["appends meanwhile"] += len(acknowledged) - len(before)
                seen["backups"] += 1
                report = await upkeep.check(url_of(target))
                assert (report["integrity"], report["mode"]) == ("ok", "-rw-------")
                async with Database(url_of(target), readers=1) as copy:
                    stored = await contents(ChatService(copy), record.user_id, record.session_id)
                assert {seq: stored[seq - 1] for seq in before} == before
                assert names(folder) == {f"backup{each}.db" for each in range(number + 1)}
            stop.set()
            await asyncio.gather(*writers)
            everything = await contents(service, record.user_id, record.session_id)
            assert {seq: everything[seq - 1] for seq in acknowledged} == acknowledged

    asyncio.run(main())
    figure("backups under load", seen, journal)


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_backup_shows_its_progress_to_the_end(tmp_path: Path, journal: str) -> None:
    record = Record(tmp_path / "chat.db", journal, "first")
    shown: list[tuple[int, int]] = []
    asyncio.run(upkeep.backup(record.url, tmp_path / "backup.db", lambda done, total: shown.append((done, total))))
    assert shown
    assert shown[-1][0] == shown[-1][1] > 0


def test_a_backup_that_is_broken_off_leaves_no_copy_behind(tmp_path: Path) -> None:
    class BrokenOffError(Exception):
        pass

    def break_off(done: int, total: int) -> None:
        raise BrokenOffError

    record = Record(tmp_path / "chat.db", JOURNALS[0], "first")
    with pytest.raises(BrokenOffError):
        asyncio.run(upkeep.backup(record.url, tmp_path / "backup.db", break_off))
    assert names(tmp_path) == {"chat.db"}


def test_a_backup_takes_no_name_that_is_taken_and_none_of_nothing(tmp_path: Path) -> None:
    record = Record(tmp_path / "chat.db", JOURNALS[0], "first")
    taken = tmp_path / "taken.db"
    taken.write_text("mine")
    with pytest.raises(Conflict, match="exists already"):
        backup(record, taken)
    assert taken.read_text() == "mine"
    with pytest.raises(NotFound, match="no database yet"):
        asyncio.run(upkeep.backup(url_of(tmp_path / "none.db"), tmp_path / "backup.db", nothing))
    assert names(tmp_path) == {"chat.db", "taken.db"}


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_damaged_database_gives_no_backup(tmp_path: Path, journal: str) -> None:
    record = Record(tmp_path / "chat.db", journal, "first", entries=400)
    damage(record.path)
    before = record.path.read_bytes()
    with pytest.raises(Unavailable):
        backup(record, tmp_path / "backup.db")
    assert names(tmp_path) == {"chat.db"}
    assert record.path.read_bytes() == before


@pytest.mark.parametrize("journal", JOURNALS)
def test_looking_at_a_database_that_is_written_lets_go_of_none_of_its_locks(tmp_path: Path, journal: str) -> None:
    """The system forgets all of a process's locks on a file when the process closes any descriptor of it."""
    record = Record(tmp_path / "chat.db", journal, "first")

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        begun, let_go = asyncio.Event(), threading.Event()

        def write(work: Work) -> None:
            appends.add(work, record.user_id, record.session_id, [said("first 30")])
            loop.call_soon_threadsafe(begun.set)
            assert let_go.wait(60)

        async with Database(record.url) as database:
            writing = asyncio.create_task(ChatService(database).transaction(write))
            await begun.wait()
            found = []
            try:
                found.append(await asyncio.to_thread(run_python, TAKE_THE_LOCK, record.path))
                await upkeep.check(record.url)
                found.append(await asyncio.to_thread(run_python, TAKE_THE_LOCK, record.path))
                async with Database(record.url, readers=1):
                    found.append(await asyncio.to_thread(run_python, TAKE_THE_LOCK, record.path))
            finally:
                let_go.set()
            await writing
        return found

    assert asyncio.run(main()) == ["locked"] * 3
    assert record.read() == [*record.all, "first 30"]


TAKE_THE_LOCK = """
import sys
from models.sqlite import choose_library
library = choose_library()
raw = library.connect(sys.argv[1], isolation_level=None, timeout=0)
try:
    raw.execute("BEGIN IMMEDIATE")
    print("taken")
except library.OperationalError:
    print("locked")
finally:
    raw.close()
"""


# Restore


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_backup_is_restored_into_an_empty_place(tmp_path: Path, journal: str) -> None:
    record = Record(tmp_path / "chat.db", journal, "first")
    copy = backup(record, tmp_path / "backup.db")
    place = tmp_path / "new" / "chat.db"
    assert asyncio.run(upkeep.restore(url_of(place), copy, nothing, replace=False)) is None
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert record.read(place) == record.all
    assert names(place.parent) == {"chat.db"}
    assert record.read(copy) == record.all


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_backup_is_restored_over_a_database_only_when_told_and_what_was_there_is_kept(
    tmp_path: Path, journal: str
) -> None:
    old = Record(tmp_path / "old.db", journal, "old")
    copy = backup(old, tmp_path / "backup.db")
    now = Record(tmp_path / "chat.db", journal, "now", entries=77)
    with pytest.raises(Conflict, match="--replace"):
        restore(now, copy, replace=False)
    assert now.read() == now.all
    kept = restore(now, copy, replace=True)
    assert kept is not None
    assert kept.parent == tmp_path
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert old.read(now.path) == old.all
    assert now.read(kept) == now.all
    assert stat.S_IMODE(now.path.stat().st_mode) == 0o600
    assert names(tmp_path) == {"old.db", "backup.db", "chat.db", kept.name}


@pytest.mark.skipif("wal" not in JOURNALS, reason="no library here is safe for WAL")
def test_a_database_in_wal_mode_is_not_restored_while_another_process_holds_it(tmp_path: Path) -> None:
    old = Record(tmp_path / "old.db", "wal", "old")
    copy = backup(old, tmp_path / "backup.db")
    now = Record(tmp_path / "chat.db", "wal", "now")
    with held(now.url), pytest.raises(Unavailable, match="Another process uses the database"):
        restore(now, copy, replace=True)
    assert now.read() == now.all
    assert names(tmp_path) == {"old.db", "backup.db", "chat.db"}
    assert restore(now, copy, replace=True) is not None
    assert old.read(now.path) == old.all


def test_a_database_in_wal_mode_is_not_restored_while_this_process_holds_it(tmp_path: Path) -> None:
    old = Record(tmp_path / "old.db", JOURNALS[0], "old")
    copy = backup(old, tmp_path / "backup.db")
    now = Record(tmp_path / "chat.db", JOURNALS[0], "now")

    async def main() -> None:
        async with Database(now.url) as database:
            service = ChatService(database)
            if JOURNALS[0] == "wal":
                with pytest.raises(Unavailable, match="Another process uses the database"):
                    await upkeep.restore(now.url, copy, nothing, replace=True)
                await service.add_message(now.user_id, now.session_id, said("after"))

    asyncio.run(main())
    assert now.read()[: now.entries] == now.all


def test_a_database_with_a_rollback_journal_is_restored_under_an_idle_one_which_goes_on_with_it(
    tmp_path: Path,
) -> None:
    old = Record(tmp_path / "old.db", "delete", "old")
    copy = backup(old, tmp_path / "backup.db")
    now = Record(tmp_path / "chat.db", "delete", "now")

    async def main() -> None:
        async with Database(now.url) as database:
            service = ChatService(database)
            assert await contents(service, now.user_id, now.session_id) == now.all
            kept = await upkeep.restore(now.url, copy, nothing, replace=True)
            assert kept is not None
            assert await contents(service, old.user_id, old.session_id) == old.all
            with pytest.raises(NotFound):
                await service.get_session(now.user_id, now.session_id)
            await service.add_message(old.user_id, old.session_id, said("after"))

    asyncio.run(main())
    assert old.read(now.path) == [*old.all, "after"]


def damage(path: Path) -> None:
    """Overwrite most of the file, past the header and the schema's first page."""
    chance = random.Random(seed())  # noqa: S311 - repeats a run, guards nothing
    with path.open("r+b") as file:
        file.seek(4_096)
        file.write(chance.randbytes(path.stat().st_size - 4_096))


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def write_text(path: Path) -> None:
    path.write_text("These are my notes, and not a database.\n" * 200)


def write_another_programs(path: Path) -> None:
    path.unlink()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE notes (body TEXT)")
    other.commit()
    other.close()


@pytest.mark.parametrize("spoil", [damage, cut, empty, write_text, write_another_programs])
@pytest.mark.parametrize("exists", [True, False], ids=["over a database", "into an empty place"])
def test_what_is_no_sound_backup_of_ours_is_refused_and_nothing_changes(
    tmp_path: Path, spoil: object, exists: bool
) -> None:
    journal = JOURNALS[0]
    copy = backup(Record(tmp_path / "old.db", journal, "old", entries=400), tmp_path / "backup.db")
    now = Record(tmp_path / "chat.db", journal, "now")
    assert callable(spoil)
    spoil(copy)
    spoiled = copy.read_bytes()
    before = names(tmp_path)
    place = now.url if exists else url_of(tmp_path / "empty" / "chat.db")
    with pytest.raises(Unavailable) as refused:
        asyncio.run(upkeep.restore(place, copy, nothing, replace=True))
    assert str(refused.value).endswith(".")
    assert names(tmp_path) == before
    assert copy.read_bytes() == spoiled
    assert now.read() == now.all


def test_a_backup_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    now = Record(tmp_path / "chat.db", JOURNALS[0], "now")
    with pytest.raises(NotFound, match="no such backup"):
        restore(now, tmp_path / "none.db", replace=True)
    with pytest.raises(NotFound, match="The backup is a folder"):
        restore(now, tmp_path, replace=True)
    assert now.read() == now.all


@pytest.mark.parametrize("journal", JOURNALS)
@pytest.mark.parametrize("spoil", [damage, cut, write_text])
def test_a_damaged_database_is_moved_aside_when_a_backup_takes_its_place(
    tmp_path: Path, journal: str, spoil: object
) -> None:
    now = Record(tmp_path / "chat.db", journal, "now", entries=400)
    copy = backup(now, tmp_path / "backup.db")
    assert callable(spoil)
    spoil(now.path)
    spoiled = now.path.read_bytes()
    log = now.path.with_name("chat.db-wal")
    log.write_bytes(b"what a crash left")
    kept = restore(now, copy, replace=True)
    assert kept is not None
    assert kept.read_bytes() == spoiled
    assert now.read() == now.all
    assert names(tmp_path) >= {"chat.db", "backup.db", kept.name}


def test_a_restore_over_another_programs_file_keeps_it(tmp_path: Path) -> None:
    """It is not ours to overwrite: either it is refused, or it is kept aside byte for byte."""
    now = Record(tmp_path / "chat.db", JOURNALS[0], "now")
    copy = backup(now, tmp_path / "backup.db")
    write_another_programs(now.path)
    theirs = now.path.read_bytes()
    try:
        kept = restore(now, copy, replace=True)
    except ChatError:
        kept = now.path
    assert kept is not None
    assert kept.read_bytes() == theirs
