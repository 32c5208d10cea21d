"""Reads a transcript of Claude Code: one JSON object a line, as it lies under `~/.claude/projects`.

The client writes a line for each block of an answer, a user line for each tool result, and lines of its own between
them (snapshots, titles, notices). Here a line that says something becomes a message, a tool call and its result become
one tool usage, and everything else is counted by kind, so that an import can say what it left out. What a subagent did
(`isSidechain`) is another conversation: such lines are counted under "sidechain".

The format is the client's own and changes without notice, so odd data is counted and never an error.
"""

import hashlib
import json
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any, NamedTuple

from models.inputs import (
    BlobPart,
    FilePart,
    NewMessage,
    NewToolUsage,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolCallResponsePart,
    ToolStatus,
    UriPart,
    Usage,
)
from models.text import MAX_DEPTH, MAX_INTEGER_BITS, to_json

MAX_NAME = 200
MAX_LINE = 512
MAX_TITLE = 80
MAX_ERROR = 500
MAX_URI = 8192
MAX_PATH = 4096

_TITLES = {"custom-title": "customTitle", "ai-title": "aiTitle", "summary": "summary"}
"""Lines that name the session, and under which key; what a person chose comes first."""

_FLAGS = ("isMeta", "isCompactSummary", "isApiErrorMessage")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_LONGEST = 1e12


@dataclass(frozen=True, slots=True)
class Transcript:
    """What a transcript holds: entries in order, and counts of what was left out, by kind.

    `source_id` is the client's own id of the session, `workspace` the folder in which it was working.
    """

    source_id: str | None
    title: str | None
    workspace: str | None
    entries: list[NewMessage | NewToolUsage]
    left_out: dict[str, int]


def read(lines: Iterable[str]) -> Transcript:
    """Read the lines of one session; whatever they hold, nothing is raised.

    A tool usage stands where its result came, one whose result never came at the end, with status `unknown`. The
    client repeats the token usage of an answer on each of its lines: those share `messageId` in their metadata.
    Iterate over a file that was opened as UTF-8 with errors="replace", rather than over `str.splitlines`, which also
    splits at characters that JSON allows in text.
    """
    reader = _Reader()
    for line in lines:
        reader.take(line)
    return reader.finish()


class _Call(NamedTuple):
    """A tool call that waits for its result; `number` counts the calls of the transcript."""

    number: int
    id: str
    name: str
    arguments: dict[str, Any]
    idempotency_key: str
    started_at: datetime | None


@dataclass(slots=True)
class _Turn:
    """A user or assistant line that is being read: what it says so far."""

    key: str
    moment: datetime | None
    parts: list[Part] = field(default_factory=list)
    results: int = 0


