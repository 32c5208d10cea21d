"""A raw client: one server process, one line out and one line in, so that a client's own cost is next to nothing."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

OURS = (sys.executable, str(ROOT / "mcp_chat_server.py"))
"""The command that starts our server over stdio."""

HELLO = (
    *(sys.executable, "-c"),
    """
from mcp.server.mcpserver import MCPServer
app = MCPServer("hello")
@app.tool()
def add(a: int, b: int) -> int:
    "Add two numbers."
    return a + b
@app.tool()
def nothing() -> str:
    "Do nothing."
    return "ok"
app.run()
""",
)
"""A server of the same SDK, as its documentation writes one: a tool that adds, and one that does nothing."""

BARE = (
    *(sys.executable, "-c"),
    """
import anyio
import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
ANSWER = types.CallToolResult(content=[types.TextContent(type="text", text="ok")], structured_content={"result": "ok"})
TOOL = types.Tool(name="nothing", input_schema={"type": "object"})
async def list_tools(context, params):
    return types.ListToolsResult(tools=[TOOL])
async def call_tool(context, params):
    return ANSWER
async def main():
    server = Server("bare", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (inward, outward):
        await server.run(inward, outward, server.create_initialization_options())
anyio.run(main)
""",
)
"""The least that the same SDK can serve: its low-level server, and an answer that was made beforehand."""

_LONGEST_LINE = 2**26
_HANDSHAKE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "benchmark", "version": "1"},
}


class Wire:
    """A server process, spoken to line by line."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._number = 0

    async def shake_hands(self) -> None:
        """Begin as the SDK's older clients do."""
        await self.ask("initialize", _HANDSHAKE)
        self._to_server.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')

    async def ask(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and return its result, which must be none of an error."""
        answer = json.loads(await self._exchange(method, params))
        assert "result" in answer, answer
        result: dict[str, Any] = answer["result"]
        assert not result.get("isError"), result
        return result

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> bytes:
        """Call a tool and return the line that answers it, unread: reading it is the client's cost."""
        line = await self._exchange("tools/call", {"name": tool, "arguments": arguments})
        assert b'"error":' not in line[:200], line
        assert b'"isError":true' not in line, line
        return line

    async def _exchange(self, method: str, params: Mapping[str, Any]) -> bytes:
        self._number += 1
        request = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        self._to_server.write(json.dumps(request).encode() + b"\n")
        assert self.process.stdout is not None
        return await self.process.stdout.readline()

    @property
    def _to_server(self) -> asyncio.StreamWriter:
        assert self.process.stdin is not None
        return self.process.stdin


@asynccontextmanager
async def started(command: Sequence[str], environment: Mapping[str, str] | None = None) -> AsyncIterator[Wire]:
    """Start a server, and end it by closing its standard input."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=PIPE,
        stdout=PIPE,
        stderr=DEVNULL,
        env={**os.environ, **(environment or {})},
        limit=_LONGEST_LINE,
    )
    try:
        yield Wire(process)
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def connected(command: Sequence[str], environment: Mapping[str, str] | None = None) -> AsyncIterator[Wire]:
    """Start a server and shake hands."""
    async with started(command, environment) as wire:
        await wire.shake_hands()
        yield wire
