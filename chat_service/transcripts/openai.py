"""Reads conversations in the shapes of OpenAI's APIs: messages of Chat Completions, items of Responses."""

from collections.abc import Iterator
from typing import Any

from chat_service.transcripts.documents import Document, Taken, read_documents
from chat_service.transcripts.items import role_of, take_content, take_item
from chat_service.transcripts.neutral import Ending, Record, Source
from chat_service.transcripts.storable import usage_of
from chat_service.transcripts.turns import Turn

_MESSAGES = ("messages", "input", "output", "choices", "instructions", "data")


def read_records(source: Source) -> Iterator[Record | Ending]:
    """Read the records of all conversations of a file."""
    return read_documents(source, _open, _take)


def _open(value: dict[str, Any]) -> Document | None:
    """Find the messages: what was sent first, then what was answered."""
    if "role" in value or not any(isinstance(value.get(name), list) for name in ("messages", "input", *_MESSAGES[2:])):
        return None
    items: list[Any] = []
    if isinstance(value.get("instructions"), str) and value["instructions"]:
        items.append({"role": "system", "content": value["instructions"]})
    for name in ("messages", "input", "data", "output"):
        given = value.get(name)
        items += given if isinstance(given, list) else [{"role": "user", "content": given}] if given else []
    choices = value.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        if isinstance(choice, dict) and isinstance(choice.get("message"), dict):
            items.append(choice["message"])
    usage = value.get("usage")
    if isinstance(usage, dict) and items and isinstance(items[-1], dict):
        items[-1] = items[-1] | {"usage": usage}
    about = {name: inner for name, inner in value.items() if name not in _MESSAGES}
    return Document(value.get("conversation_id") or value.get("id"), items, value.get("model"), about)


def _take(turn: Turn, item: dict[str, Any]) -> Taken:
    usage = usage_of(item.get("usage"))
    if "role" not in item or item.get("type", "message") != "message":
        role, reason = take_item(turn, item)
        return Taken(role, str(item.get("type", "message")), reason, usage)
    role = role_of(item.get("role"))
    kind = f"{item.get('role')} message"
    if role == "tool" and ("tool_call_id" in item or item.get("role") == "function"):
        turn.answer(item.get("tool_call_id"), item.get("content"), name=turn.talk.storable.line(item.get("name")))
        return Taken(role, kind)
    storable = turn.talk.storable
    turn.think(storable.text(item.get("reasoning_content") or item.get("reasoning")))
    take_content(turn, item.get("content"))
    turn.say(storable.text(item.get("refusal")))
    calls = item.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        _take_call(turn, call)
    if isinstance(item.get("function_call"), dict):
        _take_call(turn, {"function": item["function_call"]})
    return Taken(role, kind, usage=usage)


def _take_call(turn: Turn, call: Any) -> None:
    known = call if isinstance(call, dict) else {}
    function = known.get("function") or known.get("custom")
    if not isinstance(function, dict):
        turn.talk.storable.left_out["unreadable tool call"] += 1
        return
    turn.ask(known.get("id"), function.get("name"), function.get("arguments", function.get("input")))
