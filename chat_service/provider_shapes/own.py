"""Our own shape: entries as the record has them, in the order of seq."""

from collections.abc import Iterator, Sequence
from typing import Any

from chat_service.turns import Call, Turn


def render(turns: Sequence[Turn]) -> dict[str, Any]:
    """Return `{"entries": […]}`: messages (role, content) and tool calls (tool_name, arguments, result), oldest first.

    A call without a record has the seq of the message that asked for it.
    """
    entries = [entry for turn in turns for entry in _entries(turn)]
    return {"entries": sorted(entries, key=lambda entry: entry["seq"])}


def _entries(turn: Turn) -> Iterator[dict[str, Any]]:
    is_lone_call = any(call.seq == turn.seq for call in turn.calls)
    if not is_lone_call:
        fields = {
            "kind": None if turn.kind == "message" else turn.kind,
            "reasoning": turn.reasoning.shown(turn.read_seq) or None,
            "corrected_by": None if turn.read_seq == turn.seq else turn.read_seq,
            "note": turn.note or None,
        }
        yield {"seq": turn.seq, "role": turn.given_role, "content": turn.text.shown(turn.read_seq)} | _given(fields)
    for call in turn.calls:
        yield _call(call, turn.seq, asked_seq=None if is_lone_call else turn.seq)


def _call(call: Call, seq: int, asked_seq: int | None) -> dict[str, Any]:
    fields = {
        "tool_call_id": call.given_id,
        "message_seq": asked_seq,
        "arguments": call.arguments_object(),
        "result": call.result_value(),
        "error": call.error.shown(call.read_seq) or None,
        "note": call.note() if call.status == "unknown" else None,
    }
    return {"seq": call.seq or seq, "tool_name": call.given_name, "status": call.status} | _given(fields)


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
