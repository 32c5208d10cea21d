"""The messages of Anthropic's interface: system apart, user and assistant by turns, results first in the user's answer.

Thinking blocks are valid only as the model signed them, for that model; they may be left out, and are. Sources:
https://docs.anthropic.com/en/api/messages and https://docs.anthropic.com/en/docs/agents-and-tools/tool-use/implement-tool-use
"""

from collections.abc import Sequence
from typing import Any

from chat_service.turns import Call, Turn

_BEGINNING = "[The conversation goes on.]"


def render(turns: Sequence[Turn]) -> dict[str, Any]:
    """Return `{"system": …, "messages": […]}`; `system` is left out where there is none."""
    system = "\n\n".join(turn.said() for turn in turns if turn.role == "system")
    messages: list[dict[str, Any]] = []
    for turn in turns:
        if turn.role != "system":
            if not messages and turn.role == "assistant":
                _add(messages, "user", [_text(_BEGINNING)])
            _add(messages, turn.role, [*([_text(turn.said())] if turn.said() else []), *map(_use, turn.calls)])
            if turn.calls:
                _add(messages, "user", list(map(_result, turn.calls)))
    if turns and not messages:
        _add(messages, "user", [_text(_BEGINNING)])
    if messages and messages[-1]["role"] == "assistant":
        # The last answer of an assistant may not end in white space.
        last = messages[-1]["content"][-1]
        messages[-1]["content"][-1] = {**last, "text": last["text"].rstrip()}
    return ({"system": system} if system else {}) | {"messages": messages}


def _add(messages: list[dict[str, Any]], role: str, blocks: list[dict[str, Any]]) -> None:
    if messages and messages[-1]["role"] == role:
        messages[-1]["content"] += blocks
    else:
        messages.append({"role": role, "content": blocks})


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _use(call: Call) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments_object()}


def _result(call: Call) -> dict[str, Any]:
    result = {"type": "tool_result", "tool_use_id": call.id, "content": call.outcome()}
    return result | {"is_error": True} if call.is_error else result
