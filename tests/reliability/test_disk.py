"""Disks that fail: full, in error, read-only. Refused with a typed error, nothing half written, and on with it after.

Three ways to make a disk fail, none of them pretended: SQLite's own limit of pages (SQLITE_FULL), the system's limit of
a file's size (a write that fails, SQLITE_IOERR or SQLITE_FULL), and files and folders without the right to write.
"""

import asyncio
import ctypes
import json
import os
import random
import resource
import signal
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from chat_service.events import Event
from chat_service.service import ChatService
from models.database import Database
from models.errors import Conflict, TooLarge, Unavailable
from models.ids import SessionId, UserId
from tests.conftest import url_of
from tests.reliability.scale import JOURNALS, figure, library_for, make_ready, patient, scale, seed
from tests.support import ROOT, done, hear, last_seq, new_session, new_user, said

pytestmark = patient

APPENDS = 40
Unit = Callable[[Connection], int]


def pragma(statement: str) -> Unit:
    """Make a unit that runs a PRAGMA on the writer."""

    def run(connection: Connection) -> int:
        result = connection.execute(text(f"PRAGMA {statement}"))
        return int(result.scalar_one()) if result.returns_rows else 0

    return run


class Ledger:
    """Appends with idempotency keys, and what became of each: the seqs that were acknowledged, or the refusal."""

    def __init__(self, service: ChatService, user_id: UserId, session_id: SessionId, chance: random.Random) -> None:
        self.service = service
        self.user_id = user_id
        self.session_id = session_id
        self.chance = chance
        self.number = 0
        self.sizes: dict[int, int] = {}
        self.acknowledged: dict[int, list[int]] = {}
        self.refused: dict[int, BaseException] = {}

    def append(self, number: int) -> Coroutine[Any, Any, list[int]]:
        """Append the entries of this number: a batch of three, or a tool usage."""
        content = "x" * self.sizes.setdefault(number, self.chance.choice([10, 3_000, 30_000]))

        async def batch() -> list[int]:
            three = [said(f"{number}.{part} {content}", idempotency_key=f"{number}.{part}") for part in range(3)]
            return [one["seq"] for one in await self.service.add_messages(self.user_id, self.session_id, three)]

        async def tool_usage() -> list[int]:
            usage = done(arguments={"number": number}, result=content, idempotency_key=f"{number}")
            return [(await self.service.add_tool_usage(self.user_id, self.session_id, usage))["seq"]]

        return batch() if number % 2 else tool_usage()

    async def append_together(self, numbers: list[int]) -> None:
        """Append all of these at the same time, so that they share commits."""
        self.note(numbers, await asyncio.gather(*map(self.append, numbers), return_exceptions=True))

    def note(self, numbers: Iterable[int], answers: Iterable[Any]) -> None:
        """Write down what became of these."""
        for number, answer in zip(numbers, answers, strict=True):
            if isinstance(answer, BaseException):
                self.refused[number] = answer
            else:
                assert self.acknowledged.setdefault(number, answer) == answer
                self.refused.pop(number, None)

    async def append_new(self, count: int) -> None:
        numbers = list(range(self.number, self.number + count))
        self.number += count
        await self.append_together(numbers)

    async def repeat_refused(self) -> None:
        await self.append_together(list(self.refused))

    async def compare(self, service: ChatService) -> None:
        """Fail unless exactly what was acknowledged is stored, whole, once and without gaps."""
        stored: Counter[int] = Counter()
        seqs: list[int] = []
        while True:
            after = seqs[-1] if seqs else 0
            page = await service.get_session_history(self.user_id, self.session_id, limit=500, after_seq=after)
            for entry in page["entries"]:
                seqs.append(entry["seq"])
                number = (
                    int(entry["content"].split(".")[0]) if "message_type" in entry else entry["arguments"]["number"]
                )
                assert entry["seq"] in self.acknowledged[number]
                stored[number] += 1
            if not page["newer"]:
                break
        assert seqs == list(range(1, len(seqs) + 1))
        assert stored == {number: len(given) for number, given in self.acknowledged.items()}
        session = page["session"]
        assert session["message_count"] + session["tool_usage_count"] == len(seqs)

    def assert_all_refusals_are_typed(self, *sentences: str) -> None:
        for error in self.refused.values():
            assert isinstance(error, Unavailable)
            assert any(sentence in str(error) for sentence in sentences), str(error)


