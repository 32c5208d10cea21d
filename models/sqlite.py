"""SQLite: which library, which file, and one connection on its own thread.

This is the one file that knows aiosqlite from inside. aiosqlite holds the connection and its thread; a synchronous
SQLAlchemy connection over the same connection runs a whole unit of work there in one hop.

Rules and where they come from:

- Several connections that write one WAL file can corrupt it on SQLite 3.7.0 to 3.51.2 (sqlite.org/wal.html, "The
  WAL-reset bug"; fixed in 3.51.3 and 3.50.7). Where the standard library has such a version, `pysqlite3` is used; where
  that is not at hand either, the file is kept with a rollback journal.
- `synchronous=FULL`: with NORMAL a power loss may take acknowledged commits.
- A writer never waits in SQLite's busy handler, which starves some processes: it tries again by itself, after a short
  random time.
"""

import asyncio
import importlib
import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import aiosqlite
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import NullPool

from models import full_text, indexing
from models.errors import ChatError, Unavailable
from models.sqlite_errors import BUSY, primary_code, refusal
from models.tables import SCHEMA_VERSION

logger = logging.getLogger(__name__)

Unit = Callable[[Connection, Sequence[Any]], Sequence[Any]]
"""Does what each of several callers gave it to do, in this order, and returns each one's result.

A ChatError among the results is the refusal of that caller, for whom nothing was written. Where the unit raises, all of
them are rolled back, and each is run by itself.
"""

READER_BUSY_MILLISECONDS = 5_000
_WRITER_CACHE_KIBIBYTES = 16_000
"""The writer's cache at most: in a large file it misses less (docs/decisions/pages-and-cache.md)."""
_COMMIT_SECONDS = 1.0
_PROGRESS_STEPS = 10_000
_CHANGES_OF_A_SLICE = 1_000
"""Once so many rows have changed there is a slice to index: an append by itself changes two, so as many as it has."""
_FAR_BEHIND_BYTES = 8_000_000
"""Once the file has grown by so much the writer indexes in a burst too: a search would wait for it about a second."""

_SIZES = ("page_count", "freelist_count", "page_size")

_ROLLED_BACK = "The database rolled the transaction back, so nothing was stored: try again in a moment."
_TOO_LATE = "The database was busy with other calls for too long, so nothing was stored: try again in a moment."


def is_safe_for_wal(version: tuple[int, int, int]) -> bool:
    """Tell whether an SQLite version is free of the WAL-reset bug."""
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51, 0)


def choose_library() -> ModuleType:
    """Return the module to use: the standard library's where it is safe for WAL, else pysqlite3 where that is safe."""
    if is_safe_for_wal(sqlite3.sqlite_version_info):
        return sqlite3
    try:
        other = importlib.import_module("pysqlite3")
    except ImportError:
        return sqlite3
    return other if is_safe_for_wal(other.sqlite_version_info) else sqlite3


@dataclass(slots=True)
class Outcome:
    """What became of a unit: its result, or the error that it or the database ended with."""

    result: Any = None
    error: BaseException | None = None


class Job(NamedTuple):
    """What a caller gives a unit to do, and the moment (monotonic seconds) after which it is refused."""

    unit: Unit
    given: Any
    deadline: float


class SqliteEngine:
    """The SQLAlchemy engine that all connections to one file share, with its dialect and its compiled statements."""

    def __init__(self, path: Path, library: ModuleType) -> None:
        self.path = path
        self.library = library
        self._handed_over = threading.local()
        self._engine: Engine = create_engine(
            "sqlite://", module=library, creator=lambda: self._handed_over.raw, poolclass=NullPool, hide_parameters=True
        )

    def open_raw(self, busy_milliseconds: int) -> Any:
        """Open a driver's connection with the settings that every connection has."""
        raw = self.library.connect(str(self.path), isolation_level=None, cached_statements=256)
        try:
            raw.execute(f"PRAGMA busy_timeout={busy_milliseconds:d}")
            raw.execute("PRAGMA synchronous=FULL")
            raw.execute("PRAGMA foreign_keys=ON")
            raw.execute("PRAGMA secure_delete=ON")
            full_text.register(raw)
        except BaseException:
            raw.close()
            raise
        return raw

    def over(self, raw: Any) -> Connection:
        """Return an SQLAlchemy connection over a driver's connection of this thread."""
        self._handed_over.raw = raw
        return self._engine.connect()


