"""A client's end of a stdio server that can also be killed: the SDK's own hides the process."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import mcp_types as types
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.client import Client
from mcp.shared.message import SessionMessage

_MAX_LINE = 64 * 1_048_576


class ServerProcess:
    """A server running as a subprocess, and a client that is connected to it."""

    def __init__(self, process: asyncio.subprocess.Process, client: Client) -> None:
        self._process = process
        self.client = client

    async def kill(self) -> None:
        """End the process as a power cut would: SIGKILL, nothing is told to it."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def start_server(command: Sequence[str], environment: Mapping[str, str]) -> AsyncIterator[ServerProcess]:
    """Start a server, connect to it, and end it at the end by closing its stdin."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, env=dict(environment), limit=_MAX_LINE
    )
    assert process.stdin is not None  # noqa: S101 - asked for above
    assert process.stdout is not None  # noqa: S101
    to_client, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_server, from_client = anyio.create_memory_object_stream[SessionMessage](0)
    work = [
        asyncio.create_task(_read(process.stdout, to_client)),
        asyncio.create_task(_write(from_client, process.stdin)),
    ]
    try:
        async with Client(_Streams(from_server, to_server)) as client:
            yield ServerProcess(process, client)
    finally:
        process.stdin.close()
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()


class _Streams:
    """The two streams, in the form in which the SDK's client takes a transport."""

    def __init__(self, read: MemoryObjectReceiveStream[Any], write: MemoryObjectSendStream[Any]) -> None:
        self._streams = read, write

    async def __aenter__(self) -> Any:
        return self._streams

    async def __aexit__(self, *_: object) -> None:
        for stream in self._streams:
            await stream.aclose()


async def _read(stdout: asyncio.StreamReader, to_client: MemoryObjectSendStream[Any]) -> None:
    async with to_client:
        while line := await stdout.readline():
            message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                await to_client.send(SessionMessage(message))


async def _write(from_client: MemoryObjectReceiveStream[Any], stdin: asyncio.StreamWriter) -> None:
    async with from_client:
        async for message in from_client:
            stdin.write(message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
            with suppress(ConnectionError):
                await stdin.drain()
