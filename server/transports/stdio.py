"""The stdio transport: the process's own stdin and stdout, guarded.

- Frames are bounded, strictly UTF-8, and answered where they cannot be served (`server.transports.frames`).
- Nothing but protocol reaches stdout: while we serve, file descriptor 1 points at stderr, and the wire is a duplicate.
- EOF, SIGINT, SIGTERM and a client that is gone end the process at once and cleanly: calls in flight get a moment to be
  answered, the record finishes what has begun, and the process leaves without waiting for the thread that reads stdin,
  which cannot be joined while it is parked.
"""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from models.errors import Invalid
from server.logs import set_up_logging
from server.settings import Settings, read_settings
from server.transports.lines import Lines, Oversized

if TYPE_CHECKING:
    from server.record import Record

logger = logging.getLogger(__name__)

_CHUNK = 65_536
_FRAMES_AHEAD = 32
_LAST_ANSWERS_SECONDS = 0.4
_MOMENTS_TO_OPEN = 6
_CLOSE_SECONDS = 0.9


def main() -> None:
    """Serve the local user's record over stdio until the client goes away."""
    try:
        settings = read_settings()
    except Invalid as error:
        sys.stderr.write(f"mcp-chat-server: {error}\n")
        raise SystemExit(2) from None
    set_up_logging(settings.log_level)
    if sys.stdin is not None and sys.stdin.isatty():
        sys.stderr.write("mcp-chat-server waits for an MCP client on stdin; `mcp-chat-server --help` shows the rest.\n")
    wire_in, wire_out = take_over_standard_streams()
    asyncio.run(_serve_and_leave(settings, wire_in, wire_out))


def take_over_standard_streams() -> tuple[int, int]:
    """Return duplicates of stdin and stdout, and point these at nothing and at stderr."""
    wire_in, wire_out = os.dup(0), os.dup(1)
    for descriptor in (wire_in, wire_out):
        # A parent may hand over pipes that do not block; ours are read and written by threads that may.
        os.set_blocking(descriptor, True)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    try:
        os.dup2(2, 1)
    except OSError:
        os.dup2(nothing, 1)
    os.close(nothing)
    return wire_in, wire_out


async def _serve_and_leave(settings: Settings, wire_in: int, wire_out: int) -> None:
    # The SDK is imported here, with the wire already safe from anything that prints while it is imported.
    from server.app import build_server
    from server.record import Record

    record = Record(settings)
    server = build_server(record)
    wire = StdioWire(wire_in, wire_out, settings.max_frame_bytes, record)
    _on_signals(wire.stop)
    serving = asyncio.create_task(wire.serve(server), name="serving")
    await wire.until_over(serving)
    code = 0
    if serving.done() and (error := serving.exception()) is not None:
        logger.error("serving ended early", exc_info=error)
        code = 1
    # Bounded by itself: what we have started must have gone before we have.
    await record.close_upstreams()
    with suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_SECONDS):
            await record.close()
    logging.shutdown()
    os._exit(code)


def _on_signals(stop: Callable[[], Any]) -> None:
    loop = asyncio.get_running_loop()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is None:
            continue
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:
            # Windows has no such handlers: an ordinary one wakes the loop.
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))


