"""What the process that records tells the relay, so that another can take its place: the relay keeps it unread."""

import os
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from enum import IntEnum
from typing import BinaryIO, NamedTuple

from server.transports.patient import write_all

_HEAD = struct.Struct("<BQI")


class Told(IntEnum):
    """What a note is: one to be kept, a state that stands for `seen` copies and all notes so far, or the end."""

    NOTE = 0
    STATE = 1
    FINISHED = 2


class Note(NamedTuple):
    """A note; `seen` is how many copies the process had read, where that matters."""

    told: Told
    seen: int
    data: bytes


class Notebook:
    """Writes notes to a pipe, from any thread, each whole; who no longer reads them needs none."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def write(self, told: Told, data: bytes = b"", seen: int = 0) -> None:
        """Write a note; it is out of our hands when this returns."""
        with self._lock, suppress(OSError):
            write_all(self._pipe, _HEAD.pack(told, seen, len(data)) + data)

    def close(self) -> None:
        """Let go of the pipe."""
        with self._lock:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._pipe)
            os.close(nothing)


def read_notes(pipe: BinaryIO) -> Iterator[Note]:
    """Read notes from the other end of the pipe, until it ends or breaks off."""
    while len(head := pipe.read(_HEAD.size)) == _HEAD.size:
        told, seen, size = _HEAD.unpack(head)
        data = pipe.read(size)
        if len(data) < size:
            return
        yield Note(Told(told), seen, data)
