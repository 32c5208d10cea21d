"""What the tests of the server share: clients of both eras in memory, and a server process on raw pipes."""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import mcp_types as types
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from models.database import Database
from models.tables import metadata
from models.text import to_json
from server.app import build_server
from server.record import Record
from server.settings import Settings
from server.tools.binding import Tool
from tests.support import ROOT

ERAS = ("auto", "legacy")
"""How a client begins: `auto` finds the stateless protocol of 2026, `legacy` shakes hands as older clients do."""

COMMAND = ROOT / "mcp_chat_server.py"
WAIT_SECONDS = 60.0
"""So long a test waits for what must come; nothing is measured against it."""

MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


class Tools:
    """A client's tools: called, and judged whether they answered or refused."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def call(self, name: str, **arguments: Any) -> types.CallToolResult:
        """Call a tool and return whatever came of it."""
        return await self.client.call_tool(name, arguments)

    async def answer(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool that must answer, and return its structured result."""
        result = await self.call(name, **arguments)
        assert not result.is_error, text_of(result)
        structured: dict[str, Any] | None = result.structured_content
        assert structured is not None
        return structured

    async def refusal(self, name: str, **arguments: Any) -> str:
        """Call a tool that must refuse, and return its sentence."""
        result = await self.call(name, **arguments)
        assert result.is_error, text_of(result)[:500]
        assert result.structured_content is None
        return text_of(result)

    async def new_session(self, **more: Any) -> str:
        """Start a session and return its handle."""
        return str((await self.answer("start_session", **more))["id"])

    async def say(self, session_id: str, *contents: str) -> list[int]:
        """Append messages of a user and return their seqs."""
        messages = [{"role": "user", "content": content} for content in contents]
        stored = await self.answer("add_messages", session_id=session_id, messages=messages)
        return [message["seq"] for message in stored["messages"]]

    async def read_whole(self, session_id: str, entry_seq: int) -> tuple[str, str]:
        """Read one entry in pieces, and return its content type and its whole text."""
        pieces: list[str] = []
        arguments: dict[str, Any] = {"session_id": session_id, "entry_seq": entry_seq}
        while True:
            piece = (await self.answer("get_session_history", **arguments))["piece"]
            assert piece["content_offset"] == sum(map(len, pieces))
            pieces.append(piece["content"])
            if "next_content_offset" not in piece:
                assert piece["content_length"] == sum(map(len, pieces))
                return piece["content_type"], "".join(pieces)
            arguments["content_offset"] = piece["next_content_offset"]


@asynccontextmanager
async def opened_record(database_url: str, user: str = "ada", **more: Any) -> AsyncIterator[Record]:
    """Open a record and close it at the end."""
    record = Record(Settings(database_url=database_url, user=user, **more))
    try:
        yield record
    finally:
        await record.close()


@asynccontextmanager
async def connected(record: Record, era: str = "auto", client_name: str = "mcp") -> AsyncIterator[Tools]:
    """Connect a client to a server in memory."""
    about = types.Implementation(name=client_name, version="1")
    try:
        async with Client(build_server(record), mode=era, client_info=about) as client:
            yield Tools(client)
    except BaseExceptionGroup as group:
        raise _only_one_of(group) from None


@asynccontextmanager
async def tools_of(
    database_url: str, era: str = "auto", user: str = "ada", client_name: str = "mcp", **more: Any
) -> AsyncIterator[Tools]:
    """Connect a client in memory to a server over a record of its own."""
    async with opened_record(database_url, user, **more) as record, connected(record, era, client_name) as tools:
        yield tools


@asynccontextmanager
async def tools_of_process(database_url: str, era: str = "auto") -> AsyncIterator[Tools]:
    """Connect a client to the real command, in a process of its own."""
    environment = environment_of(database_url)
    parameters = StdioServerParameters(command=sys.executable, args=[str(COMMAND)], env=environment)
    with tempfile.TemporaryFile("w+") as errors:
        try:
            async with Client(stdio_client(parameters, errlog=errors), mode=era) as client:
                yield Tools(client)
        except BaseExceptionGroup as group:
            raise _only_one_of(group) from None


async def call_directly(tool: Tool, record: Record, arguments: dict[str, Any]) -> types.CallToolResult:
    """Call a tool with values that no client can carry."""
    return types.CallToolResult.model_validate(await tool.call(record.caller, arguments), by_name=False)