class _Reader:
    """What is known after so many lines."""

    def __init__(self) -> None:
        self._entries: list[NewMessage | NewToolUsage] = []
        self._left_out: Counter[str] = Counter()
        self._waiting: dict[str, deque[_Call]] = {}
        self._calls = 0
        self._keys: set[str] = set()
        self._repeats: Counter[str] = Counter()
        self._lines: set[tuple[str, str]] = set()
        self._titles: dict[str, str] = {}
        self._source_id: str | None = None
        self._workspace: str | None = None
        self._last_is_unreadable = False
        self._takers: dict[str, Callable[[_Turn, dict[str, Any]], bool]] = {
            "text": self._take_text,
            "thinking": self._take_thinking,
            "tool_use": self._take_tool_use,
            "tool_result": self._take_tool_result,
            "image": self._take_attachment,
            "document": self._take_attachment,
        }

    def take(self, line: str) -> None:
        """Read one line."""
        line = line.removeprefix("\ufeff").strip()
        if not line:
            return
        record = _parse(line)
        self._last_is_unreadable = record is None
        if record is None:
            self._left_out["unreadable line"] += 1
        elif record.get("isSidechain") is True:
            self._left_out["sidechain"] += 1
        else:
            self._take_record(record, line)

    def finish(self) -> Transcript:
        """Close the calls whose result never came, and return everything."""
        if self._last_is_unreadable:
            self._left_out["unreadable line"] -= 1
            self._left_out["torn last line"] += 1
        unanswered = sorted(call for calls in self._waiting.values() for call in calls)
        self._entries += [_tool_usage(call, status="unknown") for call in unanswered]
        title = next((self._titles[kind] for kind in (*_TITLES, "user") if kind in self._titles), None)
        left_out = {kind: count for kind, count in self._left_out.items() if count}
        return Transcript(self._source_id, title, self._workspace, self._entries, left_out)

    def _take_record(self, record: dict[str, Any], line: str) -> None:
        self._source_id = self._source_id or self._name(record.get("sessionId"))
        self._workspace = self._workspace or self._line(record.get("cwd"), MAX_PATH)
        kind = record.get("type")
        if kind in ("user", "assistant"):
            self._take_turn(kind, record, line)
            return
        self._left_out[self._line(kind, MAX_TITLE) or "line without a type"] += 1
        if isinstance(kind, str) and kind in _TITLES:
            self._entitle(kind, self._text(record.get(_TITLES[kind])), MAX_LINE)

    def _entitle(self, kind: str, text: str, limit: int) -> None:
        title = " ".join(text.split())[:limit].rstrip()
        if title:
            self._titles[kind] = title

    def _take_turn(self, role: Role, record: dict[str, Any], line: str) -> None:
        digest = _digest(line)
        uuid = self._name(record.get("uuid"))
        if uuid is not None and (uuid, digest) in self._lines:
            self._left_out["repeated line"] += 1
            return
        if uuid is not None:
            self._lines.add((uuid, digest))
        key = uuid or f"line:{digest}"
        message = record.get("message")
        if not isinstance(message, dict):
            message = {}
        turn = _Turn(self._new_key(key), _moment(record.get("timestamp")))
        for block in _blocks(message.get("content")):
            taker = self._takers.get(str(block.get("type")))
            if taker is None or not taker(turn, block):
                self._left_out[f"{self._line(block.get('type'), MAX_TITLE) or 'unreadable'} block"] += 1
        if not all(isinstance(part, ToolCallResponsePart) for part in turn.parts):
            self._entries.append(self._message(role, turn, record, message))
        elif not turn.results:
            self._left_out["empty message"] += 1

    def _message(self, role: Role, turn: _Turn, record: dict[str, Any], message: dict[str, Any]) -> NewMessage:
        texts = [part.content for part in turn.parts if isinstance(part, TextPart)]
        content = "\n\n".join(texts)
        if role == "user" and "user" not in self._titles and record.get("isMeta") is not True:
            self._entitle("user", content, MAX_TITLE)
        said = {
            "uuid": record.get("uuid"),
            "parentUuid": record.get("parentUuid"),
            "timestamp": record.get("timestamp"),
            "requestId": record.get("requestId"),
            "messageId": message.get("id"),
        }
        lines = {name: self._line(value, MAX_LINE) for name, value in said.items()}
        metadata: dict[str, Any] = {name: value for name, value in lines.items() if value}
        metadata |= {flag: True for flag in _FLAGS if record.get(flag) is True}
        return NewMessage(
            role=role,
            content=content,
            parts=turn.parts if len(texts) < len(turn.parts) else None,
            message_metadata=metadata or None,
            author="import",
            model=self._line(message.get("model"), MAX_LINE),
            usage=_usage(message.get("usage")),
            idempotency_key=turn.key,
        )

    # Blocks: each taker tells whether it could make something of the block.

    def _take_text(self, turn: _Turn, block: dict[str, Any]) -> bool:
        text = self._text(block.get("text"))
        if text:
            turn.parts.append(TextPart(type="text", content=text))
        return bool(text)

    def _take_thinking(self, turn: _Turn, block: dict[str, Any]) -> bool:
        text, signature = self._text(block.get("thinking")), self._text(block.get("signature")) or None
        if text:
            turn.parts.append(ReasoningPart(type="reasoning", content=text, signature=signature))
        return bool(text)

    def _take_tool_use(self, turn: _Turn, block: dict[str, Any]) -> bool:
        number = self._calls = self._calls + 1
        call_id = self._name(block.get("id")) or _short(f"{turn.key}:{number}")
        name = self._line(block.get("name"), MAX_NAME) or "unknown"
        given = block.get("input")
        arguments = given if isinstance(given, dict) else {} if given is None else {"input": given}
        call = _Call(number, call_id, name, self._json(arguments), self._new_key(f"tool:{call_id}"), turn.moment)
        self._waiting.setdefault(call_id, deque()).append(call)
        turn.parts.append(ToolCallPart(type="tool_call", id=call_id, name=name))
        return True

    def _take_tool_result(self, turn: _Turn, block: dict[str, Any]) -> bool:
        turn.results += 1
        call_id = self._name(block.get("tool_use_id")) or ""
        calls = self._waiting.get(call_id)
        if not calls:
            self._left_out["tool result without a call"] += 1
            return True
        call = calls.popleft()
        if not calls:
            del self._waiting[call_id]
        result = self._json(block.get("content"))
        failed = block.get("is_error") is True
        usage = _tool_usage(
            call,
            status="error" if failed else "success",
            result=result,
            error=_first_line(result) if failed else None,
            duration_ms=_milliseconds(call.started_at, turn.moment),
        )
        self._entries.append(usage)
        turn.parts.append(ToolCallResponsePart(type="tool_call_response", id=call_id))
        return True

    def _take_attachment(self, turn: _Turn, block: dict[str, Any]) -> bool:
        source = block.get("source")
        part = self._attachment(source, block.get("type")) if isinstance(source, dict) else None
        if part is not None:
            turn.parts.append(part)
        return part is not None

    def _attachment(self, source: dict[str, Any], kind: Any) -> Part | None:
        mime_type = self._line(source.get("media_type"), MAX_LINE)
        modality = "image" if kind == "image" else None
        data, address = self._text(source.get("data")), self._text(source.get("url"))
        if source.get("type") == "base64" and data:
            return BlobPart(type="blob", content=data, mime_type=mime_type, modality=modality)
        if source.get("type") == "text" and data:
            return TextPart(type="text", content=data)
        if source.get("type") == "url" and 0 < len(address) <= MAX_URI:
            return UriPart(type="uri", uri=address, mime_type=mime_type, modality=modality)
        file_id = self._line(source.get("file_id"), MAX_LINE)
        return FilePart(type="file", file_id=file_id, mime_type=mime_type, modality=modality) if file_id else None

    # What can be stored of a value

    def _new_key(self, wanted: str) -> str:
        key = _short(wanted)
        while key in self._keys:
            self._repeats[wanted] += 1
            key = _short(f"{wanted}:{self._repeats[wanted] + 1}")
        self._keys.add(key)
        return key

    def _name(self, value: Any) -> str | None:
        return _short(self._text(value)) or None

    def _line(self, value: Any, limit: int) -> str | None:
        return self._text(value)[:limit] or None

    def _text(self, value: Any) -> str:
        return self._storable(value) if isinstance(value, str) else ""

    def _storable(self, text: str) -> str:
        if text.isascii() and "\0" not in text:
            return text
        kept, replaced = _UNSTORABLE.subn("\ufffd", text)
        self._left_out["character replaced"] += replaced
        return kept

    def _json(self, value: Any, depth: int = 1) -> Any:
        if isinstance(value, str):
            return self._storable(value)
        if isinstance(value, (dict, list)) and value and depth == MAX_DEPTH:
            self._left_out["nesting written as text"] += 1
            return self._storable(_deep_json(value))
        if isinstance(value, dict):
            return {self._storable(name): self._json(inner, depth + 1) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._json(inner, depth + 1) for inner in value]
        if _is_odd_number(value):
            self._left_out["number written as text"] += 1
            return str(value)
        return value


