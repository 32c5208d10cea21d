"""What group commit is measured against: the same Database, each unit of work committed by itself.

A unit goes to the writer's thread in one hop, and the next one waits there already, so the thread never waits for the
event loop: no slower than an ungrouped Database could be made.
"""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from models.database import Database
from models.sqlite import Job, Outcome

Result = TypeVar("Result")

_SECONDS = 20.0


class Ungrouped(Database):
    """A Database without groups."""

    async def write(
        self, unit: Callable[[Connection], Result], committed: Callable[[Result], None] | None = None
    ) -> Result:
        """Run a unit in a transaction of its own and return its result once it is durable."""
        writer = self._writer
        assert writer is not None
        job = Job(unit, time.monotonic() + _SECONDS)
        outcomes: list[Outcome] = await asyncio.shield(writer.submit(lambda: writer.run_group([job])))
        (outcome,) = outcomes
        if outcome.error is not None:
            raise outcome.error
        result: Result = outcome.result
        if committed is not None:
            committed(result)
        return result
