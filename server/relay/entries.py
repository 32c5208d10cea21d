"""Makes of an observed call the entry that is stored: redacted, storable, and no larger than is kept of one."""

import json
import re
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from chat_service.tool_usage_twins import PROXY_KEY
from models.inputs import NewToolUsage
from models.text import MAX_DEPTH, MAX_INTEGER_BITS, to_json
from server.relay.calls import Call, Cut
from server.relay.redaction import Redaction

CUT = "[cut]"
"""The name under which a value is kept of which only the beginning is."""

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_NAME = 200
_TRACE = ("traceparent", "tracestate")
_TOOL_CALL_IDS = ("tooluseid", "toolcallid")


class Entries:
    """Makes entries of the calls of one run; `run` is its own name, `max_bytes` is for each field."""

    def __init__(self, run: str, redaction: Redaction, max_bytes: int) -> None:
        self._run = run
        self._redaction = redaction
        self._limit = max_bytes

    def of(self, call: Call) -> NewToolUsage:
        """Return the entry of a call that has ended."""
        ending = call.ending
        assert ending is not None, "only a call that has ended is recorded"  # noqa: S101
        arguments = self._field({} if call.arguments is None else call.arguments)
        return NewToolUsage(
            tool_name=name_of(call.tool_name) or "unknown",
            # What is no object is refused by servers, and kept as what it was.
            arguments=arguments if isinstance(arguments, dict) else {"[not an object]": arguments},
            result=None if ending.result is None else self._field(ending.result),
            status=ending.status,
            error=None if ending.error is None else self._text(ending.error),
            started_at=datetime.fromtimestamp(call.wall / 1e9, UTC),
            duration_ms=call.duration_ms,
            tool_call_id=self._tool_call_id(call),
            server_name=name_of(call.server),
            call_metadata=self._metadata(call),
            origin="proxy",
            idempotency_key=self.key_of(call),
        )

    def key_of(self, call: Call) -> str:
        """Return the key under which a call is recorded once."""
        return f"{PROXY_KEY}{self._run}:{call.number}"

    def _tool_call_id(self, call: Call) -> str:
        """Return the provider's id, where the client passes it on, else one made of the request's."""
        for name, value in call.meta.items():
            plain = re.sub(r"[\W_]", "", name.rpartition("/")[2]).lower()
            if plain in _TOOL_CALL_IDS and isinstance(value, str) and (known := name_of(value)):
                return known
        return name_of(f"{self._run}:{call.number}:{call.request_id}") or self._run

    def _metadata(self, call: Call) -> dict[str, Any]:
        metadata: dict[str, Any] = {"request_id": call.request_id}
        if call.client is not None:
            metadata["client"] = call.client
        metadata |= {name: call.meta[name] for name in _TRACE if isinstance(call.meta.get(name), str)}
        return {name: value[:512] if isinstance(value, str) else value for name, value in _storable(metadata).items()}

    def _field(self, value: Any) -> Any:
        if isinstance(value, Cut):
            return self._cut(value.head.decode(errors="replace"), value.size)
        storable = self._redaction.value(_storable(value))
        size = _size(to_json(storable))
        if size <= self._limit:
            return storable
        # Long texts alone may be what is too much: then the rest is kept as it is.
        shorter = _with_short_texts(storable, self._limit // 4)
        return shorter if _size(to_json(shorter)) <= self._limit else self._cut(to_json(storable), size)

    def _text(self, text: str) -> str:
        clean = _clean(self._redaction.text(text))
        return clean if _size(clean) <= self._limit else _beginning(clean, self._limit)

    def _cut(self, text: str, size: int) -> dict[str, Any]:
        # Redacted first: half a secret at the cut would not be known for one. A character is up to six bytes of JSON.
        head = _clean(self._redaction.text(text[: self._limit + _MARGIN]))[: self._limit // 8]
        return {CUT: {"bytes": size, "head": head}}


def name_of(value: str | None) -> str | None:
    """Return a name as it can be stored."""
    return _clean(value)[:_NAME] or None if value else None


_MARGIN = 4_096


def _storable(value: Any, depth: int = 1) -> Any:
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, (dict, list)) and value and depth == MAX_DEPTH:
        return _deep_text(value)
    if isinstance(value, dict):
        return {_clean(name): _storable(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list):
        return [_storable(inner, depth + 1) for inner in value]
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        return str(value)
    return value


def _deep_text(value: Any) -> str:
    try:
        return _clean(json.dumps(value, ensure_ascii=False))
    except RecursionError:
        return CUT


def _with_short_texts(value: Any, longest: int) -> Any:
    if isinstance(value, str):
        return value if _size(value) <= longest else _beginning(value, longest)
    if isinstance(value, dict):
        return {name: _with_short_texts(inner, longest) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_short_texts(inner, longest) for inner in value]
    return value


def _beginning(text: str, limit: int) -> str:
    size = _size(text)
    note = f" {CUT}: {size} bytes in all"
    head = text.encode()[: max(limit - len(note), 0)].decode(errors="ignore")
    return head + note


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _clean(text: str) -> str:
    return _UNSTORABLE.sub("\ufffd", text)
