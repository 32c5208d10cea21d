"""Writes entries to the record, on a thread with a loop of its own: in order, again and again until they are stored.

What waits is bounded. What does not fit is left out and counted, and once the record can be written again, an entry
says so at the place where it is missing.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from models.errors import ChatError, Conflict, NotFound, Unavailable
from models.ids import SessionId, utc_now
from models.inputs import NewMessage, NewToolUsage
from models.text import to_json
from server.record import Caller, Record
from server.relay.destination import Destination
from server.relay.waiting import Chosen, Gap, Left, Settled, Waiting
from server.settings import Settings

HELD_CALLS = 1_000
HELD_BYTES = 67_108_864
_BATCH = 64
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0

Tell = Callable[[Chosen | Settled | Gap], None]


class Recording:
    """Takes entries from one thread and writes them from its own.

    It begins with what an earlier process has left, and tells what the next one would need to know.
    """

    def __init__(
        self,
        settings: Settings,
        destination: Destination,
        held_calls: int = HELD_CALLS,
        left: Left | None = None,
        tell: Tell | None = None,
    ) -> None:
        self._settings = settings
        self._destination = destination
        self._lock = threading.Lock()
        self._most_calls = held_calls
        self._left = left or Left()
        self._tell = tell or _tell_nobody
        self._waiting: deque[Waiting | Gap] = deque(self._left.waiting)
        self._left.waiting = []
        entries = [each for each in self._waiting if isinstance(each, Waiting)]
        self._held_calls, self._held_bytes = len(entries), sum(each.size for each in entries)
        self._is_ending = False
        self._something = asyncio.Event()
        self.lost_calls, self.lost_bytes = self._left.lost_calls, self._left.lost_bytes
        self.reason = ""
        self._loop = asyncio.new_event_loop()
        self._writing = self._loop.create_task(self._write_all())
        self._thread = threading.Thread(target=self._run, daemon=True, name="recording")
        self._thread.start()

    def add(self, entry: NewToolUsage, client: str | None) -> None:
        """Take an entry, or count it as left out where too much waits."""
        size = len(to_json(entry.arguments)) + len(to_json(entry.result)) + len(entry.error or "")
        each = Waiting(entry, client, size)
        with self._lock:
            if self._is_settled(each.key):
                return
            each.session_id = self._left.sessions.pop(each.key, None)
            if self._held_calls >= self._most_calls or self._held_bytes + size > HELD_BYTES:
                self._leave_out(each.key, calls=1)
            else:
                self._held_calls += 1
                self._held_bytes += size
                self._waiting.append(each)
        self._wake()

    def add_gap(self, key: str, calls: int = 0, missed_bytes: int = 0) -> None:
        """Take note of what passed and cannot be recorded; `key` is its name, as an entry's is."""
        with self._lock:
            if self._is_settled(key):
                return
            self._leave_out(key, calls, missed_bytes)
        self._wake()

    def leave(self, hand_on: Callable[[Left], None]) -> None:
        """Hand on what the next process needs to know of all that was added so far."""
        # Nothing is told meanwhile: what is told before is in it, and what is told after holds beside it.
        with self._lock:
            for each in self._waiting:
                if isinstance(each, Gap):
                    each.keys = []
            left = self._left
            hand_on(Left(list(self._waiting), self.lost_calls, self.lost_bytes, left.sessions, left.settled))

    @property
    def held_bytes(self) -> int:
        """Return about how much waits."""
        return self._held_bytes

    def finish(self, seconds: float) -> int:
        """Write what waits, for so long at most, and return how many entries still wait then."""
        self._is_ending = True
        self._wake()
        self._thread.join(seconds)
        with self._lock:
            return self._held_calls

    def _is_settled(self, key: str) -> bool:
        if key not in self._left.settled:
            return False
        # It comes again once at most.
        self._left.settled.discard(key)
        return True

    def _leave_out(self, key: str, calls: int = 0, missed_bytes: int = 0) -> None:
        self.lost_calls += calls
        self.lost_bytes += missed_bytes
        gap = self._waiting[-1] if self._waiting else None
        if not isinstance(gap, Gap) or gap.is_closed:
            gap = Gap(f"gap:{key}")
            self._waiting.append(gap)
        gap.keys.append(key)
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
                batch[0].is_closed = True
                return batch[:1]
        return [each for each in batch if isinstance(each, Waiting)]

    async def _write(self, record: Record, batch: list[Waiting | Gap]) -> bool:
        """Write a batch and forget what is stored of it; tell whether all of it is done with."""
        try:
            caller = await record.caller()
            sessions = [each.session_id or await self._choose(caller, each) for each in batch]
        except Exception as error:
            self._note(error)
            return False
        self._set_sessions(batch, sessions)
        outcomes = await asyncio.gather(*(self._store(caller, each) for each in batch), return_exceptions=True)
        both = list(zip(batch, outcomes, strict=True))
        with self._lock:
            done = [self._settle(each, outcome) for each, outcome in both]
            stored = [each.key for each, outcome in both if not isinstance(outcome, BaseException)]
            if stored:
                self._tell(Settled(stored))
        return all(done)

    def _set_sessions(self, batch: list[Waiting | Gap], sessions: list[SessionId]) -> None:
        with self._lock:
            both = zip(batch, sessions, strict=True)
            new = {each.key: session_id for each, session_id in both if each.session_id is None}
            for each in batch:
                each.session_id = new.get(each.key, each.session_id)
            if new:
                self._tell(batch[0] if isinstance(batch[0], Gap) else Chosen(new))

    def _settle(self, each: Waiting | Gap, outcome: object) -> bool:
        """Forget an entry that is stored, or refused for good; tell whether it is either."""
        is_refused = isinstance(outcome, BaseException)
        if isinstance(outcome, BaseException):
            self._note(outcome)
            if isinstance(outcome, (NotFound, Conflict)) and self._destination.forget(each.session_id):
                each.session_id = None
                return False
            if isinstance(outcome, Unavailable):
                return False
        self._waiting.remove(each)
        if isinstance(each, Waiting):
            self._held_calls -= 1
            self._held_bytes -= each.size
            if is_refused:
                self._leave_out(each.key, calls=1)
        return True

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


def _tell_nobody(_: object) -> None:
    """Tell no other process, where there is none to follow."""


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
        idempotency_key=gap.key,
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
