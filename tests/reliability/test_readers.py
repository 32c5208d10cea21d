"""Readers beside a writer: one that stalls neither stops it for good nor fills the disk; none sees half a batch."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from chat_service.service import ChatService
from models.database import Database
from models.errors import Unavailable
from models.ids import SessionId, UserId
from tests.conftest import url_of
from tests.reliability.scale import JOURNALS, figure, is_large, library_for, make_ready, patient, scale
from tests.support import last_seq, new_session, new_user, said

pytestmark = patient

BATCH = 10
MEBIBYTE = 1_048_576


@contextmanager
def stalled_reader(path: Path, journal: str) -> Iterator[Any]:
    """Hold a read transaction open; of the library that the writer has: two in a process undo each other's locks."""
    raw = library_for(journal).connect(path, isolation_level=None, check_same_thread=False)
    try:
        raw.execute("BEGIN")
        raw.execute("SELECT count(*) FROM messages").fetchone()
        yield raw
    finally:
        raw.close()


async def append_all(service: ChatService, user_id: UserId, session_id: SessionId, count: int) -> list[float]:
    """Append so many messages, eight at a time, and return how long each took, in seconds."""
    taken: list[float] = []
    numbers = iter(range(count))

    async def append() -> None:
        for number in numbers:
            begun = time.perf_counter()
            await service.add_message(user_id, session_id, said(f"number {number} {'x' * 400}"))
            taken.append(time.perf_counter() - begun)

    await asyncio.gather(*(append() for _ in range(8)))
    return taken


