"""Hands copies to the process that records, and where that ends before its time, to another in its place.

A copy is in that process's pipe before what it is of goes on, as far as the pipe takes it at once: so what the client
has seen is on record although we are killed the moment after. What the pipe does not take waits for a thread of its
own; what passes between client and server never waits for it.

What was handed over is kept (`kept.py`) until the process says that it is no longer needed, so that the next one begins
where the last one stood.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from subprocess import Popen, TimeoutExpired
from typing import NamedTuple

from server.relay.copies import Copies, Copy, Kind, pack_copy
from server.relay.kept import Kept
from server.relay.notes import Told, read_notes
from server.transports.patient import wait_for_room

PAUSES = (0.1, 0.5, 2.0, 10.0, 60.0)
"""Seconds before each new start; one that ends after the last of them is not started again."""

_LIVED = 60.0
_MOMENT = 0.1
_PIPE_BYTES = 262_144
"""More would use up what one user's pipes may hold: 64 MiB, after which every new one is small."""


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
        kept: Kept | None = None,
    ) -> None:
        self._copies = copies
        self._start = start
        self._say = say
        self._pauses = pauses
        self._kept = kept or Kept()
        self._lock = threading.Lock()
        self._is_told = False
        self._is_finished = False
        self._is_all_given = False
        self._ended = threading.Event()
        # The present process: its pipe, what it is given before any new copy, and what its pipe has not taken yet.
        self._present: Started | None = None
        self._first: deque[Copy] = deque()
        self._rest = memoryview(b"")
        self._is_needed = threading.Event()
        begun = self._begin()
        self._thread = threading.Thread(target=self._run, args=(begun,), daemon=True, name="handover")
        self._thread.start()

    def add(self, kind: Kind, data: bytes) -> None:
        """Take a copy and hand it over, or leave it to the thread where that cannot be done at once."""
        with self._lock:
            if not self._ended.is_set():
                self._copies.add(kind, data)
                self._write_or_leave_it()

    def end(self) -> None:
        """Say that nothing more will come; what comes all the same is left out."""
        with self._lock:
            self._copies.end()
            self._write_or_leave_it()
            self._ended.set()

    def finish(self, seconds: float) -> bool:
        """Wait until all is done that can be done, for so long at most; tell whether it is."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def is_all_given(self) -> bool:
        """Tell whether the present process has been given all that there is, whatever it has done with it."""
        return self._is_all_given

    def _run(self, begun: Started | str) -> None:
        ended = 0
        while True:
            began = time.monotonic()
            reason = begun if isinstance(begun, str) else self._serve(begun)
            if self._is_finished:
                return
            ended = 1 if time.monotonic() - began > _LIVED else ended + 1
            if ended > len(self._pauses):
                with self._lock:
                    self._copies.give_up()
                self._say(f"{reason}, {ended} times in a row: nothing is recorded from here on, the calls pass")
                return
            if ended == 1:
                self._say(f"{reason}; another is started, and given what may not be recorded yet")
            if ended == len(self._pauses) and self._kept.has_copies and not self._is_told:
                # It may be what it is given that ends it: the last try is without.
                with self._lock:
                    size = self._kept.leave_out()
                lost = f"{size} bytes of traffic, with the tool calls in them, are left out"
                self._say(f"{lost}: they may be what ends it")
            self._ended.wait(self._pauses[ended - 1])
            begun = self._begin()

    def _begin(self) -> Started | str:
        """Start a process and begin to hand over to it; return why not, where it does not start."""
        self._is_told = self._is_all_given = False
        self._is_needed.clear()
        try:
            recorder = self._start()
        except OSError as error:
            return f"nothing is recorded: {error.strerror}"
        os.set_blocking(recorder.stdin, False)
        _widen(recorder.stdin)
        with self._lock:
            self._present = recorder
            self._first = self._kept.for_another()
            self._rest = memoryview(b"")
            self._write_or_leave_it()
        return recorder

    def _serve(self, recorder: Started) -> str:
        """Hear a process, and hand over what its pipe does not take at once, until it ends; return how it ended."""
        gone = threading.Event()
        listening = threading.Thread(target=self._listen, args=(recorder.stdout, gone), daemon=True, name="notes")
        listening.start()
        while not gone.is_set():
            self._is_needed.wait()
            self._is_needed.clear()
            while not (gone.is_set() or self._write()):
                wait_for_room(recorder.stdin)
        listening.join()
        with self._lock:
            self._present = None
        code = 0 if self._is_finished else _code_of(recorder.process)
        # Not before: one that is still there would take it for our end.
        os.close(recorder.stdin)
        how = f"signal {-code}" if code < 0 else f"code {code}"
        return f"the process that records ended with {how}"

    def _write(self) -> bool:
        """Hand over what waits; tell whether the pipe took all of it."""
        with self._lock:
            return self._write_what_waits()

    def _write_or_leave_it(self) -> None:
        if not self._write_what_waits():
            self._is_needed.set()

    def _write_what_waits(self) -> bool:
        try:
            while self._present is not None and (self._rest or self._pack_the_next()):
                self._rest = self._rest[os.write(self._present.stdin, self._rest) :]
                if not self._rest:
                    self._has_given(self._first.popleft() if self._first else self._take())
        except BlockingIOError:
            return False
        except (OSError, MemoryError) as error:
            if self._present is not None and not isinstance(error, BrokenPipeError):
                # Nothing more can be handed over to it, but to another.
                self._present.process.kill()
            # It is gone, and the thread hears of it.
            self._present = None
        return True

    def _pack_the_next(self) -> bool:
        copy = self._first[0] if self._first else self._copies.next
        self._rest = memoryview(pack_copy(copy) if copy else b"")
        return copy is not None

    def _take(self) -> Copy:
        copy = self._copies.take()
        self._kept.add(copy)
        return copy

    def _has_given(self, copy: Copy) -> None:
        if copy.kind is Kind.END:
            self._is_all_given = True

    def _listen(self, pipe: int, gone: threading.Event) -> None:
        # Who cannot be heard is as good as gone.
        with os.fdopen(pipe, "rb") as notes, suppress(MemoryError, ValueError):
            for note in read_notes(notes):
                with self._lock:
                    self._is_told = True
                    if note.told is Told.FINISHED:
                        self._is_finished = True
                    elif note.told is Told.STATE:
                        self._kept.begin_with(note.data, note.seen)
                    else:
                        self._kept.add_note(note.data)
        gone.set()
        self._is_needed.set()


def _code_of(process: "Popen[bytes]") -> int:
    """Return how a process ended, and see to it that it does: two at once would both record."""
    try:
        return process.wait(_MOMENT)
    except TimeoutExpired:
        process.kill()
        return process.wait()


def _widen(pipe: int) -> None:
    # The more it takes, the less is lost with us.
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
