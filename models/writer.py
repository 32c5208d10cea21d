"""The one writer of a database: commits the units that wait together as one group, and answers each.

Its thread takes what waits by itself, group after group, so that a group is being written while the event loop still
hands out the answers of the one before. Whatever becomes of a caller, the unit is finished, and what it has to tell is
told, on the event loop.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from models.sqlite import Job, Outcome, SqliteConnection, settle

logger = logging.getLogger(__name__)


class _Waiting(NamedTuple):
    job: Job
    committed: Callable[[Any], None] | None
    answer: "asyncio.Future[Any]"


class Writer:
    """Writes over one connection; `max_group` is how many units are committed together at most."""

    def __init__(self, connection: SqliteConnection, max_group: int) -> None:
        self._connection = connection
        self._max_group = max_group
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._is_writing = False

    def submit(self, job: Job, committed: Callable[[Any], None] | None) -> "asyncio.Future[Any]":
        """Queue a unit; the future that comes back may be cancelled, which changes nothing for the unit."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        with self._lock:
            self._waiting.append(_Waiting(job, committed, answer))
            begins, self._is_writing = not self._is_writing, True
        if begins:
            self._connection.post(self._write_groups)
        return answer

    def refuse_waiting(self, refusal: Callable[[], Exception]) -> None:
        """Answer the units that have not begun with a refusal."""
        with self._lock:
            refused = list(self._waiting)
            self._waiting.clear()
        for waiting in refused:
            settle(waiting.answer, None, refusal())

    async def finished(self) -> None:
        """Wait until what has begun is written and its answers are handed out."""
        await self._connection.submit(_nothing)

    # What follows runs on the thread.

    def _write_groups(self) -> None:
        while group := self._next_group():
            outcomes = self._run([waiting.job for waiting in group])
            self._loop.call_soon_threadsafe(self._hand_out, group, outcomes)
            self._connection.index_when_due()

    def _next_group(self) -> list[_Waiting]:
        with self._lock:
            group = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_group))]
            # Under the lock: a unit that comes now was taken, or finds that nothing is being written.
            self._is_writing = bool(group)
        return group

    def _run(self, jobs: list[Job]) -> Sequence[Outcome]:
        try:
            return self._connection.run_group(jobs)
        except BaseException as error:
            # The transaction itself failed in a way that no unit caused.
            return [Outcome(error=self._connection.to_answer(error))] * len(jobs)

    # What follows runs on the event loop.

    def _hand_out(self, group: Sequence[_Waiting], outcomes: Sequence[Outcome]) -> None:
        for waiting, outcome in zip(group, outcomes, strict=True):
            self._answer(waiting, outcome)

    def _answer(self, waiting: _Waiting, outcome: Outcome) -> None:
        if outcome.error is None and waiting.committed is not None:
            try:
                waiting.committed(outcome.result)
            except Exception as error:
                # What is stored stays stored: a listener's failure is not the writer's.
                logger.error("telling what was committed failed: %s", type(error).__name__)
        settle(waiting.answer, outcome.result, outcome.error)


def _nothing() -> None:
    """What the thread comes to after everything that it was given before."""
