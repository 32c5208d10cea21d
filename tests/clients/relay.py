"""Other people's clients call other people's servers through `record`: `python -m tests.clients.relay`.

Each pair is run without the relay and with it. A tap before the relay and one behind it keep every byte: these must be
equal, what the client says must be equal without the relay, and every call must be on record once.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chat_service.service import ChatService
from models.database import Database
from models.ids import UserId
from models.inputs import NewUser
from tests.clients.calls import Outcome, Plan
from tests.clients.environments import ROOT, Node, NodeCommand
from tests.clients.run import INSPECTOR, PYTHON, Client, Row, print_table
from tests.conftest import url_of

USER = "visitor"
TAP = Path(__file__).with_name("tap.py")
NOTE = {"name": "Ünïcode 東京", "entityType": "place", "observations": ['"quoted" \\ 👋🏽']}

EVERYTHING = NodeCommand(
    Node("server_everything", "@modelcontextprotocol/server-everything", "2026"), "mcp-server-everything"
)
MEMORY = NodeCommand(Node("server_memory", "@modelcontextprotocol/server-memory", "2026"), "mcp-server-memory")


@dataclass(frozen=True)
class Server:
    """A server of somebody else's: how it is started with a folder of its own, and what is called of it."""

    name: str
    environment: NodeCommand | None
    command: Callable[[], list[str]]
    calls: Sequence[tuple[str, dict[str, Any]]]


SERVERS = (
    Server(
        "everything",
        EVERYTHING,
        lambda: [*EVERYTHING.command(), "stdio"],
        [("echo", {"message": "Grüße 👋"}), ("get-sum", {"a": 2, "b": 3}), ("no-such-tool", {})],
    ),
    Server(
        "memory",
        MEMORY,
        MEMORY.command,
        [("create_entities", {"entities": [NOTE]}), ("read_graph", {}), ("open_nodes", {"names": 5})],
    ),
    Server(
        "python-sdk",
        None,
        lambda: [sys.executable, str(ROOT / "tests" / "server" / "relay" / "sdk_server.py")],
        [("add", {"a": 1, "b": 2}), ("refuse", {})],
    ),
)
TYPESCRIPT = Node("typescript", "@modelcontextprotocol/sdk", "1")
CALLERS = (
    Client("python", "caller_python", PYTHON, "auto"),
    Client("typescript-1", "caller_typescript.mjs", TYPESCRIPT),
    Client("inspector", "caller_inspector", INSPECTOR, "legacy"),
)


def main() -> int:
    """Run every pair, print a table, and return how to exit."""
    parser = argparse.ArgumentParser(prog="python -m tests.clients.relay", description=__doc__)
    parser.add_argument("--only", metavar="CLIENT", choices=[client.name for client in CALLERS], action="append")
    only = parser.parse_args().only
    clients = [client for client in CALLERS if only is None or client.name in only]
    rows = [_try(client, server) for client in clients for server in SERVERS]
    print_table(rows)
    return 0 if all(row.outcome.startswith("equal") for row in rows) else 1


def _try(client: Client, server: Server) -> Row:
    name = f"{client.name} → {server.name}"
    try:
        version = ""
        for environment in (client.environment, server.environment):
            if environment is not None:
                environment.set_up()
                version += f" {environment.version()}"
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            outcome = _compare(client, server, Path(folder))
    except Exception as failure:
        # Whatever it was, the others are still asked.
        print(f"{name}: FAILED: {type(failure).__name__}: {failure}", flush=True)
        return Row(name, "-", "-", "FAILED")
    print(f"{name}: {outcome}", flush=True)
    return Row(name, version.strip(), client.mode or "-", outcome)


def _compare(client: Client, server: Server, folder: Path) -> str:
    url = url_of(folder / "chat.db")

    def tap(name: str, command: list[str]) -> list[str]:
        return [sys.executable, str(TAP), str(folder), name, *command]

    record = [sys.executable, str(ROOT / "mcp_chat_server.py"), "record", "--wait", "60", "--"]
    without = _run(client, server, tap("without", server.command()), folder / "without", url)
    through = tap("before", [*record, *tap("behind", server.command())])
    outcomes = _run(client, server, through, folder / "with", url)
    assert outcomes == without, f"{outcomes} is not {without}"
    kept = {path.name: path.read_bytes() for path in folder.glob("*.*") if path.suffix in (".sent", ".answered")}
    for way in ("sent", "answered"):
        assert kept[f"before.{way}"] == kept[f"behind.{way}"], f"what was {way} is not the same behind the relay"
    assert kept["before.sent"] == kept["without.sent"], "the client speaks otherwise through the relay"
    recorded = asyncio.run(_check(url, server, outcomes))
    size = len(kept["before.sent"]) + len(kept["before.answered"])
    return f"equal, {size} bytes, {recorded} calls recorded"


def _run(client: Client, server: Server, command: list[str], folder: Path, url: str) -> list[Outcome]:
    folder.mkdir()
    environment = {
        "MCP_CHAT_DATABASE_URL": url,
        "MCP_CHAT_USER": USER,
        "MEMORY_FILE_PATH": str(folder / "memory.jsonl"),
    }
    program = client.environment.command() if isinstance(client.environment, NodeCommand) else []
    plan = Plan(command[0], command[1:], environment, program, client.mode, list(server.calls))
    plan_file, report_file = folder / "plan.json", folder / "report.json"
    plan_file.write_text(json.dumps(asdict(plan)), encoding="utf-8")
    client.environment.run(client.program, str(plan_file), str(report_file), folder=folder)
    outcomes: list[Outcome] = json.loads(report_file.read_text(encoding="utf-8"))
    return outcomes


async def _check(url: str, server: Server, outcomes: Sequence[Outcome]) -> int:
    async with Database(url) as database:
        service = ChatService(database)
        user_id = UserId((await service.get_or_create_user(NewUser(username=USER)))["id"])
        usages = (await service.get_session_tool_usage(user_id, limit=100))["tool_usages"][::-1]
    expected = [
        (name, arguments, "error" if outcome["failed"] else "success")
        for (name, arguments), outcome in zip(server.calls, outcomes, strict=True)
        # What the client refuses by itself never gets to the server.
        if outcome["content"] is not None
    ]
    recorded = [(usage["tool_name"], usage["arguments"], usage["status"]) for usage in usages]
    assert recorded == expected, f"{recorded} is not {expected}"
    return len(recorded)


if __name__ == "__main__":
    sys.exit(main())
