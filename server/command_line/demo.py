"""The demo: a conversation is recorded by a real server, the server is killed, and everything is still there.

It starts the server as a client would, over stdio, with a database in a temporary folder; plays a transcript to it
through the MCP tools; kills it in the middle and goes on with a new one; kills that too, and reads everything back
through the tools, entry by entry.
"""

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models.errors import Invalid, Unavailable
from models.inputs import NewMessage, NewToolUsage
from models.text import to_json
from server.command_line.config import server_command
from server.command_line.terminal import say
from server.settings import PREFIX, url_of

if TYPE_CHECKING:
    from chat_service.transcripts.neutral import Transcript
    from server.command_line.subprocess_client import ServerProcess

_BATCH = 100
_WIDTH = 110
_LARGEST = 4_194_304

_NEXT = """
This record was the demo's own, and is gone. Yours begins with what you have, or with what you say next:
  mcp-chat-server import claude-code ~/.claude/projects
  mcp-chat-server config claude-code"""

Entry = NewMessage | NewToolUsage


def demo(
    transcript: Annotated[
        Path | None, typer.Argument(help="A Claude Code transcript (.jsonl) to play instead of our own.")
    ] = None,
) -> None:
    """Record a conversation with a real server, kill it twice, and read everything back."""
    from chat_service.transcripts import claude_code

    name = str(transcript or "our own transcript")
    read = claude_code.read(_lines(transcript))
    if not read.entries:
        raise Invalid(f"{name} holds no messages: name a Claude Code transcript (.jsonl).")
    with tempfile.TemporaryDirectory(prefix="mcp-chat-demo-", ignore_cleanup_errors=True) as folder:
        asyncio.run(_play(read, name, Path(folder)))


def _lines(path: Path | None) -> Sequence[str]:
    if path is None:
        return (files("server.command_line") / "demo_transcript.jsonl").read_text(encoding="utf-8").split("\n")
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            return list(file)
    except OSError as error:
        raise Invalid(f"{path} cannot be read ({error.strerror}): name a Claude Code transcript (.jsonl).") from None


async def _play(transcript: "Transcript", name: str, folder: Path) -> None:
    from server.command_line.subprocess_client import start_server

    database = folder / "chat.db"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)} | {
        f"{PREFIX}DATABASE_URL": url_of(database),
        f"{PREFIX}USER": "demo",
        f"{PREFIX}MAX_CONTENT_BYTES": str(_LARGEST),
        f"{PREFIX}MAX_FRAME_BYTES": str(_LARGEST * 4),
    }
    command = server_command()
    calls = list(_calls(transcript.entries))
    middle = len(calls) // 2
    began = time.perf_counter()
    say(f"Recording {len(transcript.entries)} entries of {name} through a server over stdio …")
    async with start_server(command, environment) as server:
        started = {"title": transcript.title, "metadata": {"workspace": transcript.workspace}}
        session_id = (await _call(server, "start_session", started))["id"]
        await _send(server, session_id, calls[:middle])
        await server.kill()
    say("Killed the server in the middle (SIGKILL); the next one goes on, repeating the last call.")
    async with start_server(command, environment) as server:
        await _send(server, session_id, calls[max(middle - 1, 0) :])
        await server.kill()
    recorded = time.perf_counter() - began
    say("Killed it again. A third one reads the session back:\n")
    async with start_server(command, environment) as server:
        began = time.perf_counter()
        stored = [entry async for entry in _read_back(server, session_id, len(transcript.entries))]
        was_read = time.perf_counter() - began
    _compare(transcript.entries, stored)
    for entry in stored:
        say(_shown(entry))
    _summarize(transcript, stored, database.stat().st_size)
    say(f"recorded in {recorded:.1f} s with two kills and restarts, read back whole in {was_read:.1f} s")
    say(_NEXT)


