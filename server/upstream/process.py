"""A server as our child process: its streams for the SDK's client, its lines bounded, and its end.

The SDK's own transport gives a child two seconds and more at each step of its end; our clients give us as long for all
of it, so a child that does not go with its stdin is ended sooner, with whatever it has started.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import anyio
import mcp_types as types
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage

_MAX_LINE = 32 * 1_048_576
_MOMENT = 0.5
_HAS_GROUPS = sys.platform != "win32"


class ChildProcess:
    """A transport for the SDK's client; `over` is set once the child says no more."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], folder: str | None, over: asyncio.Event
    ) -> None:
        self._command, self._environment, self._folder = command, environment, folder
        self._process: asyncio.subprocess.Process | None = None
        self._work: list[asyncio.Task[None]] = []
        self._over = over

    async def __aenter__(self) -> Any:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # What it writes there may hold its keys.
            stderr=asyncio.subprocess.DEVNULL,
            env=dict(self._environment),
            cwd=self._folder,
            limit=_MAX_LINE,
            start_new_session=_HAS_GROUPS,
        )
        self._process = process
        assert process.stdin is not None  # noqa: S101 - asked for above
        assert process.stdout is not None  # noqa: S101
        to_client, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        to_server, from_client = anyio.create_memory_object_stream[SessionMessage](0)
        self._streams = from_server, to_server
        self._work = [
            asyncio.create_task(self._read(process.stdout, to_client)),
            asyncio.create_task(_write(from_client, process.stdin)),
        ]
        return self._streams

    async def __aexit__(self, *_: object) -> None:
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        for stream in self._streams:
            await stream.aclose()
        assert self._process is not None  # noqa: S101 - entered
        await _end(self._process)

    async def _read(self, stdout: asyncio.StreamReader, to_client: MemoryObjectSendStream[Any]) -> None:
        try:
            async with to_client:
                # A line that is too long is a ValueError: nothing after it can be trusted.
                with suppress(ValueError, anyio.BrokenResourceError, anyio.ClosedResourceError):
                    while line := await stdout.readline():
                        with suppress(ValueError):
                            message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
                            await to_client.send(SessionMessage(message))
        finally:
            self._over.set()


async def _write(from_client: MemoryObjectReceiveStream[Any], stdin: asyncio.StreamWriter) -> None:
    async with from_client:
        with suppress(ConnectionError):
            async for message in from_client:
                stdin.write(message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
                await stdin.drain()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    for number in (None, signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        if number is not None:
            _send_signal(process, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(_MOMENT):
                # Also for the ends of its pipes, which what it has started may still hold.
                await process.wait()
            break
    if _HAS_GROUPS:
        _send_signal(process, signal.SIGKILL)


def _send_signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if _HAS_GROUPS:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