class SqliteConnection:
    """One connection on aiosqlite's thread; units of work run there whole, in the order in which they are submitted."""

    def __init__(self, engine: SqliteEngine, *, writes: bool, keeps_wal: bool) -> None:
        self._engine = engine
        self._writes = writes
        self._keeps_wal = keeps_wal
        self._connection: Connection | None = None
        self._raw: Any = None
        self._deadline: float | None = None
        self._closing = threading.Event()
        # How many rows had changed, and how large the file was, when all was indexed; and when that was last looked at.
        self._indexed_at = self._looked_at = self._indexed_bytes = 0
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._thread: Any = aiosqlite.Connection(self._connect, 64)
        self.pending = 0

    async def open(self) -> None:
        """Start the thread and connect; raises the driver's error."""
        # The thread ends with the process even where nobody closes this.
        self._thread._thread.daemon = True
        await self._thread

    def submit(self, work: Callable[[], Any]) -> "asyncio.Future[Any]":
        """Queue a function for the thread; it runs whatever becomes of the future that comes back."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self.pending += 1

        def run() -> None:
            result, error = None, None
            try:
                result = work()
            except BaseException as raised:
                error = raised
            loop.call_soon_threadsafe(self._settle, future, result, error)

        self.post(run)
        return future

    def post(self, work: Callable[[], None]) -> None:
        """Queue a function for the thread that tells of itself what is to be told."""
        self._thread._tx.put_nowait((None, work))

    def stop_waiting(self) -> None:
        """Let a unit that waits for another program's lock be refused now."""
        self._closing.set()

    async def close(self) -> None:
        """Let the thread finish what has begun, disconnect on it, and end it."""
        self.stop_waiting()
        if self._thread._connection is not None:
            await self.submit(self._disconnect)
            await self._thread.close()

    def to_answer(self, error: BaseException) -> BaseException:
        """Return the error that a caller is answered with; a future can carry any but StopIteration."""
        if isinstance(error, StopIteration):
            return RuntimeError("a unit of work raised StopIteration")
        return refusal(error, self._engine.library.Error) or error

    # What follows runs on the thread.

    def run_group(self, jobs: Sequence[Job], *, savepoints: bool = False) -> list[Outcome]:
        """Do jobs in one transaction and commit them together; each outcome is that job's own.

        Jobs for the same unit that follow each other are done by one call of it. Savepoints are made only where that
        failed for several, or for one of several with something written: then all run again, each by itself.
        """
        latest = max(job.deadline for job in jobs)
        try:
            self._begin("IMMEDIATE", latest)
        except Exception as error:
            return [Outcome(error=self.to_answer(error)) for _ in jobs]
        return self._run_begun(jobs, savepoints=savepoints)

    @property
    def is_behind(self) -> bool:
        """Tell whether so much was written that there is a slice to index."""
        return bool(self._raw.total_changes - self._indexed_at >= _CHANGES_OF_A_SLICE)

    def index_when_far_behind(self) -> None:
        """Index a slice if as much has been written and the index is far behind: units are waiting."""
        changes = self._raw.total_changes
        paid = changes - self._looked_at
        if paid < _CHANGES_OF_A_SLICE:
            return
        # What is locked now is looked at the next time.
        with suppress(Exception):
            used_bytes = self._used_bytes()
            # Less where something was deleted.
            self._indexed_bytes = min(self._indexed_bytes, used_bytes)
            if used_bytes - self._indexed_bytes > _FAR_BEHIND_BYTES:
                indexed = self.index_slice()
                if indexed is None:
                    return
                paid = paid if indexed.is_last else indexed.entries
        self._looked_at += paid + self._raw.total_changes - changes

    def index_slice(self) -> indexing.Slice | None:
        """Index some of what is new; None says that another process writes just now, which is not waited for.

        Where it cannot be done for another reason, it is as if nothing were new: the next append meets it, and tells.
        """
        indexed, is_done = indexing.Slice(0, is_last=True), True
        try:
            if not indexing.read_progress(self._connected).is_complete:
                self._begin("IMMEDIATE", deadline=0)
                until = time.monotonic() + _COMMIT_SECONDS
                (outcome,) = self._run_begun([Job(by_itself(indexing.index_some), None, until)])
                is_done = outcome.error is None
                indexed = outcome.result if is_done else indexed
            if is_done and indexed.is_last:
                self._indexed_bytes = self._used_bytes()
        except Exception as error:
            if primary_code(error) == BUSY:
                return None
        if indexed.is_last:
            self._indexed_at = self._raw.total_changes
        return indexed

    def run_read(self, unit: Callable[[Connection], Any], deadline: float) -> Any:
        """Run a unit that only reads, on one snapshot."""
        try:
            if self._closing.is_set() or time.monotonic() > deadline:
                raise Unavailable(_TOO_LATE)
            self._begin("DEFERRED", deadline)
            self._deadline = deadline
            return unit(self._connected)
        except BaseException as error:
            raise self.to_answer(error) from None
        finally:
            self._deadline = None
            self._rollback()

    def data_version(self) -> int:
        """Return SQLite's number of the file's content as this connection sees it now."""
        try:
            (version,) = self._raw.execute("PRAGMA data_version").fetchone()
        except Exception as error:
            raise self.to_answer(error) from None
        return int(version)

    def _used_bytes(self) -> int:
        (pages,), (free,), (size,) = (self._raw.execute(f"PRAGMA {each}").fetchone() for each in _SIZES)
        return int((pages - free) * size)

    def _run_begun(self, jobs: Sequence[Job], *, savepoints: bool = False) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for run in _runs(jobs, apart=savepoints):
            changes = self._raw.total_changes
            is_torn = False
            try:
                done = self._run(run, savepoint=savepoints)
            except BaseException as error:
                done = [Outcome(error=self.to_answer(error))]
                is_torn = len(run) > 1 or self._raw.total_changes != changes
            if not self._raw.in_transaction:
                # SQLite itself rolled everything back (full, input/output error, interrupt); a unit that caught the
                # error has stored nothing all the same.
                if len(jobs) > 1:
                    return [outcome for each in jobs for outcome in self.run_group([each])]
                return done if done[0].error else [Outcome(error=Unavailable(_ROLLED_BACK))]
            if is_torn and len(jobs) > 1 and not savepoints:
                self._rollback()
                return self.run_group(jobs, savepoints=True)
            outcomes += done
        if all(outcome.error is not None for outcome in outcomes):
            self._rollback()
            return outcomes
        try:
            # In DELETE mode a reader can hold a commit up: the transaction stays, and only the commit is tried again.
            latest = max(job.deadline for job in jobs)
            self._retry_while_busy("COMMIT", max(latest, time.monotonic() + _COMMIT_SECONDS))
        except Exception as error:
            self._rollback()
            failed = self.to_answer(error)
            return [outcome if outcome.error else Outcome(error=failed) for outcome in outcomes]
        return outcomes

    def _run(self, run: Sequence[Job], *, savepoint: bool) -> list[Outcome]:
        deadline = min(job.deadline for job in run)
        if time.monotonic() > deadline:
            raise Unavailable(_TOO_LATE)
        if savepoint:
            self._raw.execute("SAVEPOINT unit")
        self._deadline = deadline
        try:
            results = run[0].unit(self._connected, [job.given for job in run])
            # Past the last statement nothing may interrupt: the release and the commit decide for the whole group.
            self._deadline = None
            if savepoint:
                self._raw.execute("RELEASE unit")
        except BaseException:
            self._deadline = None
            if self._raw.in_transaction and savepoint:
                self._raw.execute("ROLLBACK TO unit")
                self._raw.execute("RELEASE unit")
            raise
        return [Outcome(error=each) if isinstance(each, ChatError) else Outcome(each) for each in results]

    @property
    def _connected(self) -> Connection:
        assert self._connection is not None, "the connection is opened before units run"  # noqa: S101
        return self._connection

    def _connect(self) -> Any:
        self._raw = self._engine.open_raw(READER_BUSY_MILLISECONDS)
        if self._writes:
            self._indexed_bytes = self._used_bytes()
            # Only now: what is above reads the file, and may meet another process's lock itself.
            self._raw.execute("PRAGMA busy_timeout=0")
            self._raw.execute(f"PRAGMA cache_size={-_WRITER_CACHE_KIBIBYTES:d}")
        self._raw.set_progress_handler(self._past_deadline, _PROGRESS_STEPS)
        self._connection = self._engine.over(self._raw)
        return self._raw

    def _disconnect(self) -> None:
        # The handler is a method of ours: without it gone, driver and connection keep each other.
        self._raw.set_progress_handler(None, 0)
        if self._connection is not None:
            self._connection.detach()
            self._connection = None

    def _past_deadline(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline

    def _begin(self, mode: str, deadline: float) -> None:
        self._retry_while_busy(f"BEGIN {mode}", deadline)
        try:
            (version,) = self._raw.execute("PRAGMA user_version").fetchone()
            if version != SCHEMA_VERSION:
                raise Unavailable("A newer version has upgraded the database under this server: restart the client.")
            if not self._keeps_wal and self._raw.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
                raise Unavailable("The database was switched to WAL, which this SQLite cannot keep safe: restart.")
        except BaseException:
            self._rollback()
            raise

    def _rollback(self) -> None:
        if self._raw.in_transaction:
            try:
                self._raw.execute("ROLLBACK")
            except self._engine.library.Error as error:
                logger.warning("rollback failed with SQLite code %s", primary_code(error))

    def _retry_while_busy(self, statement: str, deadline: float) -> None:
        while True:
            try:
                self._raw.execute(statement)
            except self._engine.library.OperationalError as error:
                if primary_code(error) != BUSY or time.monotonic() > deadline or self._closing.is_set():
                    raise
                self._closing.wait(self._random.uniform(0.000_2, 0.004))
            else:
                return

    # On the event loop again.

    def _settle(self, future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
        self.pending -= 1
        settle(future, result, error)


def by_itself(unit: Callable[[Connection], Any]) -> Unit:
    """Make a unit of what has nothing to do for others."""
    return lambda connection, given: [unit(connection) for _ in given]


def _runs(jobs: Sequence[Job], *, apart: bool) -> list[list[Job]]:
    """Return the jobs that one call of their unit does, in order."""
    runs: list[list[Job]] = []
    for job in jobs:
        if runs and not apart and job.unit == runs[-1][0].unit:
            runs[-1].append(job)
        else:
            runs.append([job])
    return runs


def settle(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    """Answer a caller who may have gone."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
        return
    future.set_exception(error)
    # Looked at: where the caller is cancelled just now, the error is not reported as never retrieved.
    future.exception()
