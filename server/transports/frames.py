"""JSON-RPC frames: parsed strictly, and every one that carries an id is answered.

The SDK drops what it cannot parse (lone surrogates, nesting of 200 and more, huge integers, invalid JSON), and takes a
request whose id is neither text nor an integer for a notification; the client then waits for ever. Here each of these
is answered with an error under the frame's id, where one can be found.
"""

import json
from dataclasses import dataclass
from typing import Any

import mcp_types as types
import pydantic_core
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

from server.transports.lines import Oversized, find_id

_UNPARSEABLE = (
    "The call is not valid JSON as MCP needs it: UTF-8, no lone surrogates, no NaN, integers of at most 4,300 digits, "
    "at most 200 levels."
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Frames to send instead of handing something to the server; none where there was nothing to answer."""

    answers: tuple[bytes, ...]
    reason: str


def parse(frame: bytes) -> SessionMessage | Refusal:
    """Return the message in a frame, or the refusal of it."""
    try:
        value = pydantic_core.from_json(frame, allow_inf_nan=False)
    except ValueError:
        return _refusal(find_id(frame), types.PARSE_ERROR, _UNPARSEABLE)
    if isinstance(value, list):
        return _refuse_batch(value)
    if not isinstance(value, dict):
        return _refusal(None, types.INVALID_REQUEST, "A call is a JSON object: send one JSON-RPC message a line.")
    request_id = value.get("id")
    if request_id is None and "method" not in value and ("error" in value or "result" in value):
        return Refusal((), "a response to nobody")
    carries_id = "id" in value
    if carries_id and not _is_request_id(request_id):
        known = request_id if isinstance(request_id, float) else None
        return _refusal(known, types.INVALID_REQUEST, "id must be text or an integer: give each request its own.")
    try:
        message = types.jsonrpc_message_adapter.validate_python(value, by_name=False)
    except ValidationError:
        message = None
    if message is None or (carries_id and isinstance(message, types.JSONRPCNotification)):
        if not carries_id:
            return Refusal((), "a notification is not well formed")
        needs = 'A request needs "jsonrpc": "2.0", an id, a method, and params that are an object.'
        return _refusal(request_id, types.INVALID_REQUEST, needs)
    return SessionMessage(message)


def refuse_oversized(frame: Oversized, limit: int) -> Refusal:
    """Return the refusal of a frame that is too large."""
    sentence = f"The call is larger than {limit} bytes, which is the most that one may have: split it."
    return _refusal(find_id(frame.head, frame.tail), types.INVALID_REQUEST, sentence)


def to_frame(message: SessionMessage) -> bytes:
    """Write a message as the line that goes over the wire."""
    return message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"


def _is_request_id(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))


def _refuse_batch(batch: list[Any]) -> Refusal:
    ids = [each["id"] for each in batch if isinstance(each, dict) and _is_request_id(each.get("id"))]
    sentence = "Batches are not part of MCP any more: send one JSON-RPC message a line."
    answers = [_answer(each, types.INVALID_REQUEST, sentence) for each in ids or [None]]
    return Refusal(tuple(answers), "a batch")


def _refusal(request_id: str | float | None, code: int, sentence: str) -> Refusal:
    return Refusal((_answer(request_id, code, sentence),), sentence)


def _answer(request_id: str | float | None, code: int, sentence: str) -> bytes:
    error = {"code": code, "message": sentence}
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode() + b"\n"
