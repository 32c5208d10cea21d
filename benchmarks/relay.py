"""What the relay adds to a call: the same calls to the same server, with and without it, in turn.

The server answers at once and does nothing, and the client is raw, so that what is measured is the way alone; a server
of the SDK with a tool that adds two numbers shows what that is beside a real one. Calls come one after the other.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.wire import HELLO, OURS

CALLS = 200
NOTHING = """
import json, os
rest = b""
while chunk := os.read(0, 65536):
    *lines, rest = (rest + chunk).split(b"\\n")
    for line in lines:
        message = json.loads(line)
        if "id" in message:
            answer = {"jsonrpc": "2.0", "id": message["id"], "result": {"protocolVersion": "2025-11-25", "content": []}}
            os.write(1, json.dumps(answer).encode() + b"\\n")
"""
_HANDSHAKE = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "benchmark", "version": "1"}}
SERVERS = {"one that does nothing": [sys.executable, "-c", NOTHING], "one of the SDK": [*HELLO]}


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds: of the handshake from the start of the process, and of each call."""

    handshake: float
    calls: list[float]


@asynccontextmanager
async def _started(command: Sequence[str], url: str) -> AsyncIterator[Any]:
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    environment = {**os.environ, "MCP_CHAT_DATABASE_URL": url}
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=nothing, env=environment)
    to_server, from_server = process.stdin, process.stdout
    assert to_server is not None
    assert from_server is not None

    async def ask(number: int, method: str, params: dict[str, Any]) -> float:
        frame = json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode() + b"\n"
        began = time.perf_counter()
        to_server.write(frame)
        answer = await from_server.readline()
        took = time.perf_counter() - began
        assert b'"result"' in answer, answer
        return took

    try:
        yield ask
    finally:
        to_server.close()
        await process.wait()


async def take(command: Sequence[str], url: str) -> Taken:
    """Start a server, shake hands, and call its tool so many times."""
    began = time.perf_counter()
    async with _started(command, url) as ask:
        await ask(0, "initialize", _HANDSHAKE)
        handshake = time.perf_counter() - began
        calls = [
            await ask(number, "tools/call", {"name": "add", "arguments": {"a": number, "b": 2}})
            for number in range(1, CALLS + 1)
        ]
    return Taken(handshake, calls)


async def main(rounds: int) -> None:
    """Print the table."""
    print(f"a call with and without the relay, median and 99th percentile of {rounds} × {CALLS}, in turn")
    print(f"{'server':22} {'':8} {'handshake':>12} {'p50':>9} {'×':>5} {'p99':>9}")
    relay = [*OURS, "record", "--wait", "60", "--"]
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite+aiosqlite:///{folder}/chat.db"
        for name, server in SERVERS.items():
            taken: dict[str, list[Taken]] = {"without": [], "with": []}
            for _ in range(rounds):
                taken["without"].append(await take(server, url))
                taken["with"].append(await take([*relay, *server], url))
            floor = _median([each for one in taken["without"] for each in one.calls])
            for way, several in taken.items():
                calls = sorted(each for one in several for each in one.calls)
                handshake = _median([one.handshake for one in several]) * 1e3
                p50, p99 = _median(calls), calls[len(calls) * 99 // 100]
                cells = f"{handshake:>9.0f} ms {p50 * 1e6:>6.0f} µs {p50 / floor:>5.2f} {p99 * 1e6:>6.0f} µs"
                print(f"{name:22} {way:8} {cells}")


def _median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


if __name__ == "__main__":
    asyncio.run(main(9))
