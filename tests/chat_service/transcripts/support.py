"""Writes conversations in the shape of each client's files, imports them, and reads back what the history says."""

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from hypothesis import strategies as st

from chat_service import blobs
from chat_service.import_sessions import Origin
from chat_service.imports import import_lines
from chat_service.service import ChatService
from chat_service.transcripts.formats import FORMATS
from models.ids import SessionId, UserId
from models.shapes import ImportDict, SessionDict
from tests.support import JSON_OBJECTS, TEXTS

NAME = "the-file"


@dataclass(frozen=True)
class Said:
    """A turn: `what` is said, thought, shown (an image), or done with a tool."""

    what: Literal["user", "assistant", "thought", "image", "tool"]
    text: str = ""
    tool: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    result: str | None = None
    failed: bool = False


SOMETHING = TEXTS.filter(lambda text: bool(text.strip()))
TURNS = st.one_of(
    st.builds(Said, st.sampled_from(["user", "assistant"]), SOMETHING),
    st.builds(Said, st.just("thought"), SOMETHING),
    st.builds(
        Said, st.just("image"), st.binary(min_size=1, max_size=20).map(lambda data: base64.b64encode(data).decode())
    ),
    st.builds(
        Said,
        st.just("tool"),
        tool=st.sampled_from(["read", "write"]),
        arguments=JSON_OBJECTS,
        result=TEXTS,
        failed=st.booleans(),
    ),
)
CONVERSATIONS = st.lists(TURNS, min_size=1, max_size=8)

SHORT = [
    Said("user", "Sow beans? 🫘"),
    Said("assistant", "In May."),
    Said("tool", tool="read", arguments={"path": "a"}, result="frost"),
    Said("thought", "Cold."),
    Said("user", "And peas?"),
    Said("tool", tool="read", arguments={}, result="none"),
    Said("assistant", "Now."),
]


def when(number: int) -> str:
    return f"2026-03-01T10:{number // 60 % 60:02}:{number % 60:02}Z"


def image(data: str) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}


def anthropic_messages(turns: Sequence[Said]) -> list[dict[str, Any]]:
    """Write turns as messages of Anthropic's API, one block each."""
    messages: list[dict[str, Any]] = []
    for number, turn in enumerate(turns):
        if turn.what == "tool":
            use = {"type": "tool_use", "id": f"t-{number}", "name": turn.tool, "input": turn.arguments}
            messages.append({"role": "assistant", "content": [use]})
            answer: dict[str, Any] = {"type": "tool_result", "tool_use_id": f"t-{number}", "content": turn.result}
            answer |= {"is_error": True} if turn.failed else {}
            messages.append({"role": "user", "content": [answer]})
        elif turn.what == "thought":
            messages.append({"role": "assistant", "content": [{"type": "thinking", "thinking": turn.text}]})
        elif turn.what == "image":
            messages.append({"role": "user", "content": [image(turn.text)]})
        else:
            messages.append({"role": turn.what, "content": turn.text})
    return messages


def write_anthropic(turns: Sequence[Said]) -> str:
    return json.dumps({"model": "some-model", "messages": anthropic_messages(turns)})


def write_claude_code(turns: Sequence[Said]) -> str:
    lines: list[dict[str, Any]] = [{"type": "summary", "summary": "Beans"}]
    parent = None
    for number, message in enumerate(anthropic_messages(turns)):
        about = {"uuid": f"u-{number}", "parentUuid": parent, "sessionId": "s-1", "timestamp": when(number)}
        lines.append({"type": message["role"], "message": message, **about})
        parent = f"u-{number}"
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def responses_items(turns: Sequence[Said]) -> list[dict[str, Any]]:
    """Write turns as items of the Responses API."""
    items: list[dict[str, Any]] = []
    for number, turn in enumerate(turns):
        if turn.what == "tool":
            about = {"call_id": f"t-{number}", "name": turn.tool, "arguments": json.dumps(turn.arguments)}
            items.append({"type": "function_call", **about})
            output = {"success": False, "text": turn.result} if turn.failed else turn.result
            items.append({"type": "function_call_output", "call_id": f"t-{number}", "output": output})
        elif turn.what == "thought":
            items.append({"type": "reasoning", "summary": [{"type": "summary_text", "text": turn.text}]})
        elif turn.what == "image":
            part = {"type": "input_image", "image_url": f"data:image/png;base64,{turn.text}"}
            items.append({"type": "message", "role": "user", "content": [part]})
        else:
            kind = "input_text" if turn.what == "user" else "output_text"
            content = [{"type": kind, "text": turn.text}]
            items.append({"type": "message", "role": turn.what, "content": content})
    return items


