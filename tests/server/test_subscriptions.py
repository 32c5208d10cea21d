"""Subscriptions on the wire, in both eras: told across processes, refused as reading is, over when the process ends."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
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
    parameters = StdioServerParameters(command=sys.executable, args=[str(COMMAND)], env=environment_of(database_url))
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


@pytest.mark.parametrize("era", ERAS)
async def test_every_resource_of_a_session_can_be_listened_to(database_url: str, era: str) -> None:
    async with opened_record(database_url) as record, listener_in_memory(record, era) as listener:
        session = await new_session(listener)
        addresses = [f"chat://sessions/{session}{kind}" for kind in KINDS]
        await listener.listen(*addresses, addresses[0])
        for _ in range(2):
            await say(listener, session)
            await listener.hear(*addresses)
        await listener.client.call_tool("delete_session", {"session_id": session})
        await listener.hear(*addresses)


@pytest.mark.parametrize("era", ERAS)
async def test_an_address_that_cannot_be_read_cannot_be_listened_to(database_url: str, era: str) -> None:
    async with (
        tools_of(database_url, user="mallory") as mallory,
        opened_record(database_url) as record,
        listener_in_memory(record, era) as listener,
    ):
        foreign = await mallory.new_session()
        for session in (foreign, new_id(), "zq7canary"):
            for kind in KINDS:
                address = f"chat://sessions/{session}{kind}"
                refusal = await refused(listener, address)
                with pytest.raises(MCPError) as unread:
                    await listener.client.read_resource(address)
                assert refusal == unread.value.error.message
                assert "zq7canary" not in refusal
        for address in ("chat://nothing", "file:///etc/passwd", ""):
            assert "not found" in await refused(listener, address)
        assert watchers() == []


@pytest.mark.parametrize("era", ERAS)
async def test_the_addresses_listened_to_are_bounded(database_url: str, era: str) -> None:
    async with opened_record(database_url) as record, listener_in_memory(record, era) as listener:
        addresses = [f"{SESSIONS}?limit={number}" for number in range(MAX_ADDRESSES)]
        if era == "legacy":
            await listener.listen(*addresses)
            await listener.listen(addresses[0])
            assert str(MAX_ADDRESSES) in await refused(listener, SESSIONS)
        else:
            assert str(MAX_ADDRESSES) in await refused(listener, *addresses, SESSIONS)


@pytest.mark.parametrize("era", ERAS)
async def test_nothing_remains_of_a_listener_that_is_gone(database_url: str, era: str) -> None:
    async with opened_record(database_url) as record:
        async with listener_in_memory(record, era) as listener:
            session = await new_session(listener)
            await listener.listen(f"chat://sessions/{session}", SESSIONS)
            assert len(watchers()) == 1
        await nobody_watches()


async def test_who_unsubscribes_is_told_no_more(database_url: str) -> None:
    async with opened_record(database_url) as record, listener_in_memory(record, "legacy") as listener:
        first, second = await new_session(listener), await new_session(listener)
        addresses = [f"chat://sessions/{session}" for session in (first, second)]
        await listener.listen(*addresses)
        for _ in range(2):
            await unsubscribe(listener, addresses[0])
        await say(listener, first)
        await say(listener, second)
        await listener.hear(addresses[1])
        await unsubscribe(listener, addresses[1])
        await nobody_watches()


async def test_a_stream_that_is_cancelled_ends_the_looking(database_url: str) -> None:
    async with opened_record(database_url) as record, listener_in_memory(record, "auto") as listener:
        session = await new_session(listener)
        for _ in range(3):
            async with listener.client.listen(resource_subscriptions=[f"chat://sessions/{session}"]):
                assert len(watchers()) == 1
            await nobody_watches()


# Waiting in a call, and ends with listeners and waiters in flight


def listening(request_id: str, *addresses: str) -> dict[str, Any]:
    """Make a request that opens a stream."""
    return request(request_id, "subscriptions/listen", notifications={"resourceSubscriptions": list(addresses)})


def waiting(request_id: str, session: str, after_seq: int = 0, seconds: float = 30) -> dict[str, Any]:
    """Make a call that waits for an entry."""
    return tool_call(request_id, "get_session_history", session_id=session, after_seq=after_seq, wait_seconds=seconds)


def opened(server: ServerProcess, session: str) -> None:
    """Open a stream and wait for its acknowledgement."""
    acknowledged = server.ask(listening("stream", f"chat://sessions/{session}", SESSIONS))
    assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
    assert acknowledged["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == "stream"


def test_a_call_waits_for_what_another_process_appends(database_url: str) -> None:
    with started(database_url) as reader, started(database_url) as writer:
        session = writer.answer("start_session")["id"]
        reader.send(*(frame_of(waiting(f"w{number}", session)) for number in range(5)))
        # Answered after the waiting calls were taken, and while they wait.
        assert reader.ask(tool_call("first", "list_sessions"))["id"] == "first"
        writer.answer("add_messages", session_id=session, messages=[{"role": "user", "content": "at last"}])
        answers = [reader.receive() for _ in range(5)]
        assert {answer["id"] for answer in answers} == {f"w{number}" for number in range(5)}
        for answer in answers:
            assert [entry["seq"] for entry in answer["result"]["structuredContent"]["entries"]] == [1]
        answer = reader.ask(waiting("over", session, after_seq=1, seconds=0.01))
        assert answer["result"]["structuredContent"]["entries"] == []
        assert reader.ask(waiting("at once", session, after_seq=0))["id"] == "at once"


def test_a_cancelled_wait_and_a_cancelled_stream_are_over(database_url: str) -> None:
    with started(database_url) as server:
        session = server.answer("start_session")["id"]
        opened(server, session)
        server.send(frame_of(waiting("wait", session)))
        for cancelled in ("wait", "stream"):
            params: dict[str, Any] = {"requestId": cancelled, "_meta": {}}
            server.send(frame_of({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}))
        server.answer("add_messages", session_id=session, messages=[{"role": "user", "content": "unheard"}])
        server.end_input()
        assert server.receive_all() == []
        assert server.wait() == 0
        assert server.errors() == ""


@pytest.mark.parametrize("ending", ["EOF", "SIGTERM", "SIGINT"])
def test_an_end_answers_those_who_listen_and_wait_and_does_not_wait_for_them(database_url: str, ending: str) -> None:
    with started(database_url) as server:
        session = server.answer("start_session")["id"]
        opened(server, session)
        server.send(frame_of(waiting("wait", session)))
        assert server.ask(tool_call("taken", "list_sessions"))["id"] == "taken"
        if ending == "EOF":
            server.end_input()
        else:
            server.process.send_signal(getattr(signal, ending))
        ended = {frame["id"]: frame["result"] for frame in server.receive_all()}
        assert ended.keys() == {"stream", "wait"}
        assert ended["wait"]["structuredContent"]["entries"] == []
        assert server.wait() == 0
        assert server.errors() == ""


async def new_session(listener: Listener) -> str:
    result = await listener.client.call_tool("start_session", {})
    assert result.structured_content is not None
    return str(result.structured_content["id"])


async def say(listener: Listener, session: str) -> None:
    messages = [{"role": "user", "content": "hello"}]
    result = await listener.client.call_tool("add_messages", {"session_id": session, "messages": messages})
    assert not result.is_error


async def unsubscribe(listener: Listener, address: str) -> None:
    await listener.client.session.send_request(
        types.UnsubscribeRequest(params=types.UnsubscribeRequestParams(uri=address)), types.EmptyResult
    )


async def refused(listener: Listener, *addresses: str) -> str:
    """Listen where it must be refused, and return the sentence."""
    with pytest.raises(MCPError) as caught:
        await listener.listen(*addresses)
    assert caught.value.error.code == types.INVALID_PARAMS
    return caught.value.error.message


def watchers() -> list[Any]:
    """Return the tasks that look at the file, in this process."""
    return [task for task in asyncio.all_tasks() if task.get_name() == WATCHING]


async def nobody_watches() -> None:
    """Wait until nobody looks at the file."""
    with anyio.fail_after(WAIT_SECONDS):
        while remaining := watchers():
            await asyncio.wait(remaining)
