"""Reads conversations in the shape of Anthropic's Messages API: the system's words, messages, and an answer."""

from collections.abc import Iterator
from typing import Any

from chat_service.transcripts.blocks import take_content
from chat_service.transcripts.documents import Document, Taken, read_documents
from chat_service.transcripts.items import role_of
from chat_service.transcripts.neutral import Ending, Record, Source
from chat_service.transcripts.storable import usage_of
from chat_service.transcripts.turns import Turn


def read_records(source: Source) -> Iterator[Record | Ending]:
    """Read the records of all conversations of a file."""
    return read_documents(source, _open, _take)


def _open(value: dict[str, Any]) -> Document | None:
    messages = value.get("messages")
    if not isinstance(messages, list):
        return None
    items = list(messages)
    if value.get("system"):
        items.insert(0, {"role": "system", "content": value["system"]})
    about = {name: inner for name, inner in value.items() if name not in ("messages", "system")}
    return Document(value.get("conversation_id") or value.get("id"), items, value.get("model"), about)


def _take(turn: Turn, item: dict[str, Any]) -> Taken:
    take_content(turn, item.get("content"))
    return Taken(role_of(item.get("role")), f"{item.get('role')} message", usage=usage_of(item.get("usage")))