def write_codex(turns: Sequence[Said]) -> str:
    lines: list[dict[str, Any]] = [{"type": "session_meta", "payload": {"id": "s-1", "cwd": "/garden"}}]
    lines += [{"type": "response_item", "payload": item} for item in responses_items(turns)]
    return "".join(json.dumps({"timestamp": when(number)} | line) + "\n" for number, line in enumerate(lines))


def write_responses(turns: Sequence[Said]) -> str:
    return json.dumps({"id": "r-1", "model": "some-model", "input": responses_items(turns), "output": []})


def write_chat(turns: Sequence[Said]) -> str:
    messages: list[dict[str, Any]] = []
    for number, turn in enumerate(turns):
        if turn.what == "tool":
            function = {"name": turn.tool, "arguments": json.dumps(turn.arguments)}
            call = {"id": f"t-{number}", "type": "function", "function": function}
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": f"t-{number}", "content": turn.result})
        elif turn.what == "thought":
            messages.append({"role": "assistant", "content": None, "reasoning_content": turn.text})
        elif turn.what == "image":
            part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{turn.text}"}}
            messages.append({"role": "user", "content": [part]})
        else:
            messages.append({"role": turn.what, "content": turn.text})
    return json.dumps({"messages": messages})


def write_claude_ai(turns: Sequence[Said]) -> str:
    messages = []
    for number, turn in enumerate(turns):
        about = {"uuid": f"m-{number}", "created_at": when(number), "parent_message_uuid": f"m-{number - 1}"}
        sender = "human" if turn.what in ("user", "image") else "assistant"
        blocks: list[dict[str, Any]] = [{"type": "text", "text": turn.text}]
        if turn.what == "tool":
            blocks = [{"type": "tool_use", "name": turn.tool, "input": turn.arguments}]
            blocks += [{"type": "tool_result", "name": turn.tool, "content": turn.result}]
            blocks[1]["is_error"] = turn.failed
        elif turn.what == "thought":
            blocks = [{"type": "thinking", "thinking": turn.text}]
        elif turn.what == "image":
            blocks = [image(turn.text)]
        messages.append({"sender": sender, "text": "", "content": blocks, **about})
    return json.dumps([{"uuid": "c-1", "name": "Beans", "chat_messages": messages}])


def write_chatgpt(turns: Sequence[Said]) -> str:
    nodes: list[dict[str, Any]] = [{"id": "root", "message": None, "parent": None, "children": []}]

    def add(role: str, content: dict[str, Any], name: str | None = None, recipient: str = "all") -> None:
        node_id = f"n-{len(nodes)}"
        author = {"role": role, "name": name}
        about = {"id": node_id, "author": author, "create_time": 1756000000.5 + len(nodes), "recipient": recipient}
        nodes.append({"id": node_id, "parent": nodes[-1]["id"], "message": {"content": content, **about}})

    for turn in turns:
        if turn.what == "tool":
            add("assistant", {"content_type": "code", "text": json.dumps(turn.arguments)}, recipient=turn.tool)
            kind = "system_error" if turn.failed else "execution_output"
            add("tool", {"content_type": kind, "text": turn.result}, name=turn.tool)
        elif turn.what == "thought":
            add("assistant", {"content_type": "thoughts", "thoughts": [{"content": turn.text}]})
        elif turn.what == "image":
            part = {"content_type": "image_asset_pointer", "asset_pointer": turn.text}
            add("user", {"content_type": "multimodal_text", "parts": [part]})
        else:
            add(turn.what, {"content_type": "text", "parts": [turn.text]})
    mapping = {node["id"]: node for node in nodes}
    return json.dumps([{"id": "c-1", "title": "Beans", "mapping": mapping, "current_node": nodes[-1]["id"]}])


