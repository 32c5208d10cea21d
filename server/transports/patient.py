"""Reads and writes that wait until they are done, also on a descriptor that does not block.

A descriptor that we were given is shared with whoever gave it to us, a terminal with everybody in it. Whether it blocks
is theirs to say, and may change at any moment: we take it as it is, and never set it.
"""

import os
from select import select


def read(descriptor: int, size: int) -> bytes:
    """Return what comes next, nothing at the end; raises OSError."""
    while True:
        try:
            return os.read(descriptor, size)
        except BlockingIOError:
            select([descriptor], [], [])


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of it; raises OSError, where nobody reads any more too."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            wait_for_room(descriptor)


def wait_for_room(descriptor: int) -> None:
    """Wait until a write would take something, or fail."""
    select([], [descriptor], [])