def p99_milliseconds(taken: list[float]) -> float:
    return round(sorted(taken)[len(taken) * 99 // 100] * 1_000, 1)


def log_of(path: Path) -> int:
    log = path.with_name(f"{path.name}-wal")
    return log.stat().st_size if log.exists() else 0


async def checkpoint(database: Database, mode: str) -> tuple[int, int, int]:
    """Copy the log into the file, outside of a transaction; returns busy, pages in the log, pages copied."""

    def copy() -> tuple[int, int, int]:
        raw = library_for("wal").connect(database.path, isolation_level=None)
        try:
            busy, pages, copied = raw.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        finally:
            raw.close()
        return busy, pages, copied

    return await asyncio.to_thread(copy)


@pytest.mark.skipif("wal" not in JOURNALS, reason="no library here is safe for WAL")
def test_a_stalled_reader_does_not_disturb_the_writer_in_wal_mode_and_its_log_stays_bounded(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    count = scale(2_000, 50_000)

    async def main() -> None:
        async with Database(url_of(path)) as database:
            service = ChatService(database)
            user_id = await new_user(service)
            session_id = await new_session(service, user_id)
            alone = await append_all(service, user_id, session_id, count)
            log_alone = log_of(path)
            with stalled_reader(path, "wal") as reader:
                beside = await append_all(service, user_id, session_id, count)
                log_beside = log_of(path)
                # Its snapshot is what it was.
                assert reader.execute("SELECT count(*) FROM messages").fetchone() == (count,)
            assert await last_seq(service, user_id, session_id) == 2 * count
            # Once it has ended, the log is used from its beginning again.
            busy, pages, copied = await checkpoint(database, "TRUNCATE")
            assert (busy, pages, copied) == (0, 0, 0)
            assert log_of(path) == 0
            await append_all(service, user_id, session_id, 200)
            assert 0 < log_of(path) < log_beside
        seen = {
            "appends": count,
            "p99 ms alone": p99_milliseconds(alone),
            "p99 ms beside a stalled reader": p99_milliseconds(beside),
            "log MiB alone": round(log_alone / MEBIBYTE, 1),
            "log MiB beside a stalled reader": round(log_beside / MEBIBYTE, 1),
        }
        figure("stalled reader", seen, "wal")
        # A snapshot that stays open keeps the log growing for as long as it does: the bound is for this many appends.
        assert is_large() or log_beside < 64 * MEBIBYTE

    asyncio.run(main())


@pytest.mark.skipif("delete" not in JOURNALS, reason="no rollback journal here")
def test_a_reader_that_ends_in_time_only_delays_the_writer_in_delete_mode(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    make_ready("delete", path)

    async def main() -> None:
        async with Database(url_of(path), library=library_for("delete")) as database:
            service = ChatService(database)
            user_id = await new_user(service)
            session_id = await new_session(service, user_id)
            for round_ in range(scale(5, 100)):
                with stalled_reader(path, "delete"):
                    appends = [
                        asyncio.create_task(service.add_message(user_id, session_id, said(f"{number}")))
                        for number in range(20)
                    ]
                    # A commit cannot end while the reader reads, however long the loop turns.
                    for _ in range(200):
                        await asyncio.sleep(0)
                    assert not any(append.done() for append in appends)
                stored = await asyncio.gather(*appends)
                assert [one["seq"] for one in stored] == list(range(round_ * 20 + 1, round_ * 20 + 21))

    asyncio.run(main())


@pytest.mark.skipif("delete" not in JOURNALS, reason="no rollback journal here")
def test_a_reader_that_stalls_for_too_long_refuses_the_writer_in_delete_mode_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    make_ready("delete", path)

    async def main() -> None:
        async with Database(url_of(path), library=library_for("delete"), deadline=2) as database:
            service = ChatService(database)
            user_id = await new_user(service)
            session_id = await new_session(service, user_id)
            await service.add_message(user_id, session_id, said("before"))
            messages = [said(f"{number}", idempotency_key=f"{number}") for number in range(10)]

            async def append_all_of_them() -> list[Any]:
                appends = (service.add_message(user_id, session_id, message) for message in messages)
                answers: list[Any] = await asyncio.gather(*appends, return_exceptions=True)
                return answers

            with stalled_reader(path, "delete"):
                refused = await append_all_of_them()
                assert [type(answer) for answer in refused] == [Unavailable] * 10
                assert all("locked, so nothing was stored" in str(answer) for answer in refused)
                assert await last_seq(service, user_id, session_id) == 1
            stored = await append_all_of_them()
            assert [one["seq"] for one in stored] == list(range(2, 12))
            assert await last_seq(service, user_id, session_id) == 11

    asyncio.run(main())


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_read_beside_a_writer_sees_all_of_a_batch_or_nothing_of_it(tmp_path: Path, journal: str) -> None:
    path = tmp_path / "chat.db"
    make_ready(journal, path)
    batches = scale(150, 3_000)

    async def main() -> None:
        async with Database(url_of(path), library=library_for(journal)) as database:
            service = ChatService(database)
            user_id = await new_user(service)
            session_id = await new_session(service, user_id)
            ends: list[int] = []
            written = asyncio.Event()

            async def write() -> None:
                for number in range(batches):
                    batch = [said(f"{number}.{part}") for part in range(BATCH)]
                    await service.add_messages(user_id, session_id, batch)
                written.set()

            async def read_history() -> None:
                while not written.is_set():
                    known = ends[-1] if ends else 0
                    page = await service.get_session_history(user_id, session_id, limit=30)
                    session, seqs = page["session"], [entry["seq"] for entry in page["entries"]]
                    assert session["last_seq"] % BATCH == 0
                    assert session["message_count"] == session["last_seq"] >= known
                    assert seqs == list(range(max(0, session["last_seq"] - 30) + 1, session["last_seq"] + 1))
                    ends.append(session["last_seq"])

            async def read_messages() -> None:
                while not written.is_set():
                    page = await service.get_session_messages(user_id, session_id, limit=20)
                    assert len(page["messages"]) % BATCH == 0
                    assert not page["messages"] or page["messages"][-1]["content"].endswith(f".{BATCH - 1}")

            await asyncio.gather(write(), read_history(), read_history(), read_messages())
            assert len(set(ends)) > 1
            count = text("SELECT count(*) FROM messages")
            stored = await database.read(lambda connection: connection.execute(count).scalar_one())
            assert stored == batches * BATCH
            figure("reads beside a writer", {"batches": batches, "reads": len(ends), "torn": 0}, journal)

    asyncio.run(main())