class StdioWire:
    """Reads frames from one descriptor on a thread, writes to another on a second one, and runs a server in between."""

    def __init__(self, wire_in: int, wire_out: int, max_frame_bytes: int, record: "Record") -> None:
        self._in, self._out = wire_in, wire_out
        self._limit = max_frame_bytes
        self._record = record
        self._stopping = False
        self._loop = asyncio.get_running_loop()
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()
        self._room = threading.BoundedSemaphore(_FRAMES_AHEAD)
        self._outgoing: SimpleQueue[tuple[bytes, asyncio.Future[None]]] = SimpleQueue()
        self._unanswered: Counter[str | int] = Counter()
        self._all_answered = asyncio.Event()
        self._input_ended = asyncio.Event()

    async def serve(self, server: Any) -> None:
        """Run the server until stdin ends or `stop` is called."""
        for work in (self._read_frames, self._write_frames):
            threading.Thread(target=work, daemon=True, name=work.__name__.strip("_")).start()
        to_server, from_client = anyio.create_memory_object_stream[Any](0)
        to_client, from_server = anyio.create_memory_object_stream[Any](0)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hand_in(to_server))
            tasks.create_task(self._hand_out(from_server))
            await server.run(from_client, to_client, server.create_initialization_options())

    def stop(self) -> None:
        """Take no further frames, as if stdin had ended."""
        self._stopping = True
        self._end_input()

    async def until_over(self, serving: "asyncio.Task[None]") -> None:
        """Wait until serving ends; once no more frames come, only for as long as answers may take.

        A client that no longer reads holds the thread that writes to it, and everything that waits for that; it is not
        waited for.
        """
        ended = asyncio.create_task(self._input_ended.wait())
        await asyncio.wait([serving, ended], return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        for _ in range(_MOMENTS_TO_OPEN):
            done, _pending = await asyncio.wait([serving], timeout=2 * _LAST_ANSWERS_SECONDS)
            if done or self._stopping or not self._record.is_opening:
                return

    def _end_input(self) -> None:
        self._arrived.put_nowait(None)
        self._input_ended.set()

    async def _hand_in(self, to_server: MemoryObjectSendStream[Any]) -> None:
        from server.transports.frames import Refusal, parse, refuse_oversized

        async with to_server:
            while (frame := await self._arrived.get()) is not None and not self._stopping:
                self._room.release()
                oversized = isinstance(frame, Oversized)
                parsed = refuse_oversized(frame, self._limit) if oversized else parse(frame)
                if isinstance(parsed, Refusal):
                    logger.warning("refused a frame of %d bytes: %s", len(frame), parsed.reason)
                    for answer in parsed.answers:
                        await self._write(answer)
                    continue
                self._note_request(parsed.message)
                with suppress(anyio.BrokenResourceError):
                    await to_server.send(parsed)
            await self._let_answers_out()

    async def _let_answers_out(self) -> None:
        # What was asked gets a moment to be answered, and another while the record is only being opened; what waits for
        # something new is over.
        self._record.end_waiting()
        moments = 1 if self._stopping else _MOMENTS_TO_OPEN
        for _ in range(moments):
            was_opening = self._record.is_opening
            if self._unanswered:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._all_answered.wait(), _LAST_ANSWERS_SECONDS)
            if not self._unanswered or not (was_opening or self._record.is_opening):
                return

    async def _hand_out(self, from_server: MemoryObjectReceiveStream[Any]) -> None:
        from server.transports.frames import to_frame

        async with from_server:
            async for message in from_server:
                await self._write(to_frame(message))
                self._note_answer(getattr(message.message, "id", None))
                self._record.open_soon()

    async def _write(self, frame: bytes) -> None:
        written = self._loop.create_future()
        self._outgoing.put((frame, written))
        await written

    def _note_request(self, message: Any) -> None:
        from mcp.shared.dispatcher import coerce_request_id

        method, request_id = getattr(message, "method", None), getattr(message, "id", None)
        if method is not None and request_id is not None:
            self._unanswered[coerce_request_id(request_id)] += 1
            self._all_answered.clear()
        elif method == "notifications/cancelled":
            # A cancelled request is not answered.
            self._note_answer((message.params or {}).get("requestId"))

    def _note_answer(self, request_id: Any) -> None:
        from mcp.shared.dispatcher import coerce_request_id

        if isinstance(request_id, (str, int)) and not isinstance(request_id, bool):
            self._unanswered -= Counter([coerce_request_id(request_id)])
        if not self._unanswered:
            self._all_answered.set()

    # What follows runs on the two threads.

    def _read_frames(self) -> None:
        lines = Lines(self._limit)
        while chunk := self._read():
            for frame in lines.feed(chunk):
                self._hand_over(frame)
        if not lines.is_oversized:
            # A last line without its newline may be torn, and is a frame where it is whole.
            for frame in lines.end():
                self._hand_over(frame)
        self._tell_end()

    def _read(self) -> bytes:
        try:
            return os.read(self._in, _CHUNK)
        except OSError:
            return b""

    def _hand_over(self, frame: Any) -> None:
        self._room.acquire()
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._arrived.put_nowait, frame)

    def _tell_end(self) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end_input)

    def _write_frames(self) -> None:
        while True:
            frame, written = self._outgoing.get()
            try:
                view = memoryview(frame)
                while view:
                    view = view[os.write(self._out, view) :]
            except OSError:
                # The client no longer reads: nothing more can be told, and stdin ends soon.
                self._tell_end()
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_settle, written)


def _settle(written: "asyncio.Future[None]") -> None:
    if not written.done():
        written.set_result(None)
