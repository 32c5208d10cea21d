"""Copies of what passes, on their way to the process that records them.

Where the other end is slow or gone, what does not fit is left out, and a record of the gap goes in its place.
`handover.py` takes them from here and hands them over.
"""

import struct
import time
from collections import deque
from collections.abc import Iterator
from enum import IntEnum
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
    """Holds what is to be handed over, in order; who shares it between threads lets one at a time use it."""

    def __init__(self, held_bytes: int = HELD_BYTES) -> None:
        self._limit = held_bytes
        self._queue: deque[Copy] = deque()
        self._held = 0
        self._gaps = [0, 0]
        self.is_given_up = False
        self.calls_seen = 0
        self.calls_left_out = 0

    def add(self, kind: Kind, data: bytes) -> None:
        """Take a copy, or leave it out where too much waits already."""
        calls = data.count(_CALL) if kind is Kind.TO_SERVER else 0
        if self.is_given_up or self._held + len(data) > self._limit:
            self._gaps[kind] += len(data)
            self.calls_left_out += calls
            return
        if self._gaps[kind]:
            self._queue.append(gap(kind, self._gaps[kind]))
            self._gaps[kind] = 0
        self.calls_seen += calls
        self._held += len(data)
        self._queue.append(_copy(kind, data))

    def end(self) -> None:
        """Say that nothing more will come."""
        for kind in (Kind.TO_SERVER, Kind.TO_CLIENT):
            if self._gaps[kind]:
                self._queue.append(gap(kind, self._gaps[kind]))
        self._queue.append(_copy(Kind.END, b""))

    @property
    def next(self) -> Copy | None:
        """Return the next copy, and leave it where it is; None where none waits."""
        return self._queue[0] if self._queue else None

    def take(self) -> Copy:
        """Take the next copy out."""
        copy = self._queue.popleft()
        if copy.kind in (Kind.TO_SERVER, Kind.TO_CLIENT):
            self._held -= len(copy.data)
        return copy

    def give_up(self) -> None:
        """Let go of all that waits, and take nothing more."""
        self.is_given_up = True
        self._queue.clear()


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
