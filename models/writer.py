"""The one writer of a database: commits the units that wait together as one group, and answers each.

Its thread takes what waits by itself, group after group, so that a group is being written while the event loop still
hands out the answers of the one before. Whatever becomes of a caller, the unit is finished, and what it has to tell is
told, on the event loop.

In the quiet after it has written much, it brings the index of full text up to date: a slice, and the next one where
still nothing else is to be written. It leaves other processes, which it does not hear, a moment between two slices, and
waits for none of them with one.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from models.indexing import Slice
from models.sqlite import Job, Outcome, SqliteConnection, settle

logger = logging.getLogger(__name__)

_QUIET_SECONDS = 0.05
"""It is quiet where nothing was written for so long."""
_BREATH_SECONDS = 0.006
"""So long is between two slices: another process that waits for the lock looks for it every 4 ms."""
_ELSEWHERE_SECONDS = 0.2
"""So long a slice is put off where another process writes, which may be a slice too."""


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
        self._handed_out = 0
        self._indexing: asyncio.TimerHandle | None = None
        self._is_stopped = False

    def submit(self, job: Job, committed: Callable[[Any], None] | None) -> "asyncio.Future[Any]":
        """Queue a unit; the future that comes back may be cancelled, which changes nothing for the unit."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        with self._lock:
            self._waiting.append(_Waiting(job, committed, answer))
            begins, self._is_writing = not self._is_writing, True
        if begins:
            self._connection.post(self._write_groups)
        return answer

    def stop(self, refusal: Callable[[], Exception]) -> None:
        """Answer the units that have not begun with a refusal, and index no more in the quiet."""
        self._is_stopped = True
        if self._indexing is not None:
            self._indexing.cancel()
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
            self._loop.call_soon_threadsafe(self._hand_out, group, outcomes, self._connection.is_behind)
            self._connection.index_when_far_behind()

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

    def _index(self, handed_out: int) -> None:
        indexed = self._connection.index_slice()
        # A loop that is closed needs no word.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._go_on_indexing, handed_out, indexed)

    # What follows runs on the event loop.

    def _hand_out(self, group: Sequence[_Waiting], outcomes: Sequence[Outcome], is_behind: bool) -> None:
        self._handed_out += 1
        for waiting, outcome in zip(group, outcomes, strict=True):
            self._answer(waiting, outcome)
        if is_behind and self._indexing is None and not self._is_stopped:
            self._index_after(_QUIET_SECONDS)

    def _index_after(self, seconds: float) -> None:
        self._indexing = self._loop.call_later(seconds, self._index_in_quiet, self._handed_out)

    def _index_in_quiet(self, handed_out: int) -> None:
        """Index a slice if nothing was handed out since so much was, else look again in a while."""
        if self._handed_out == handed_out:
            self._connection.post(partial(self._index, handed_out))
        else:
            self._index_after(_QUIET_SECONDS)

    def _go_on_indexing(self, handed_out: int, indexed: Slice | None) -> None:
        if indexed is None:
            seconds = _ELSEWHERE_SECONDS
        elif indexed.is_last:
            self._indexing = None
            return
        else:
            seconds = _BREATH_SECONDS if self._handed_out == handed_out else _QUIET_SECONDS
        if not self._is_stopped:
            self._index_after(seconds)

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
