"""The stores that are compared: where each runs, and how one of its workers is started and spoken to."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.load import Plan
from server.app import server_version
from tests.clients.environments import ROOT, Environment, Failed, Node, NodeCommand, OwnPython, Python

_LONGEST_LINE = 2**26

ADK = Python("peers/google_adk", "google-adk", ("google-adk[db]>=2.13", "aiosqlite"))
LANGGRAPH = Python("peers/langgraph", "langgraph-checkpoint-sqlite", ("langgraph-checkpoint-sqlite>=3.1",))
OPENAI = Python("peers/openai_agents", "openai-agents", ("openai-agents[sqlalchemy]>=0.24", "aiosqlite"))
LANGCHAIN = Python(
    "peers/langchain", "langchain-community", ("langchain-community>=0.4", "SQLAlchemy[asyncio]>=2", "aiosqlite")
)
MEMORY = NodeCommand(Node("peers/server_memory", "@modelcontextprotocol/server-memory", "latest"), "mcp-server-memory")
OWN = OwnPython("mcp")


@dataclass(frozen=True)
class Peer:
    """A store: the program beside this file that is its worker, where that runs, and its own word for a variant."""

    name: str
    worker: str
    environment: Environment
    mode: str = ""

    @property
    def version(self) -> str:
        """The version of the store."""
        return server_version() if self.environment is OWN else self.environment.version()

    @property
    def interpreter(self) -> Path:
        """What runs the worker."""
        return self.environment.interpreter if isinstance(self.environment, Python) else Path(sys.executable)

    @property
    def command(self) -> list[str]:
        """How a server is started, where a server it is."""
        if isinstance(self.environment, NodeCommand):
            return self.environment.command()
        return [sys.executable, str(ROOT / "mcp_chat_server.py")] if self.environment is OWN else []


OURS = Peer("ours", "worker_ours", OWN)


async def ask(peer: Peer, plan: Plan) -> Any:
    """Run one worker to its end and return its answer."""
    process = await start(peer, plan)
    try:
        answer = await line(process)
        await end(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return answer


async def start(peer: Peer, plan: Plan) -> Process:
    return await asyncio.create_subprocess_exec(
        *(str(peer.interpreter), "-m", f"benchmarks.peers.{peer.worker}", json.dumps(asdict(plan))),
        cwd=Path(plan.store).parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        stdin=PIPE,
        stdout=PIPE,
        # What a store logs about an error is told by the error.
        stderr=DEVNULL,
        limit=_LONGEST_LINE,
    )


async def line(process: Process) -> Any:
    assert process.stdout is not None
    answer = await process.stdout.readline()
    if not answer:
        raise Failed(f"a worker exited with {await process.wait()} before it had answered")
    return json.loads(answer)


async def end(process: Process) -> None:
    if await process.wait() != 0:
        raise Failed(f"a worker exited with {process.returncode} after it had answered")