def _parse(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _blocks(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        content = [content]
    if not isinstance(content, list):
        return []
    return [
        block if isinstance(block, dict) else {"type": "text" if isinstance(block, str) else None, "text": block}
        for block in content
    ]


def _tool_usage(
    call: _Call,
    *,
    status: ToolStatus,
    result: Any = None,
    error: str | None = None,
    duration_ms: float | None = None,
) -> NewToolUsage:
    return NewToolUsage(
        tool_call_id=call.id,
        tool_name=call.name,
        arguments=call.arguments,
        result=result,
        status=status,
        error=error,
        started_at=call.started_at,
        duration_ms=duration_ms,
        origin="import",
        idempotency_key=call.idempotency_key,
    )


def _usage(value: Any) -> Usage | None:
    counts = {name: value.get(name) for name in ("input_tokens", "output_tokens")} if isinstance(value, dict) else {}
    known = {name: count for name, count in counts.items() if type(count) is int and 0 <= count < 2**53}
    return Usage(**known) if known else None


def _first_line(result: Any) -> str | None:
    blocks = result if isinstance(result, list) else [result]
    texts = [block.get("text") if isinstance(block, dict) else block for block in blocks]
    lines = (line.strip() for text in texts if isinstance(text, str) for line in text.splitlines())
    return next((line[:MAX_ERROR] for line in lines if line), None)


def _moment(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo is not None else None
    except (TypeError, ValueError, OverflowError):
        return None


def _milliseconds(start: datetime | None, end: datetime | None) -> float | None:
    if start is None or end is None or end < start:
        return None
    elapsed = (end - start) / timedelta(milliseconds=1)
    return elapsed if elapsed < _LONGEST else None


def _short(text: str) -> str:
    return text if len(text) <= MAX_NAME else f"{text[: MAX_NAME - 33]}:{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _deep_json(value: Any) -> str:
    try:
        return to_json(value)
    except (ValueError, RecursionError):
        return "(nested too deeply)"


def _is_odd_number(value: Any) -> bool:
    if isinstance(value, float):
        return not isfinite(value)
    return isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS
