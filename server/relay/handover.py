"""Hands copies to the process that records, and where that ends before its time, to another in its place.

What was handed over is kept until the process says that it is no longer needed, so that the next one begins where the
last one stood: with the state and the notes that it left (`notes.py`), and the copies since. All this happens on
threads of its own: what passes between client and server never waits for it.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from subprocess import Popen, TimeoutExpired
from typing import NamedTuple

from server.relay.copies import Copies, Copy, Kind, gap, missing_from, pack_copy
from server.relay.notes import Told, read_notes
from server.transports.patient import write_all

KEPT_BYTES = 32 * 1_048_576
"""So much of what was handed over is kept at most; of more, the oldest would be missing for the next process."""

PAUSES = (0.1, 0.5, 2.0, 10.0, 60.0)
"""Seconds before each new start; one that ends after the last of them is not started again."""

_LIVED = 60.0
_MOMENT = 0.1


class Started(NamedTuple):
    """A process that was started, and our ends of its pipes."""

    process: "Popen[bytes]"
    stdin: int
    stdout: int


class Handover:
    """Takes copies and hands them over until all is recorded, or nothing can be."""

    def __init__(
        self,
        copies: Copies,
        start: Callable[[], Started],
        say: Callable[[str], None],
        pauses: Sequence[float] = PAUSES,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._copies = copies
        self._start = start
        self._say = say
        self._pauses = pauses
        self._limit = kept_bytes
        self._lock = threading.Lock()
        self._state = b""
        self._notes: list[bytes] = []
        self._kept: deque[Copy] = deque()
        self._kept_bytes = 0
        # Of the copies that the present process was given, so many are no longer kept.
        self._let_go = 0
        self._missing = [0, 0]
        self._is_told = False
        self._is_finished = False
        self._is_all_given = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="handover")
        self._thread.start()

    def finish(self, seconds: float) -> bool:
        """Wait until all is done that can be done, for so long at most; tell whether it is."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def is_all_given(self) -> bool:
        """Tell whether the present process has been given all that there is, whatever it has done with it."""
        return self._is_all_given

    def _run(self) -> None:
        ended = 0
        while True:
            began = time.monotonic()
            self._is_told = self._is_all_given = False
            reason = self._hand_over()
            if self._is_finished:
                return
            ended = 1 if time.monotonic() - began > _LIVED else ended + 1
            if ended > len(self._pauses):
                self._copies.give_up()
                self._say(f"{reason}, {ended} times in a row: nothing is recorded from here on, the calls pass")
                return
            if ended == 1:
                self._say(f"{reason}; another is started, and given what may not be recorded yet")
            if ended == len(self._pauses) and self._kept and not self._is_told:
                # It may be what it is given that ends it: the last try is without.
                self._leave_out_what_is_kept()
            self._copies.wait_for_the_end(self._pauses[ended - 1])

    def _hand_over(self) -> str:
        """Hand over to one process until it ends, and return how it ended."""
        try:
            recorder = self._start()
        except OSError as error:
            return f"nothing is recorded: {error.strerror}"
        gone = threading.Event()
        listening = threading.Thread(target=self._listen, args=(recorder.stdout, gone), daemon=True, name="notes")
        listening.start()
        try:
            for copy in self._from_the_beginning():
                self._give(recorder, copy)
            while not gone.is_set():
                taken = self._copies.take()
                if taken is not None:
                    self._keep(taken)
                    self._give(recorder, taken)
        except OSError:
            # It is gone.
            pass
        listening.join()
        os.close(recorder.stdin)
        if self._is_finished:
            return ""
        try:
            code = recorder.process.wait(_MOMENT)
        except TimeoutExpired:
            # Two at once would both record.
            recorder.process.kill()
            code = recorder.process.wait()
        how = f"signal {-code}" if code < 0 else f"code {code}"
        return f"the process that records ended with {how}"

    def _give(self, recorder: Started, copy: Copy) -> None:
        write_all(recorder.stdin, pack_copy(copy))
        self._is_all_given = copy.kind is Kind.END

    def _listen(self, pipe: int, gone: threading.Event) -> None:
        with os.fdopen(pipe, "rb") as notes:
            for note in read_notes(notes):
                with self._lock:
                    self._is_told = True
                    if note.told is Told.FINISHED:
                        self._is_finished = True
                    elif note.told is Told.STATE:
                        self._begin_with(note.data, note.seen)
                    else:
                        self._notes.append(note.data)
        gone.set()
        self._copies.wake()

    def _begin_with(self, state: bytes, seen: int) -> None:
        self._state = state
        self._notes.clear()
        if seen >= self._let_go:
            self._missing = [0, 0]
        while self._let_go < seen:
            self._forget_the_oldest()

    def _keep(self, copy: Copy) -> None:
        with self._lock:
            self._kept.append(copy)
            self._kept_bytes += len(copy.data)
            while self._kept_bytes > self._limit:
                self._miss(self._forget_the_oldest())

    def _forget_the_oldest(self) -> Copy:
        copy = self._kept.popleft()
        self._kept_bytes -= len(copy.data)
        self._let_go += 1
        return copy

    def _miss(self, copy: Copy) -> None:
        if copy.kind in (Kind.TO_SERVER, Kind.TO_CLIENT):
            self._missing[copy.kind] += len(copy.data)
        elif copy.kind in (Kind.GAP_TO_SERVER, Kind.GAP_TO_CLIENT):
            self._missing[copy.kind - Kind.GAP_TO_SERVER] += missing_from(copy)

    def _leave_out_what_is_kept(self) -> None:
        with self._lock:
            end = [copy for copy in self._kept if copy.kind is Kind.END]
            while self._kept:
                self._miss(self._forget_the_oldest())
            self._kept.extend(end)
            size = sum(self._missing)
        self._say(f"{size} bytes of traffic, with the tool calls in them, are left out: they may be what ends it")

    def _from_the_beginning(self) -> list[Copy]:
        """Return what a process needs that takes another's place."""
        with self._lock:
            self._let_go = 0
            for kind in (Kind.TO_CLIENT, Kind.TO_SERVER):
                if self._missing[kind]:
                    # From now on it is one of the copies that are handed over.
                    self._kept.appendleft(gap(kind, self._missing[kind]))
                    self._kept_bytes += len(self._kept[0].data)
            self._missing = [0, 0]
            left = [Copy(Kind.STATE, 0, 0, self._state)] if self._state else []
            left += [Copy(Kind.NOTE, 0, 0, note) for note in self._notes]
            return [*left, Copy(Kind.BEGIN, 0, 0, b""), *self._kept]
