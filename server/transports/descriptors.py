"""Descriptors, read and written without ever holding up the event loop.

stdin and stdout are shared with other processes, so whether they block is not ours to set. A socket, which Node gives
its children, is asked not to wait in each call. A pipe is opened once more, where the system has a name for it (Linux):
that end is ours alone, and may be non-blocking. For all else (files, terminals, pipes elsewhere) a thread waits in
place of the loop (`patient.py`), which costs two hops each time.
"""

import asyncio
import os
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from server.transports import patient

Ready = Callable[[], object]

_CHUNK = 65_536


class Inward(Protocol):
    """What can be read from, in the loop."""

    def read(self) -> bytes | None:
        """Return what has come, nothing at the end, and None where nothing has come yet."""
        ...

    def watch(self, ready: Ready) -> None:
        """Call `ready` whenever there may be something to read."""
        ...

    def unwatch(self) -> None:
        """Call it no more."""
        ...

    def close(self) -> None:
        """Let go of what was opened for it; the descriptor itself stays as it is."""
        ...


class Outward(Protocol):
    """What can be written to, in the loop."""

    def write(self, data: bytes | memoryview) -> int:
        """Return how many bytes were written; where not all, offer the rest again once it is ready.

        Raises OSError where nobody reads any more.
        """
        ...

    def watch(self, ready: Ready) -> None:
        """Call `ready` whenever more may be written."""
        ...

    def unwatch(self) -> None:
        """Call it no more."""
        ...

    def close(self) -> None:
        """Let go of what was opened for it; the descriptor itself stays as it is."""
        ...


def open_inward(descriptor: int) -> Inward:
    """Return what reads from a descriptor, watched by the loop where that is possible."""
    loop = asyncio.get_running_loop()
    if (own := _as_socket(descriptor)) is not None:
        return _WatchedIn(loop, own.fileno(), partial(_receive, own), own.close)
    if (pipe := _opened_anew(descriptor, os.O_RDONLY)) is not None:
        return _WatchedIn(loop, pipe, partial(os.read, pipe), partial(os.close, pipe))
    return _ThreadedIn(loop, descriptor)


def open_outward(descriptor: int) -> Outward:
    """Return what writes to a descriptor, watched by the loop where that is possible."""
    loop = asyncio.get_running_loop()
    if (own := _as_socket(descriptor)) is not None:
        return _WatchedOut(loop, own.fileno(), partial(_send, own), own.close)
    if (pipe := _opened_anew(descriptor, os.O_WRONLY)) is not None:
        return _WatchedOut(loop, pipe, partial(os.write, pipe), partial(os.close, pipe))
    return _ThreadedOut(loop, descriptor)


def _as_socket(descriptor: int) -> socket.socket | None:
    if not hasattr(socket, "MSG_DONTWAIT") or not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return None
    own = socket.socket(fileno=os.dup(descriptor))
    if own.type == socket.SOCK_STREAM:
        return own
    own.close()
    return None


def _receive(connection: socket.socket, size: int) -> bytes:
    return connection.recv(size, socket.MSG_DONTWAIT)


def _send(connection: socket.socket, data: bytes | memoryview) -> int:
    return connection.send(data, socket.MSG_DONTWAIT)


def _opened_anew(descriptor: int, flags: int) -> int | None:
    name = Path(f"/proc/self/fd/{descriptor}")
    try:
        # One with a name in a folder is none of these: it does not tell again that its writer has gone already.
        return os.open(name, flags | os.O_NONBLOCK) if name.readlink().name.startswith("pipe:") else None
    except OSError:
        # Another system, a sandbox, or another user's pipe.
        return None


class _WatchedIn:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        descriptor: int,
        receive: Callable[[int], bytes],
        close: Callable[[], None],
    ) -> None:
        self._loop, self._descriptor = loop, descriptor
        self._receive, self.close = receive, close

    def read(self) -> bytes | None:
        try:
            return self._receive(_CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def watch(self, ready: Ready) -> None:
        self._loop.add_reader(self._descriptor, ready)

    def unwatch(self) -> None:
        self._loop.remove_reader(self._descriptor)


class _WatchedOut:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        descriptor: int,
        send: Callable[[bytes | memoryview], int],
        close: Callable[[], None],
    ) -> None:
        self._loop, self._descriptor = loop, descriptor
        self._send, self.close = send, close

    def write(self, data: bytes | memoryview) -> int:
        try:
            return self._send(data)
        except BlockingIOError:
            return 0

    def watch(self, ready: Ready) -> None:
        self._loop.add_writer(self._descriptor, ready)

    def unwatch(self) -> None:
        self._loop.remove_writer(self._descriptor)


class _Thread:
    """Does one thing at a time that may wait, and tells in the loop what came of it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, work: Callable[[Any], Any], done: Callable[[Any], None]
    ) -> None:
        self._loop, self._work, self._done = loop, work, done
        self._asked: SimpleQueue[Any] = SimpleQueue()
        self.is_busy = False
        # It may be parked for ever, and does not keep the process.
        threading.Thread(target=self._run, daemon=True).start()

    def ask(self, what: Any = None) -> None:
        """Begin, where it is not busy yet."""
        if not self.is_busy:
            self.is_busy = True
            self._asked.put(what)

    def _run(self) -> None:
        while True:
            outcome = self._work(self._asked.get())
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._tell, outcome)

    def _tell(self, outcome: Any) -> None:
        self.is_busy = False
        self._done(outcome)


class _ThreadedIn:
    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
        self._loop, self._descriptor = loop, descriptor
        self._chunk: bytes | None = None
        self._ready: Ready | None = None
        self._thread = _Thread(loop, self._read_some, self._came)

    def read(self) -> bytes | None:
        chunk, self._chunk = self._chunk, None
        if chunk and self._ready is not None:
            self._thread.ask()
        return chunk

    def watch(self, ready: Ready) -> None:
        self._ready = ready
        if self._chunk is None:
            self._thread.ask()
        else:
            self._loop.call_soon(ready)

    def unwatch(self) -> None:
        self._ready = None

    def close(self) -> None:
        self.unwatch()

    def _came(self, chunk: bytes) -> None:
        self._chunk = chunk
        if self._ready is not None:
            self._ready()

    def _read_some(self, _: None) -> bytes:
        try:
            return patient.read(self._descriptor, _CHUNK)
        except OSError:
            return b""


class _ThreadedOut:
    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
        self._descriptor = descriptor
        self._written = 0
        self._error: OSError | None = None
        self._ready: Ready | None = None
        self._thread = _Thread(loop, self._write_all, self._has_written)

    def write(self, data: bytes | memoryview) -> int:
        if self._error is not None:
            raise self._error
        if not self._written:
            self._thread.ask(data)
        written, self._written = self._written, 0
        return written

    def watch(self, ready: Ready) -> None:
        self._ready = ready

    def unwatch(self) -> None:
        self._ready = None

    def close(self) -> None:
        self.unwatch()

    def _has_written(self, outcome: int | OSError) -> None:
        if isinstance(outcome, OSError):
            self._error = outcome
        else:
            self._written = outcome
        if self._ready is not None:
            self._ready()

    def _write_all(self, data: bytes | memoryview) -> int | OSError:
        try:
            patient.write_all(self._descriptor, data)
        except OSError as error:
            return error
        return len(data)
