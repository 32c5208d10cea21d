"""Copies of what passes, on their way to the process that records them.

Adding a copy never waits: a thread of its own writes them to a pipe, and where the other end is slow or gone, what does
not fit is left out, and a record of the gap goes in its place.
"""

import os
import struct
import threading
import time
from collections.abc import Iterator
from enum import IntEnum
from queue import SimpleQueue
from typing import BinaryIO, NamedTuple

HELD_BYTES = 64 * 1_048_576
"""So much waits at most for a process that does not read."""

_HEAD = struct.Struct("<BQQI")
_CALL = b"tools/call"


class Kind(IntEnum):
    """What a copy is of; a gap's size is in its data, and a gap is of one direction. Without an end we were killed."""

    TO_SERVER = 0
    TO_CLIENT = 1
    GAP_TO_SERVER = 2
    GAP_TO_CLIENT = 3
    END = 4


class Copy(NamedTuple):
    """Bytes that passed, or a gap; `wall` and `moment` are nanoseconds of the system's and of a monotonic clock."""

    kind: Kind
    wall: int
    moment: int
    data: bytes


class Copies:
    """Takes copies from the two directions, each from one thread, and writes them to a pipe."""

    def __init__(self, pipe: int, held_bytes: int = HELD_BYTES) -> None:
        self._pipe = pipe
        self._limit = held_bytes
        self._queue: SimpleQueue[Copy | None] = SimpleQueue()
        # Each counter has one thread that adds to it, so that none needs a lock.
        self._added = [0, 0]
        self._written = 0
        self._gaps = [0, 0]
        self._is_broken = False
        self.calls_seen = 0
        self.calls_left_out = 0
        self._thread = threading.Thread(target=self._write, daemon=True, name="copies")
        self._thread.start()

    @property
    def is_broken(self) -> bool:
        """Tell whether the process that records was gone before the end."""
        return self._is_broken

    def add(self, kind: Kind, data: bytes) -> None:
        """Take a copy, or leave it out where too much waits already."""
        if self._is_broken or sum(self._added) - self._written + len(data) > self._limit:
            self._gaps[kind] += len(data)
            self._count_left_out(kind, data)
            return
        if self._gaps[kind]:
            self._put(Kind(kind + 2), struct.pack("<Q", self._gaps[kind]))
            self._gaps[kind] = 0
        self._added[kind] += len(data)
        self._put(kind, data)

    def end(self) -> None:
        """Say that nothing more will come."""
        for kind in (Kind.TO_SERVER, Kind.TO_CLIENT):
            if self._gaps[kind]:
                self._put(Kind(kind + 2), struct.pack("<Q", self._gaps[kind]))
        self._put(Kind.END, b"")
        self._queue.put(None)

    def join(self, seconds: float | None = None) -> None:
        """Wait until all that was taken is written, for so long at most."""
        self._thread.join(seconds)

    def _put(self, kind: Kind, data: bytes) -> None:
        self._queue.put(Copy(kind, time.time_ns(), time.monotonic_ns(), data))

    def _count_left_out(self, kind: Kind, data: bytes) -> None:
        if kind is Kind.TO_SERVER:
            self.calls_left_out += data.count(_CALL)

    def _write(self) -> None:
        while (copy := self._queue.get()) is not None:
            if copy.kind is Kind.TO_SERVER:
                self.calls_seen += copy.data.count(_CALL)
            try:
                view = memoryview(_HEAD.pack(copy.kind, copy.wall, copy.moment, len(copy.data)) + copy.data)
                while view:
                    view = view[os.write(self._pipe, view) :]
            except OSError:
                self._is_broken = True
            if copy.kind < Kind.GAP_TO_SERVER:
                self._written += len(copy.data)
        os.close(self._pipe)


def read_copies(pipe: BinaryIO) -> Iterator[Copy]:
    """Read copies from the other end of the pipe, until it ends or breaks off."""
    while len(head := pipe.read(_HEAD.size)) == _HEAD.size:
        kind, wall, moment, size = _HEAD.unpack(head)
        data = pipe.read(size)
        if len(data) < size:
            return
        yield Copy(Kind(kind), wall, moment, data)
