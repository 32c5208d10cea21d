"""What group commit is measured against: a Database that commits each unit of work by itself.

A unit goes to the writing thread in one hop, and the next one waits there already, so the thread never waits for the
event loop: no slower than a Database without groups could be made.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Self

from models.database import Database
from models.sqlite import Job, Outcome, SqliteConnection, SqliteEngine, Unit, choose_library


class Ungrouped(Database):
    """A Database whose units are written over a connection of their own, each in a transaction of its own."""

    async def open(self) -> Self:
        """Open the file and the connection."""
        await super().open()
        self._alone = SqliteConnection(SqliteEngine(self.path, choose_library()), writes=True, keeps_wal=True)
        await self._alone.open()
        return self

    async def close(self) -> None:
        """Close both."""
        await self._alone.close()
        await super().close()

    async def _submit(
        self, unit: Unit, given: Any, seconds: float, committed: Callable[[Any], None] | None = None
    ) -> Any:
        job = Job(unit, given, time.monotonic() + seconds)
        outcomes: list[Outcome] = await asyncio.shield(self._alone.submit(lambda: self._alone.run_group([job])))
        (outcome,) = outcomes
        if outcome.error is not None:
            raise outcome.error
        if committed is not None:
            committed(outcome.result)
        return outcome.result
