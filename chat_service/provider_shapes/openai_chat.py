"""The messages of OpenAI's Chat Completions: calls in the assistant's message, each result in a message of role tool.

Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from collections.abc import Sequence
from typing import Any

from chat_service.turns import Call, Turn
from models.text import to_json


def render(turns: Sequence[Turn]) -> dict[str, Any]:
    """Return `{"messages": […]}`."""
    return {"messages": [message for turn in turns for message in _messages(turn)]}


def _messages(turn: Turn) -> list[dict[str, Any]]:
    message: dict[str, Any] = {"role": turn.role, "content": turn.said() or None}
    if turn.calls:
        message["tool_calls"] = [_call(call) for call in turn.calls]
    results = [{"role": "tool", "tool_call_id": call.id, "content": call.outcome()} for call in turn.calls]
    return [message, *results]


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": to_json(call.arguments_object())}
    return {"id": call.id, "type": "function", "function": function}
