"""A server and a client of the SDK with the relay between them, in both eras of the protocol."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from tests.server.relay.support import RECORD, recorded_in
from tests.server.support import ERAS, environment_of

pytestmark = pytest.mark.anyio

SERVER = Path(__file__).with_name("sdk_server.py")
DIRECT = [sys.executable, str(SERVER)]


async def tell(command: list[str], url: str, era: str) -> list[Any]:
    """Tell a story to a server, and return what the client saw."""
    parameters = StdioServerParameters(command=command[0], args=command[1:], env=environment_of(url))
    with tempfile.TemporaryFile("w+") as errors:
        async with Client(stdio_client(parameters, errlog=errors), mode=era) as client:
            return await story(client)


async def story(client: Client) -> list[Any]:
    seen: list[Any] = [str(client.protocol_version), [tool.name for tool in (await client.list_tools()).tools]]
    heard: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    seen.append((await client.call_tool("add", {"a": 1, "b": 2})).structured_content)
    seen.append((await client.call_tool("refuse", {})).is_error)
    seen.append((await client.call_tool("count", {"to": 3}, progress_callback=note)).structured_content)
    seen.append(heard)
    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(client.call_tool, "add", {"a": number, "b": number})
    with anyio.move_on_after(0.2):
        await client.call_tool("sleep", {})
    seen.append((await client.call_tool("add", {"a": 5, "b": 6})).structured_content)
    return seen


SEEN = [
    ["add", "refuse", "count", "sleep"],
    {"result": 3},
    True,
    {"result": "counted"},
    [0, 1, 2],
    {"result": 11},
]
OUTCOMES = [("add", "success")] * 7 + [("count", "success"), ("refuse", "error"), ("sleep", "cancelled")]


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_sees_the_same_and_each_call_is_recorded_once(era: str, database_url: str) -> None:
    without = await tell(DIRECT, database_url, era)
    through = await tell([*RECORD, "--wait", "60", "--", *DIRECT], database_url, era)
    assert through == without
    assert through[1:] == SEEN
    recorded = await recorded_in(database_url)
    assert sorted(recorded.outcomes()) == OUTCOMES
    assert {(each["server_name"], (each["call_metadata"] or {})["client"]) for each in recorded.calls} == {
        ("sdk tools", "mcp")
    }
