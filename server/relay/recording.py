"""Writes entries to the record, on a thread with a loop of its own: in order, again and again until they are stored.

What waits is bounded. What does not fit is left out and counted, and once the record can be written again, an entry
says so at the place where it is missing.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from models.errors import ChatError, Conflict, NotFound, Unavailable
from models.ids import SessionId, utc_now
from models.inputs import NewMessage, NewToolUsage
from models.text import to_json
from server.record import Caller, Record
from server.relay.destination import Destination
from server.settings import Settings

HELD_CALLS = 1_000
HELD_BYTES = 67_108_864
_BATCH = 64
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


@dataclass(slots=True, eq=False)
class Waiting:
    """An entry that is to be written, into the session that was chosen for it when that was first tried."""

    entry: NewToolUsage
    client: str | None
    size: int
    session_id: SessionId | None = None


@dataclass(slots=True, eq=False)
class Gap:
    """Calls that are not recorded, and when they passed."""

    calls: int = 0
    missed_bytes: int = 0
    since: str = ""
    until: str = ""
    session_id: SessionId | None = None


class Recording:
    """Takes entries from one thread and writes them from its own."""

    def __init__(self, settings: Settings, destination: Destination, held_calls: int = HELD_CALLS) -> None:
        self._settings = settings
        self._destination = destination
        self._lock = threading.Lock()
        self._waiting: deque[Waiting | Gap] = deque()
        self._most_calls = held_calls
        self._held_calls = self._held_bytes = 0
        self._is_ending = False
        self._something = asyncio.Event()
        self.lost_calls = self.lost_bytes = 0
        self.reason = ""
        self._loop = asyncio.new_event_loop()
        self._writing = self._loop.create_task(self._write_all())
        self._thread = threading.Thread(target=self._run, daemon=True, name="recording")
        self._thread.start()

    def add(self, entry: NewToolUsage, client: str | None) -> None:
        """Take an entry, or count it as left out where too much waits."""
        size = len(to_json(entry.arguments)) + len(to_json(entry.result)) + len(entry.error or "")
        with self._lock:
            if self._held_calls >= self._most_calls or self._held_bytes + size > HELD_BYTES:
                self._leave_out(calls=1)
            else:
                self._held_calls += 1
                self._held_bytes += size
                self._waiting.append(Waiting(entry, client, size))
        self._wake()

    def add_gap(self, calls: int = 0, missed_bytes: int = 0) -> None:
        """Take note of what passed and cannot be recorded."""
        with self._lock:
            self._leave_out(calls, missed_bytes)
        self._wake()

    def finish(self, seconds: float) -> int:
        """Write what waits, for so long at most, and return how many entries still wait then."""
        self._is_ending = True
        self._wake()
        self._thread.join(seconds)
        with self._lock:
            return self._held_calls

    def _leave_out(self, calls: int = 0, missed_bytes: int = 0) -> None:
        self.lost_calls += calls
        self.lost_bytes += missed_bytes
        if not self._waiting or not isinstance(self._waiting[-1], Gap):
            self._waiting.append(Gap(since=utc_now()))
        gap = self._waiting[-1]
        assert isinstance(gap, Gap), "it was put there above"  # noqa: S101
        gap.calls += calls
        gap.missed_bytes += missed_bytes
        gap.until = utc_now()

    def _wake(self) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._something.set)

    # What follows runs on the thread.

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._writing)
        self._loop.close()

    async def _write_all(self) -> None:
        record = Record(self._settings)
        record.open_soon()
        pause = _FIRST_PAUSE
        try:
            while True:
                batch = self._next_batch()
                if batch:
                    if await self._write(record, batch):
                        pause = _FIRST_PAUSE
                        continue
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
                elif self._is_ending:
                    return
                else:
                    self._something.clear()
                    if not self._waiting and not self._is_ending:
                        await self._something.wait()
        finally:
            await record.close()

    def _next_batch(self) -> list[Waiting | Gap]:
        with self._lock:
            batch = [self._waiting[index] for index in range(min(len(self._waiting), _BATCH))]
            # A gap is written alone: it stops to grow with that.
            if batch and isinstance(batch[0], Gap):
                return [self._waiting.popleft()]
        return [each for each in batch if isinstance(each, Waiting)]

    async def _write(self, record: Record, batch: list[Waiting | Gap]) -> bool:
        """Write a batch and forget what is stored of it; tell whether all of it is done with."""
        try:
            caller = await record.caller()
            for each in batch:
                each.session_id = each.session_id or await self._choose(caller, each)
        except Exception as error:
            self._note(error)
            if isinstance(batch[0], Gap):
                self._put_back(batch[0])
            return False
        outcomes = await asyncio.gather(*(self._store(caller, each) for each in batch), return_exceptions=True)
        done = True
        for each, outcome in zip(batch, outcomes, strict=True):
            done = self._settle(each, outcome) and done
        return done

    def _settle(self, each: Waiting | Gap, outcome: object) -> bool:
        if isinstance(outcome, BaseException):
            self._note(outcome)
            if isinstance(outcome, (NotFound, Conflict)) and self._destination.forget(each.session_id):
                each.session_id = None
            elif not isinstance(outcome, Unavailable):
                # It is refused for good.
                self._forget(each, lost=True)
                return True
            if isinstance(each, Gap):
                self._put_back(each)
            return False
        self._forget(each, lost=False)
        return True

    def _forget(self, each: Waiting | Gap, *, lost: bool) -> None:
        if isinstance(each, Gap):
            return
        with self._lock:
            self._waiting.remove(each)
            self._held_calls -= 1
            self._held_bytes -= each.size
            if lost:
                self._leave_out(calls=1)

    def _put_back(self, gap: Gap) -> None:
        with self._lock:
            self._waiting.appendleft(gap)

    def _note(self, error: BaseException) -> None:
        self.reason = str(error) if isinstance(error, ChatError) else type(error).__name__

    async def _choose(self, caller: Caller, each: Waiting | Gap) -> SessionId:
        if isinstance(each, Gap):
            return await self._destination.last(caller)
        return await self._destination.choose(caller, each.client, each.entry.server_name)

    def _store(self, caller: Caller, each: Waiting | Gap) -> Awaitable[Any]:
        assert each.session_id is not None, "it was chosen before"  # noqa: S101
        if isinstance(each, Gap):
            return caller.service.add_message(caller.user_id, each.session_id, _entry_of(each))
        return caller.service.add_tool_usage(caller.user_id, each.session_id, each.entry)


def tell_gap(calls: int, missed_bytes: int) -> str:
    """Say in words what is missing."""
    parts = [f"{calls} tool call{'s' * (calls != 1)}"] if calls or not missed_bytes else []
    if missed_bytes:
        parts.append(f"{missed_bytes} bytes of traffic, with the tool calls in them,")
    return " and ".join(parts) + (" was" if (calls, missed_bytes) == (1, 0) else " were") + " not recorded"


def _entry_of(gap: Gap) -> NewMessage:
    said = tell_gap(gap.calls, gap.missed_bytes)
    return NewMessage(
        role="system",
        author="proxy",
        content=f"{said} here, between {gap.since} and {gap.until}: the record could not be written.",
        message_metadata={
            "recording_gap": {
                "calls": gap.calls,
                "bytes": gap.missed_bytes,
                "since": gap.since,
                "until": gap.until,
            }
        },
    )