async def everything(database: Database) -> dict[str, list[Any]]:
    """Return every row of every table."""

    def rows(connection: Any) -> dict[str, list[Any]]:
        return {table.name: list(connection.execute(table.select()).all()) for table in metadata.sorted_tables}

    return await database.read(rows)


def alternatives(schema: dict[str, Any], definitions: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the schemas of which a value must fit one, references looked up."""
    if "$ref" in schema:
        yield from alternatives(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    elif "anyOf" in schema or "oneOf" in schema:
        for each in schema.get("anyOf", schema.get("oneOf", ())):
            yield from alternatives(each, definitions)
    else:
        yield schema


def text_of(result: types.CallToolResult) -> str:
    """Return the texts of a result, one after the other."""
    return "\n".join(block.text for block in result.content if isinstance(block, types.TextContent))


def size_of(result: types.CallToolResult) -> int:
    """Return how many characters a result holds, as text or as JSON, whichever is more."""
    return max(len(text_of(result)), len(to_json(result.structured_content)))


def environment_of(database_url: str | None, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment in which nothing of the tester's own settings shows."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MCP_CHAT_", "PYTHON"))}
    given = {} if database_url is None else {"MCP_CHAT_DATABASE_URL": database_url, "MCP_CHAT_USER": "ada"}
    return kept | given | dict(more or {})


def request(request_id: Any, method: str, **params: Any) -> dict[str, Any]:
    """Make a request of the stateless protocol."""
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {**params, "_meta": MODERN}}


def tool_call(request_id: Any, name: str, **arguments: Any) -> dict[str, Any]:
    """Make a call of a tool."""
    return request(request_id, "tools/call", name=name, arguments=arguments)


def frame_of(message: Mapping[str, Any]) -> bytes:
    """Write a message as a line."""
    return json.dumps(message).encode() + b"\n"


class ServerProcess:
    """A server process whose frames are sent and read one by one."""

    def __init__(self, environment: Mapping[str, str], folder: Path | None = None, *flags: str) -> None:
        # Appended to by the server, whatever is read of it meanwhile.
        self._errors = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - closed by close()
        self.process = subprocess.Popen(
            [sys.executable, *flags, str(COMMAND)],
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._next_id = 1_000

    def send(self, *frames: bytes) -> None:
        """Send bytes as they are."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"".join(frames))
        self.process.stdin.flush()

    def send_what_it_takes(self, frames: Iterable[bytes]) -> None:
        """Send frames for as long as the server is there to read them."""
        with suppress(BrokenPipeError):
            for frame in frames:
                self.send(frame)

    def receive(self) -> dict[str, Any]:
        """Wait for the next frame; whatever is not JSON fails the test."""
        line = self._lines.get(timeout=WAIT_SECONDS)
        assert line is not None, f"the server has gone: {self.errors()}"
        frame: dict[str, Any] = json.loads(line)
        assert frame["jsonrpc"] == "2.0"
        return frame

    def receive_all(self) -> list[dict[str, Any]]:
        """Wait for the end of stdout and return every frame until there."""
        frames: list[dict[str, Any]] = []
        while (line := self._lines.get(timeout=WAIT_SECONDS)) is not None:
            frames.append(json.loads(line))
        return frames

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Send a message and return the next frame."""
        self.send(frame_of(message))
        return self.receive()

    def call(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool and return its result as it stands on the wire."""
        self._next_id += 1
        frame = self.ask(tool_call(self._next_id, name, **arguments))
        assert frame["id"] == self._next_id, frame
        result: dict[str, Any] = frame["result"]
        return result

    def answer(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool that must answer, and return its structured result."""
        result = self.call(name, **arguments)
        assert not result["isError"], result["content"]
        structured: dict[str, Any] = result["structuredContent"]
        return structured

    def end_input(self) -> None:
        """Close the server's stdin."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def wait(self) -> int:
        """Wait for the process to end and return its exit code."""
        return self.process.wait(WAIT_SECONDS)

    def errors(self) -> str:
        """Return what was written to stderr until now."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.end_input()
            self.wait()
        except (OSError, subprocess.TimeoutExpired):
            pass
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._reader.join()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self._errors.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)


@contextmanager
def started(database_url: str | None, folder: Path | None = None, **environment: str) -> Iterator[ServerProcess]:
    """Start the command on pipes, and end it at the end."""
    with ServerProcess(environment_of(database_url, environment), folder) as server:
        yield server


def _only_one_of(error: BaseException) -> BaseException:
    # Task groups wrap the assertion that failed: a report should begin with it.
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