async def open_ledger(database: Database, chance: random.Random) -> Ledger:
    service = ChatService(database)
    user_id = await new_user(service)
    return Ledger(service, user_id, await new_session(service, user_id), chance)


async def assert_sound(path: Path, journal: str, ledger: Ledger) -> None:
    """Fail unless the file, opened anew, is whole and holds what was acknowledged."""
    async with Database(url_of(path), library=library_for(journal)) as again:
        await ledger.compare(ChatService(again))
        integrity = text("PRAGMA integrity_check")
        assert await again.read(lambda connection: connection.execute(integrity).scalars().all()) == ["ok"]


# A full disk


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_full_disk_refuses_loses_nothing_and_writes_resume_when_there_is_room(tmp_path: Path, journal: str) -> None:
    chance = random.Random(seed())  # noqa: S311 - repeats a run, guards nothing
    path = tmp_path / "chat.db"
    make_ready(journal, path)

    async def main() -> None:
        refused = 0
        async with Database(url_of(path), library=library_for(journal)) as database:
            ledger = await open_ledger(database, chance)
            heard = hear(ledger.service)
            for _ in range(scale(6, 200)):
                pages = await database.write(pragma("page_count"))
                await database.write(pragma(f"max_page_count={pages + chance.randrange(60)}"))
                await ledger.append_new(APPENDS)
                refused += len(ledger.refused)
                ledger.assert_all_refusals_are_typed("The disk is full, so nothing was stored")
                await ledger.compare(ledger.service)
                await database.write(pragma(f"max_page_count={2**30}"))
                await ledger.repeat_refused()
                assert not ledger.refused
                await ledger.compare(ledger.service)
            assert told(heard) == sorted(seqs[-1] for seqs in ledger.acknowledged.values())
            assert refused
            figure("disk full", {"appends": ledger.number, "refused": refused, "lost": 0}, journal)
        await assert_sound(path, journal, ledger)

    asyncio.run(main())


def told(heard: list[Event]) -> list[int]:
    return [event.last_seq for event in heard if event.change == "appended" and event.last_seq is not None]


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_group_keeps_what_fits_when_one_of_its_appends_fills_the_disk(tmp_path: Path, journal: str) -> None:
    path = tmp_path / "chat.db"
    make_ready(journal, path)

    async def main() -> None:
        async with Database(url_of(path), library=library_for(journal)) as database:
            service = ChatService(database)
            user_id = await new_user(service)
            session_id = await new_session(service, user_id)
            heard = hear(service)
            pages = await database.write(pragma("page_count"))
            await database.write(pragma(f"max_page_count={pages + 10}"))
            answers = await asyncio.gather(
                service.add_message(user_id, session_id, said("first")),
                service.add_message(user_id, session_id, said("stale"), expected_seq=99),
                service.add_messages(user_id, session_id, [said("x" * 100_000), said("beside it")]),
                service.add_message(user_id, session_id, said("y" * 2_000_000)),
                service.add_message(user_id, session_id, said("last")),
                return_exceptions=True,
            )
            kinds = [type(answer) for answer in answers]
            assert kinds == [dict, Conflict, Unavailable, TooLarge, dict]
            page = await service.get_session_messages(user_id, session_id)
            assert [message["content"] for message in page["messages"]] == ["first", "last"]
            assert told(heard) == [1, 2]
            assert await last_seq(service, user_id, session_id) == 2

    asyncio.run(main())


# A disk that reports errors: the system refuses to let a file grow past a limit


