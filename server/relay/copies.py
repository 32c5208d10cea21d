"""Copies of what passes, on their way to the process that records them.

Adding a copy never waits: where the other end is slow or gone, what does not fit is left out, and a record of the gap
goes in its place. `handover.py` takes them from here and hands them over.
"""

import struct
import threading
import time
from collections.abc import Iterator
from enum import IntEnum
from queue import Empty, SimpleQueue
from typing import BinaryIO, NamedTuple

HELD_BYTES = 64 * 1_048_576
"""So much waits at most for a process that does not read, or is not there."""

_HEAD = struct.Struct("<BQQI")
_SIZE = struct.Struct("<Q")
_CALL = b"tools/call"


class Kind(IntEnum):
    """What a copy is of; a gap's size is in its data, and a gap is of one direction. Without an end we were killed.

    STATE and NOTE are no copies: they are what an earlier process has left to the one that reads them, up to BEGIN.
    """

    TO_SERVER = 0
    TO_CLIENT = 1
    GAP_TO_SERVER = 2
    GAP_TO_CLIENT = 3
    END = 4
    STATE = 5
    NOTE = 6
    BEGIN = 7


class Copy(NamedTuple):
    """Bytes that passed, or a gap; `wall` and `moment` are nanoseconds of the system's and of a monotonic clock."""

    kind: Kind
    wall: int
    moment: int
    data: bytes


class Copies:
    """Takes copies from the two directions, each from one thread, and gives them to another thread in order."""

    def __init__(self, held_bytes: int = HELD_BYTES) -> None:
        self._limit = held_bytes
        self._queue: SimpleQueue[Copy | None] = SimpleQueue()
        # Each counter has one thread that adds to it, so that none needs a lock.
        self._added = [0, 0]
        self._taken = 0
        self._gaps = [0, 0]
        self._is_given_up = False
        self._ended = threading.Event()
        self.calls_seen = 0
        self.calls_left_out = 0

    @property
    def is_given_up(self) -> bool:
        """Tell whether nobody takes them any more."""
        return self._is_given_up

    def add(self, kind: Kind, data: bytes) -> None:
        """Take a copy, or leave it out where too much waits already."""
        calls = data.count(_CALL) if kind is Kind.TO_SERVER else 0
        if self._is_given_up or sum(self._added) - self._taken + len(data) > self._limit:
            self._gaps[kind] += len(data)
            self.calls_left_out += calls
            return
        if self._gaps[kind]:
            self._queue.put(gap(kind, self._gaps[kind]))
            self._gaps[kind] = 0
        self.calls_seen += calls
        self._added[kind] += len(data)
        self._queue.put(_copy(kind, data))

    def end(self) -> None:
        """Say that nothing more will come."""
        for kind in (Kind.TO_SERVER, Kind.TO_CLIENT):
            if self._gaps[kind]:
                self._queue.put(gap(kind, self._gaps[kind]))
        self._queue.put(_copy(Kind.END, b""))
        self._ended.set()

    def wait_for_the_end(self, seconds: float) -> None:
        """Wait until nothing more will come, for so long at most."""
        self._ended.wait(seconds)

    def take(self) -> Copy | None:
        """Wait for the next copy and give it; None where somebody has called `wake`."""
        copy = self._queue.get()
        if copy is not None and copy.kind in (Kind.TO_SERVER, Kind.TO_CLIENT):
            self._taken += len(copy.data)
        return copy

    def wake(self) -> None:
        """Let who waits in `take` look up."""
        self._queue.put(None)

    def give_up(self) -> None:
        """Let go of all that waits, and take nothing more."""
        self._is_given_up = True
        try:
            while True:
                self._queue.get_nowait()
        except Empty:
            return


def gap(kind: Kind, size: int) -> Copy:
    """Return what goes in the place of so many bytes of a direction."""
    return _copy(Kind(kind + Kind.GAP_TO_SERVER), _SIZE.pack(size))


def missing_from(copy: Copy) -> int:
    """Return how many bytes a gap is of."""
    return int(_SIZE.unpack(copy.data)[0])


def pack_copy(copy: Copy) -> bytes:
    """Return a copy as it goes over the pipe."""
    return _HEAD.pack(copy.kind, copy.wall, copy.moment, len(copy.data)) + copy.data


def read_copies(pipe: BinaryIO) -> Iterator[Copy]:
    """Read copies from the other end of the pipe, until it ends or breaks off."""
    while len(head := pipe.read(_HEAD.size)) == _HEAD.size:
        kind, wall, moment, size = _HEAD.unpack(head)
        data = pipe.read(size)
        if len(data) < size:
            return
        yield Copy(Kind(kind), wall, moment, data)


def _copy(kind: Kind, data: bytes) -> Copy:
    return Copy(kind, time.time_ns(), time.monotonic_ns(), data)