def _calls(entries: Sequence[Entry]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Turn entries into tool calls: messages that follow each other go in one."""
    batch: list[dict[str, Any]] = []
    for entry in entries:
        if isinstance(entry, NewMessage):
            batch.append(_message_argument(entry))
        if batch and (isinstance(entry, NewToolUsage) or len(batch) == _BATCH):
            yield "add_messages", {"messages": batch}
            batch = []
        if isinstance(entry, NewToolUsage):
            given = entry.model_dump(mode="json", exclude_none=True, exclude={"origin", "started_at"})
            yield "log_tool_usage", given
    if batch:
        yield "add_messages", {"messages": batch}


def _message_argument(message: NewMessage) -> dict[str, Any]:
    given = message.model_dump(mode="json", exclude_none=True, exclude={"author", "kind", "token_count"})
    if "message_metadata" in given:
        given["metadata"] = given.pop("message_metadata")
    return given


async def _send(server: "ServerProcess", session_id: str, calls: Sequence[tuple[str, dict[str, Any]]]) -> None:
    for tool, arguments in calls:
        await _call(server, tool, {"session_id": session_id, **arguments})


async def _call(server: "ServerProcess", tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    result = await server.client.call_tool(tool, arguments)
    if result.is_error or result.structured_content is None:
        raise Unavailable(f"{tool} was refused: {getattr(result.content[0], 'text', '')}")
    content: dict[str, Any] = result.structured_content
    return content


async def _read_back(server: "ServerProcess", session_id: str, count: int) -> Any:
    """Read every entry in detail; where a text is too long for one result, read the entry in pieces."""
    seq = 0
    while seq < count:
        page = await _call(
            server, "get_session_history", {"session_id": session_id, "after_seq": seq, "detail": "detailed"}
        )
        for entry in page["entries"]:
            yield await _whole(server, session_id, entry)
        seq = page["after_seq"]


async def _whole(server: "ServerProcess", session_id: str, entry: dict[str, Any]) -> dict[str, Any]:
    if not any(name.endswith("_length") for name in entry):
        return entry
    pieces, offset = [], 0
    while True:
        arguments = {"session_id": session_id, "entry_seq": entry["seq"], "content_offset": offset}
        piece = (await _call(server, "get_session_history", arguments))["piece"]
        pieces.append(piece["content"])
        if "next_content_offset" not in piece:
            break
        offset = piece["next_content_offset"]
    text = "".join(pieces)
    if piece["content_type"] == "text/plain":
        whole: dict[str, Any] = {**entry, "content": text}
        del whole["content_length"]
        return whole
    names = {"message_type": "role", "message_metadata": "metadata"}
    return {names.get(name, name): value for name, value in json.loads(text).items() if value is not None}


def _compare(entries: Sequence[Entry], stored: Sequence[dict[str, Any]]) -> None:
    """Raise Unavailable where what was read back is not what was sent, entry by entry and in order."""
    if [entry["seq"] for entry in stored] != list(range(1, len(entries) + 1)):
        raise Unavailable(f"{len(entries)} entries were sent, {len(stored)} read back: the record is not whole.")
    for entry, kept in zip(entries, stored, strict=True):
        expected = _message_argument(entry) if isinstance(entry, NewMessage) else entry.model_dump(exclude_none=True)
        for name in ("role", "content", "parts", "metadata", "model", "usage", "tool_name", "arguments", "result"):
            if expected.get(name) != kept.get(name):
                raise Unavailable(f"entry {kept['seq']} was read back with another {name}: the record is wrong.")
        if isinstance(entry, NewToolUsage) and (entry.outcome, entry.error) != (kept["status"], kept.get("error")):
            raise Unavailable(f"entry {kept['seq']} was read back with another outcome: the record is wrong.")


def _shown(entry: dict[str, Any]) -> str:
    if "role" in entry:
        thought = next((part["content"] for part in entry.get("parts", []) if part["type"] == "reasoning"), "")
        called = [part.get("name", "") for part in entry.get("parts", []) if part["type"] == "tool_call"]
        text = entry.get("content") or (thought and f"(thinks) {thought}") or ""
        return _cut(f"{entry['seq']:>4} {entry['role']:<9} {text}{' → ' + ', '.join(called) if called else ''}")
    outcome = entry.get("error") or ("" if entry.get("result") is None else to_json(entry["result"]))
    call = f"{entry['tool_name']} {to_json(entry['arguments'])}"
    return _cut(f"{entry['seq']:>4} {'tool':<9} {call}") + "\n" + _cut(f"{'':14} {entry['status']}: {outcome}")


def _cut(text: str) -> str:
    line = " ".join(text.split("\n")).rstrip()
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"


def _summarize(transcript: "Transcript", stored: Sequence[dict[str, Any]], size: int) -> None:
    usages = [entry for entry in stored if "tool_name" in entry]
    joined = sum("message_seq" in entry for entry in usages)
    failed = sum(entry["status"] == "error" for entry in usages)
    say(f"\n{len(stored)} entries, seq 1 to {len(stored)} without a gap, each equal to what was sent:")
    say(f"  {len(stored) - len(usages)} messages")
    say(f"  {len(usages)} tool calls with their results, {joined} joined to the message that asked, {failed} in error")
    if transcript.left_out:
        say("  not part of the conversation: " + ", ".join(f"{n} {kind}" for kind, n in transcript.left_out.items()))
    say(f"database {size / 1024:.0f} KiB")