def sizes_of(path: Path) -> list[int]:
    """Return the sizes of a database's file and of its log, where it has one."""
    return [file.stat().st_size for file in (path, path.with_name(f"{path.name}-wal")) if file.exists()]


async def append_under_a_limit(path: Path, journal: str, number: int, rounds: int) -> dict[str, int]:
    """Append while files may not grow, then while they may, again and again; runs in a process of its own."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    chance = random.Random(number)  # noqa: S311
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    sentences = ("The disk is full, so nothing was stored", "The disk reported an error, so nothing was stored")
    refused = 0
    async with Database(url_of(path), library=library_for(journal)) as database:
        ledger = await open_ledger(database, chance)
        for _ in range(rounds):
            limit = chance.choice(sizes_of(path)) + chance.randrange(1_500_000)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
            await ledger.append_new(APPENDS)
            refused += len(ledger.refused)
            ledger.assert_all_refusals_are_typed(*sentences)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            await ledger.compare(ledger.service)
            await ledger.repeat_refused()
            assert not ledger.refused
            await ledger.compare(ledger.service)
    await assert_sound(path, journal, ledger)
    return {"appends": ledger.number, "refused": refused, "lost": 0}


def run_in_a_process(function: str, *arguments: object, **more: Any) -> Any:
    """Run a function of this module in a process of its own and return what it returned."""
    code = (
        "import asyncio, json, pathlib, sys\n"
        "from tests.reliability import test_disk\n"
        "path, *arguments = json.loads(sys.argv[2])\n"
        "result = asyncio.run(getattr(test_disk, sys.argv[1])(pathlib.Path(path), *arguments))\n"
        "print(json.dumps(result))\n"
    )
    given = json.dumps([str(arguments[0]), *arguments[1:]])
    process = subprocess.run(
        [sys.executable, "-c", code, function, given],
        cwd=ROOT, text=True, capture_output=True, timeout=scale(100, 3_600), check=False, **more,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.skipif(sys.platform == "win32", reason="the limit of a file's size is POSIX's")
@pytest.mark.parametrize("journal", JOURNALS)
def test_writes_that_the_system_refuses_are_refused_lose_nothing_and_resume(tmp_path: Path, journal: str) -> None:
    path = tmp_path / "chat.db"
    make_ready(journal, path)
    seen = run_in_a_process("append_under_a_limit", path, journal, seed(), scale(6, 200))
    assert 0 < seen["refused"] < seen["appends"]
    figure("input/output errors", seen, journal)


# Read-only


@pytest.mark.parametrize("journal", JOURNALS)
def test_what_may_not_write_is_refused_and_what_shares_its_commit_before_and_after_is_kept(
    tmp_path: Path, journal: str
) -> None:
    chance = random.Random(seed())  # noqa: S311
    path = tmp_path / "chat.db"
    make_ready(journal, path)

    async def main() -> None:
        async with Database(url_of(path), library=library_for(journal)) as database:
            ledger = await open_ledger(database, chance)
            heard = hear(ledger.service)
            # Tasks begin in their order, and the writer after them all: one group.
            answers = await asyncio.gather(
                *(ledger.append(number) for number in range(10)),
                database.write(pragma("query_only=ON")),
                *(ledger.append(number) for number in range(10, 20)),
                database.write(pragma("query_only=OFF")),
                *(ledger.append(number) for number in range(20, 30)),
                return_exceptions=True,
            )
            ledger.note(range(30), [*answers[:10], *answers[11:21], *answers[22:]])
            assert set(ledger.refused) == set(range(10, 20))
            ledger.assert_all_refusals_are_typed("The database is read-only here, so nothing was stored")
            await ledger.compare(ledger.service)
            await ledger.repeat_refused()
            assert not ledger.refused
            assert told(heard) == sorted(seqs[-1] for seqs in ledger.acknowledged.values())
        await assert_sound(path, journal, ledger)

    asyncio.run(main())


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_connection_that_may_not_write_refuses_all_writes_and_goes_on_reading(tmp_path: Path, journal: str) -> None:
    chance = random.Random(seed())  # noqa: S311
    path = tmp_path / "chat.db"
    make_ready(journal, path)

    async def main() -> None:
        async with Database(url_of(path), library=library_for(journal)) as database:
            ledger = await open_ledger(database, chance)
            await ledger.append_new(APPENDS)
            await database.write(pragma("query_only=ON"))
            await ledger.append_new(APPENDS)
            assert len(ledger.refused) == APPENDS
            ledger.assert_all_refusals_are_typed("The database is read-only here, so nothing was stored")
            await ledger.compare(ledger.service)
        await assert_sound(path, journal, ledger)

    asyncio.run(main())


async def open_read_only(path: Path, journal: str) -> dict[str, str]:
    """Open, read and write a database that this process has no right to write; returns the refusals."""
    refusals: dict[str, str] = {}
    database = Database(url_of(path), library=library_for(journal), readers=1)
    try:
        await database.open()
    except Unavailable as error:
        return {"open": str(error)}
    service = ChatService(database)
    try:
        await service.health()
        await new_user(service)
    except Unavailable as error:
        refusals["write"] = str(error)
    finally:
        await database.close()
    return refusals


async def append_in_a_folder_that_is_closed_and_opened(path: Path, journal: str, number: int) -> dict[str, int]:
    """Append while the folder takes no new files, then while it does: a rollback journal is such a file."""
    async with Database(url_of(path), library=library_for(journal)) as database:
        ledger = await open_ledger(database, random.Random(number))  # noqa: S311
        await ledger.append_new(APPENDS)
        path.parent.chmod(0o500)
        await ledger.append_new(APPENDS)
        refused = len(ledger.refused)
        ledger.assert_all_refusals_are_typed("nothing was stored", "The database file cannot be opened")
        await ledger.compare(ledger.service)
        path.parent.chmod(0o700)
        await ledger.repeat_refused()
        assert not ledger.refused
    await assert_sound(path, journal, ledger)
    return {"refused": refused}


def without_the_right_to_override() -> None:
    """Give up, in a process that is about to start, what lets root write where nobody may."""
    bounding_set_drop, override, read_search = 24, 1, 2
    if os.geteuid() == 0:
        library = ctypes.CDLL(None, use_errno=True)
        for capability in (override, read_search):
            if library.prctl(bounding_set_drop, capability, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "prctl")


linux = pytest.mark.skipif(sys.platform != "linux", reason="giving up a right of root's is Linux's")


@linux
@pytest.mark.parametrize("journal", JOURNALS)
def test_a_file_and_a_folder_without_the_right_to_write_are_refused_as_such(tmp_path: Path, journal: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    path = folder / "chat.db"
    make_ready(journal, path)

    async def main() -> None:
        async with Database(url_of(path), library=library_for(journal)) as database:
            await new_user(ChatService(database))

    asyncio.run(main())
    before = path.read_bytes()
    path.chmod(0o400)
    folder.chmod(0o500)
    try:
        refusals = run_in_a_process("open_read_only", path, journal, preexec_fn=without_the_right_to_override)
    finally:
        folder.chmod(0o700)
    assert len(refusals) == 1
    (refusal,) = refusals.values()
    assert "read-only here, so nothing was stored" in refusal or "cannot be opened" in refusal
    assert path.read_bytes() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o400


@linux
@pytest.mark.parametrize("journal", JOURNALS)
def test_a_folder_that_takes_no_new_files_refuses_and_writes_resume_when_it_does(tmp_path: Path, journal: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    path = folder / "chat.db"
    make_ready(journal, path)
    try:
        seen = run_in_a_process(
            "append_in_a_folder_that_is_closed_and_opened",
            path,
            journal,
            seed(),
            preexec_fn=without_the_right_to_override,
        )
    finally:
        folder.chmod(0o700)
    # In WAL mode both files are there and open already.
    assert seen["refused"] == (APPENDS if journal == "delete" else 0)
