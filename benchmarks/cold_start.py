"""Cold start: from starting the process to the handshake's answer and to the first tool's answer.

The floor is a server of the same SDK with one tool that adds two numbers. Both are taken in turn, with a raw client, so
that the client's own cost is the same few microseconds on both sides. Ours answers from a database that exists, as at
every start but the first; the first start of all, which creates it, is a line of its own.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HELLO = """
from mcp.server.mcpserver import MCPServer
app = MCPServer("hello")
@app.tool()
def add(a: int, b: int) -> int:
    "Add two numbers."
    return a + b
app.run()
"""
_HANDSHAKE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "benchmark", "version": "1"},
}


@dataclass(frozen=True, slots=True)
class Start:
    """One start: seconds to the handshake's answer and to the first tool's, and kilobytes held then."""

    handshake: float
    first_tool: float
    memory: int


async def start(command: Sequence[str], environment: Mapping[str, str], tool: str, arguments: dict[str, Any]) -> Start:
    """Start a server, shake hands, call a tool, and end it."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    to_server, from_server = process.stdin, process.stdout
    assert to_server is not None
    assert from_server is not None

    async def ask(number: int, method: str, params: dict[str, Any]) -> dict[str, Any]:
        request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        to_server.write(json.dumps(request).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await from_server.readline())
        assert "result" in answer, answer
        return answer

    await ask(1, "initialize", _HANDSHAKE)
    handshake = time.perf_counter() - began
    to_server.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
    answer = await ask(2, "tools/call", {"name": tool, "arguments": arguments})
    assert not answer["result"].get("isError"), answer
    first_tool = time.perf_counter() - began
    memory = _resident(process.pid)
    to_server.close()
    await process.wait()
    return Start(handshake, first_tool, memory)


async def main(rounds: int) -> None:
    """Print the table."""
    hello = [sys.executable, "-c", HELLO]
    ours = [sys.executable, str(ROOT / "mcp_chat_server.py")]
    starts: dict[str, list[Start]] = {"SDK hello-world": [], "ours": [], "ours, first of all": []}
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite+aiosqlite:///{folder}/chat.db"
        await start(ours, {"MCP_CHAT_DATABASE_URL": url}, "list_sessions", {})
        for index in range(rounds):
            starts["SDK hello-world"].append(await start(hello, {}, "add", {"a": 1, "b": 2}))
            starts["ours"].append(await start(ours, {"MCP_CHAT_DATABASE_URL": url}, "list_sessions", {}))
            fresh = f"sqlite+aiosqlite:///{folder}/fresh-{index}.db"
            starts["ours, first of all"].append(
                await start(ours, {"MCP_CHAT_DATABASE_URL": fresh}, "list_sessions", {})
            )
    floor = starts["SDK hello-world"]
    print(f"cold start, median of {rounds}, in turn; × is the ratio to the SDK's hello-world")
    print(f"{'':20} {'handshake':>12} {'×':>5} {'first tool':>12} {'×':>5} {'memory':>9} {'×':>5}")
    for name, taken in starts.items():
        cells = []
        for field, unit, scale in (("handshake", "ms", 1e3), ("first_tool", "ms", 1e3), ("memory", "MB", 1 / 1024)):
            value = _median(taken, field)
            cells.append(f"{value * scale:>9.0f} {unit} {value / _median(floor, field):>5.2f}")
        print(f"{name:20} {' '.join(cells)}")


def _median(starts: Sequence[Start], field: str) -> float:
    return float(statistics.median(getattr(each, field) for each in starts))


def _resident(process_id: int) -> int:
    try:
        status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


if __name__ == "__main__":
    asyncio.run(main(15))
