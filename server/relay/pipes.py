"""One direction of the relay: every byte goes on as it comes, and ends pass on in either sense.

Where the source ends, the target is closed; where the target no longer reads, the source is let go, so that the one who
writes to it is told as it would be without us.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress

from server.transports import patient

_CHUNK = 65_536
_QUIET_SECONDS = 0.3


class Direction:
    """Passes bytes on from one descriptor to another, on a thread, until either ends; then lets go of both.

    `seen` gets each chunk before it goes on, so that a question is always seen before its answer.
    """

    def __init__(self, source: int, target: int, seen: Callable[[bytes], None]) -> None:
        self._source, self._target, self._seen = source, target, seen
        self._chunks = 0
        self._waits = False
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"{source} to {target}")
        self._thread.start()

    def finish(self) -> None:
        """Wait for the end of a source whose program has ended.

        What that wrote is in the pipe; another that it left behind may hold the pipe open for ever, and is not waited
        for once nothing more comes.
        """
        while self._thread.is_alive():
            chunks = self._chunks
            self._thread.join(_QUIET_SECONDS)
            if self._waits and self._chunks == chunks:
                return

    def _run(self) -> None:
        while chunk := self._read():
            self._chunks += 1
            with suppress(MemoryError):
                self._seen(chunk)
            if not _write(self._target, chunk):
                break
        _let_go(self._source)
        _let_go(self._target)

    def _read(self) -> bytes:
        self._waits = True
        try:
            return patient.read(self._source, _CHUNK)
        except OSError:
            return b""
        finally:
            self._waits = False


def _let_go(descriptor: int) -> None:
    if descriptor > 2:
        os.close(descriptor)
        return
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
    except OSError:
        os.close(descriptor)
        return
    # A standard one is left open on nothing, so that no other file takes its number.
    os.dup2(nothing, descriptor)
    os.close(nothing)


def _write(target: int, chunk: bytes) -> bool:
    try:
        patient.write_all(target, chunk)
    except OSError:
        return False
    return True