WRITERS: dict[str, tuple[str, Callable[[Sequence[Said]], str]]] = {
    "claude-code": ("claude-code", write_claude_code),
    "codex": ("codex", write_codex),
    "chatgpt": ("chatgpt", write_chatgpt),
    "claude-ai": ("claude-ai", write_claude_ai),
    "openai chat": ("openai", write_chat),
    "openai responses": ("openai", write_responses),
    "anthropic": ("anthropic", write_anthropic),
}
"""Each shape that is written here: the format that reads it, and what writes it."""


def open_bytes(data: bytes) -> io.TextIOWrapper:
    """Open bytes as a file is opened for an import."""
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="surrogateescape", newline="\n")


async def take_in(
    service: ChatService,
    user_id: UserId,
    format_name: str,
    text: str | bytes,
    *,
    into: SessionId | None = None,
    brings_back: bool = False,
) -> ImportDict:
    """Import a text as a file of this format, and check that what is told of it adds up."""
    data = text.encode() if isinstance(text, str) else text
    form = FORMATS[format_name]
    origin = Origin(format_name, into, brings_back)
    told = await import_lines(service, user_id, origin, form, open_bytes(data), NAME)
    assert_adds_up(told)
    return told


def assert_adds_up(told: ImportDict) -> None:
    """Fail where records are neither stored, nor there already, nor skipped with a reason."""
    skipped = sum(each["records"] for each in told["skipped"])
    assert told["records"] == sum(told["stored"].values()) + sum(told["already_there"].values()) + skipped
    assert all(each["reason"] and each["type"] for each in told["skipped"])


async def sessions_of(service: ChatService, user_id: UserId) -> list[SessionDict]:
    """Return a user's sessions, the first made first."""
    return (await service.get_user_sessions(user_id, limit=500))["sessions"][::-1]


async def history_of(service: ChatService, user_id: UserId, session_id: str) -> list[Any]:
    """Return a session's entries."""
    return [*(await service.get_session_history(user_id, SessionId(session_id), limit=500))["entries"]]


async def told_by(service: ChatService, user_id: UserId, session_id: str) -> list[Said]:
    """Say what a session's history says, turn by turn."""
    turns: list[Said] = []
    for entry in await history_of(service, user_id, session_id):
        if "message_type" not in entry:
            result = entry["result"]
            text = result.get("text") if isinstance(result, dict) else result
            done: dict[str, Any] = {"tool": entry["tool_name"], "arguments": entry["arguments"], "result": text}
            turns.append(Said("tool", **done, failed=entry["status"] == "error"))
            continue
        for part in entry["parts"] or [{"type": "text", "content": entry["content"]}]:
            if part["type"] == "text":
                turns.append(Said(entry["message_type"], part["content"]))
            elif part["type"] == "reasoning":
                turns.append(Said("thought", part["content"]))
            elif part["type"] == "uri":
                turns.append(Said("image", part["uri"]))
            elif part["type"] == "blob_reference":
                sha256 = part["sha256"]
                data = await service.snapshot(
                    partial(blobs.read, user_id=user_id, session_id=SessionId(session_id), sha256=sha256)
                )
                turns.append(Said("image", base64.b64encode(data).decode()))
    return turns


def real_transcripts(folder: str | None) -> list[tuple[str, Path]]:
    """Return the real transcripts of a folder, each with its format."""
    if not folder:
        return []
    return [
        (name, path)
        for name, form in FORMATS.items()
        for pattern in form.patterns
        for path in sorted(Path(folder, name).glob(pattern))
    ]
