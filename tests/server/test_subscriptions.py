"""Subscriptions on the wire, in both eras: told across processes, refused as reading is, over when the process ends."""

import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

import anyio
import mcp_types as types
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourceUpdated

from models.ids import new_id
from server.app import build_server
from server.record import Record
from server.subscriptions import MAX_ADDRESSES
from tests.server.support import (
    COMMAND,
    ERAS,
    WAIT_SECONDS,
    ServerProcess,
    environment_of,
    frame_of,
    opened_record,
    request,
    started,
    tool_call,
    tools_of,
)
from tests.support import start_python

pytestmark = pytest.mark.anyio

SESSIONS = "chat://sessions"
KINDS = ("", "/history", "/history?limit=5", "/tool-usage", "/transcript")
WATCHING = "watching for changes"


class Listener:
    """A client of either era that listens to addresses."""

    def __init__(self, where: Any, era: str) -> None:
        self._era = era
        self._told, self._inbox = anyio.create_memory_object_stream[str](1_000)
        self.client = Client(where, mode=era, message_handler=self._note)
        self._stack = AsyncExitStack()

    async def listen(self, *addresses: str) -> None:
        """Listen from now on."""
        if self._era == "legacy":
            for address in addresses:
                await self.client.session.send_request(
                    types.SubscribeRequest(params=types.SubscribeRequestParams(uri=address)), types.EmptyResult
                )
            return
        stream = await self._stack.enter_async_context(self.client.listen(resource_subscriptions=addresses))
        assert stream.honored.resource_subscriptions == list(dict.fromkeys(addresses))
        self._tasks.start_soon(self._forward, stream)

    async def hear(self, *addresses: str) -> None:
        """Wait until each of the addresses was told, and no other."""
        missing = set(addresses)
        with anyio.fail_after(WAIT_SECONDS):
            while missing:
                told = await self._inbox.receive()
                assert told in addresses
                missing.discard(told)

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        await self._stack.enter_async_context(self.client)
        self._tasks = await self._stack.enter_async_context(anyio.create_task_group())
        self._stack.callback(self._tasks.cancel_scope.cancel)
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.__aexit__(*error)
        self._told.close()
        self._inbox.close()

    async def _forward(self, stream: Any) -> None:
        async for event in stream:
            assert isinstance(event, ResourceUpdated)
            self._told.send_nowait(event.uri)

    async def _note(self, message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            self._told.send_nowait(str(message.params.uri))


@asynccontextmanager
async def listener_in_memory(record: Record, era: str) -> AsyncIterator[Listener]:
    async with Listener(build_server(record), era) as listener:
        yield listener


@asynccontextmanager
async def listener_of_process(database_url: str, era: str) -> AsyncIterator[Listener]:
    parameters = StdioServerParameters(
        command="python3", args=[str(COMMAND)], env=environment_of(database_url)
    )
    import sys

    parameters.command = sys.executable
    async with Listener(stdio_client(parameters), era) as listener:
        yield listener


@pytest.mark.parametrize("era", ERAS)
async def test_a_change_of_one_process_reaches_the_listener_of_another(database_url: str, era: str) -> None:
    with started(database_url) as writer:
        session = writer.answer("start_session")["id"]
        address = f"chat://sessions/{session}/history"
        async with listener_of_process(database_url, era) as listener:
            await listener.listen(address, SESSIONS)
            writer.answer("add_messages", session_id=session, messages=[{"role": "user", "content": "heard?"}])
            await listener.hear(address, SESSIONS)
            result = await listener.client.call_tool("get_session_history", {"session_id": session})
            assert result.structured_content is not None
            assert result.structured_content["last_seq"] == 1
            writer.answer("start_session")
            await listener.hear(SESSIONS)
