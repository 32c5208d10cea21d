"""The stdio transport: the process's own stdin and stdout, guarded.

- Frames are bounded, strictly UTF-8, and answered where they cannot be served (`server.transports.frames`).
- Nothing but protocol reaches stdout: while we serve, file descriptor 1 points at stderr, and the wire is a duplicate.
- EOF, SIGINT, SIGTERM and a client that is gone end the process at once and cleanly: calls in flight get a moment to be
  answered, the record finishes what has begun, and the process leaves without waiting for a thread that reads stdin,
  which cannot be joined while it is parked.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from models.errors import Invalid
from server.logs import set_up_logging
from server.settings import Settings, read_settings

logger = logging.getLogger(__name__)

_CLOSE_SECONDS = 0.9


def main() -> None:
    """Serve the local user's record over stdio until the client goes away."""
    try:
        settings = read_settings()
    except Invalid as error:
        sys.stderr.write(f"mcp-chat-server: {error}\n")
        raise SystemExit(2) from None
    set_up_logging(settings.log_level)
    if sys.stdin.isatty():
        sys.stderr.write("mcp-chat-server waits for an MCP client on stdin; `mcp-chat-server --help` shows the rest.\n")
    wire_in, wire_out = take_over_standard_streams()
    asyncio.run(_serve_and_leave(settings, wire_in, wire_out))


def take_over_standard_streams() -> tuple[int, int]:
    """Return duplicates of stdin and stdout, and point these at nothing and at stderr."""
    wire_in, wire_out = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return wire_in, wire_out


async def _serve_and_leave(settings: Settings, wire_in: int, wire_out: int) -> None:
    # The SDK is imported here, with the wire already safe from anything that prints while it is imported.
    from server.app import build_server
    from server.record import Record
    from server.transports.wire import Wire

    record = Record(settings)
    server = build_server(record)
    wire = Wire(wire_in, wire_out, settings.max_frame_bytes, record)
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
