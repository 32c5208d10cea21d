"""The input items of OpenAI's Responses: messages, calls and their outputs, one after the other.

Reasoning items are valid only with the id under which the provider itself keeps them, or with its encrypted content;
the record has neither, so reasoning is left out. Source: https://platform.openai.com/docs/api-reference/responses/create
"""

from collections.abc import Sequence
from typing import Any

from chat_service.turns import Call, Turn
from models.text import to_json


def render(turns: Sequence[Turn]) -> dict[str, Any]:
    """Return `{"input": […]}`."""
    return {"input": [item for turn in turns for item in _items(turn)]}


def _items(turn: Turn) -> list[dict[str, Any]]:
    said = turn.said()
    message = [{"type": "message", "role": turn.role, "content": said}] if said else []
    outputs = [{"type": "function_call_output", "call_id": call.id, "output": call.outcome()} for call in turn.calls]
    return [*message, *map(_call, turn.calls), *outputs]


def _call(call: Call) -> dict[str, Any]:
    arguments = to_json(call.arguments_object())
    return {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": arguments}
