"""The Database: runs units of work, each whole or not at all, whatever becomes of the one who asked for it.

A unit of work is a plain function of a `sqlalchemy.Connection` that touches nothing else, so that it can be run again.
`await database.write(unit)` hands it to the one writer, which commits all units that wait together as one group; the
caller's answer comes after the commit. `await database.read(unit)` runs on one of the readers, on one snapshot.

A caller who is cancelled, times out or goes away changes nothing: the unit is finished, and what it has to tell is
told, by the writer. `close()` finishes what has begun, refuses the rest, and ends the threads.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import Connection

from models import indexing
from models.errors import ChatError, Unavailable
from models.remnants import Swept, sweep_elsewhere
from models.shapes import HealthDict
from models.sqlite import (
    Job,
    SqliteConnection,
    SqliteEngine,
    Unit,
    by_itself,
    choose_library,
    is_safe_for_wal,
)
from models.sqlite_errors import ODD, refusal
from models.sqlite_file import Journal, path_from_url, prepare
from models.tables import SCHEMA_VERSION
from models.writer import Writer

_INDEX_SECONDS = 2.0
"""So long a search waits for the index: then it answers without the newest entries, and says so."""

Given = TypeVar("Given")
Result = TypeVar("Result")


class Database:
    """One SQLite file, one writer, a few readers; open it with `async with Database(url)`.

    `deadline` is how many seconds a unit may wait and run before it is refused with Unavailable, nothing stored;
    `max_group` is how many units are committed together at most: more would only make the first of them wait.
    """

    def __init__(
        self,
        url: str,
        *,
        readers: int = 2,
        deadline: float = 20.0,
        max_group: int = 256,
        library: ModuleType | None = None,
    ) -> None:
        self.path: Path = path_from_url(url)
        self._library = library or choose_library()
        self._deadline = deadline
        self._reader_count = readers
        self._journal: Journal | None = None
        self._max_group = max_group
        self._writer: Writer | None = None
        self._readers: list[SqliteConnection] = []
        self._connections: list[SqliteConnection] = []
        self._connecting: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._open = False

    async def open(self) -> Self:
        """Check or create the file, bring it to the newest schema, and connect; raises Invalid or Unavailable."""
        self._closing = None
        self._journal = await asyncio.to_thread(prepare, self.path, self._library)
        self._connecting = asyncio.create_task(self._connect(), name="opening the database")
        try:
            # A cancelled caller leaves nothing half open: closing waits for the connections that are on their way.
            await asyncio.shield(self._connecting)
        except self._library.Error as error:
            await self.close()
            raise refusal(error) or Unavailable(ODD) from None
        except BaseException:
            await self.close()
            raise
        self._open = True
        return self

    async def close(self) -> None:
        """Finish the units that have begun, refuse those that wait, and disconnect."""
        self._open = False
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="closing the database")
        # A cancelled caller leaves nothing half closed.
        await asyncio.shield(self._closing)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def write(
        self, unit: Callable[[Connection], Result], committed: Callable[[Result], None] | None = None
    ) -> Result:
        """Run a unit in a write transaction and return its result once it is durable.

        `committed` is called with the result after the commit, before the caller is answered, and also where the caller
        is no longer there. Raises what the unit raised, or Unavailable; in either case nothing was stored.
        """
        result: Result = await self._submit(by_itself(unit), None, self._deadline, committed)
        return result

    async def write_together(
        self,
        unit: Callable[[Connection, Sequence[Given]], Sequence[Result | ChatError]],
        given: Given,
        committed: Callable[[Result], None] | None = None,
    ) -> Result:
        """Give the unit something to do, in one call with what others give it meanwhile, and return the result.

        It returns what came of each, in order; an error among them is raised where that was given, and must have
        written nothing. All else is as for `write`.
        """
        result: Result = await self._submit(unit, given, self._deadline, committed)
        return result

    async def read(self, unit: Callable[[Connection], Result]) -> Result:
        """Run a unit that only reads, on one snapshot, and return its result."""
        if not self._open:
            raise Unavailable("The database is closed: open it again.")
        reader = min(self._readers, key=_pending)
        deadline = time.monotonic() + self._deadline
        result: Result = await reader.submit(lambda: reader.run_read(unit, deadline))
        return result

    async def index(self) -> bool:
        """Index the entries that are committed, for a search to find them; tell whether all are.

        Raises Unavailable where nothing can be written.
        """
        until = time.monotonic() + _INDEX_SECONDS
        while not (await self._submit(by_itself(indexing.index_some), None, _INDEX_SECONDS)).is_last:
            if time.monotonic() > until:
                return False
        return True

    async def data_version(self) -> int:
        """Return a number that is another one after any process has committed to the file; raises Unavailable.

        It costs microseconds and no transaction (`PRAGMA data_version`), and is comparable to others of this object.
        """
        if not self._open:
            raise Unavailable("The database is closed: open it again.")
        # The number is a connection's own, so it is always the same one: the last, which is the last to be kept busy.
        reader = self._readers[-1]
        version: int = await reader.submit(reader.data_version)
        return version

    async def sweep(self) -> Swept:
        """Overwrite what SQLite has left of deleted rows in the file and its log; others write in between."""
        if not self._open:
            raise Unavailable("The database is closed: open it again.")
        return await sweep_elsewhere(self.path, self._library.__name__)

    async def health(self) -> HealthDict:
        """Tell how the database is kept; raises Unavailable where it cannot be read."""
        synchronous = await self.read(lambda connection: connection.exec_driver_sql("PRAGMA synchronous").scalar_one())
        assert self._journal is not None, "an open database has a journal"  # noqa: S101
        return {
            "status": "ok",
            "engine": "sqlite",
            "library": self._library.__name__,
            "library_version": self._library.sqlite_version,
            "journal_mode": self._journal.mode,
            "synchronous": {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}[synchronous],
            "schema_version": SCHEMA_VERSION,
            "reason": self._journal.reason,
        }

    async def _submit(
        self, unit: Unit, given: Any, seconds: float, committed: Callable[[Any], None] | None = None
    ) -> Any:
        if not self._open or self._writer is None:
            raise Unavailable("The database is closed: open it again.")
        # A cancelled caller takes only the answer along; the unit and what it has to tell stay with the writer.
        return await self._writer.submit(Job(unit, given, time.monotonic() + seconds), committed)

    async def _connect(self) -> None:
        engine = SqliteEngine(self.path, self._library)
        keeps_wal = is_safe_for_wal(self._library.sqlite_version_info)
        for writes in (True, *[False] * self._reader_count):
            connection = SqliteConnection(engine, writes=writes, keeps_wal=keeps_wal)
            self._connections.append(connection)
            await connection.open()
        writing, *self._readers = self._connections
        self._writer = Writer(writing, self._max_group)

    async def _close(self) -> None:
        if self._connecting is not None:
            await asyncio.wait([self._connecting])
        connections, self._connections = self._connections, []
        writer, self._writer, self._readers = self._writer, None, []
        if writer is not None:
            writer.stop(_shutting_down)
        for connection in connections:
            connection.stop_waiting()
        if writer is not None:
            await writer.finished()
        for connection in reversed(connections):
            await connection.close()


def _shutting_down() -> Unavailable:
    return Unavailable("The server is shutting down, so nothing was stored: try again.")


def _pending(connection: SqliteConnection) -> int:
    return connection.pending
