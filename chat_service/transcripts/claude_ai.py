"""Reads an export of Claude.ai: `conversations.json`, an array of conversations with their messages.

A message names the one that it answers (`parent_message_uuid`), in exports of earlier versions the one before it. What
was attached comes as the text that was taken from it.
"""

from collections.abc import Iterator
from typing import Any

from chat_service.transcripts.blocks import take_content
from chat_service.transcripts.neutral import Ending, Record, Source
from chat_service.transcripts.storable import MAX_TITLE, Storable, moment_of
from chat_service.transcripts.trees import Item, Tree, raw_of, read_conversations
from chat_service.transcripts.turns import SAYS_NOTHING, Talk, Turn
from models.inputs import FilePart, Role

NO_OBJECT = "message that is no object"

_ROLES: dict[Any, Role] = {"human": "user", "assistant": "assistant"}


def read_records(source: Source) -> Iterator[Record | Ending]:
    """Read the records of all conversations."""
    return read_conversations(source, _tree_of, _take_message)


def _tree_of(storable: Storable, conversation: dict[str, Any]) -> Tree | None:
    messages = conversation.get("chat_messages")
    if not isinstance(messages, list):
        return None
    nodes: dict[str, Item] = {}
    unparsed: list[tuple[str, str]] = []
    last: str | None = None
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            unparsed.append((NO_OBJECT, raw_of(message)))
            continue
        native_id = storable.name(message.get("uuid")) or f"message:{number}"
        parent = message.get("parent_message_uuid", last)
        nodes[native_id] = Item(message, storable.name(parent))
        last = native_id
    return Tree(
        source_id=storable.name(conversation.get("uuid")),
        title=storable.title(conversation.get("name"), 512),
        about={name: value for name, value in conversation.items() if name != "chat_messages"},
        items=nodes,
        current=conversation.get("current_leaf_message_uuid") or last,
        unparsed=unparsed,
    )


def _take_message(talk: Talk, record: Record, message: dict[str, Any]) -> None:
    storable = talk.storable
    role = _ROLES.get(message.get("sender"), "tool") if isinstance(message.get("sender"), str) else "tool"
    record.kind = f"{storable.line(message.get('sender'), 80) or 'nobody'}'s message"
    record.moment = moment_of(message.get("created_at"))
    turn = Turn(talk, record.native_id, record.moment)
    take_content(turn, message.get("content"))
    if not turn.parts:
        turn.say(storable.text(message.get("text")))
    names = [_take_attachment(turn, attached) for attached in _objects(message.get("attachments"))]
    for file in [*_objects(message.get("files")), *_objects(message.get("files_v2"))]:
        names.append(storable.line(file.get("file_name"), MAX_TITLE))
        file_id = storable.line(file.get("file_uuid")) or names[-1]
        part = FilePart(type="file", file_id=file_id) if file_id else None
        if part is not None and part not in turn.parts:
            turn.parts.append(part)
    said = {
        "uuid": record.native_id,
        "timestamp": storable.line(message.get("created_at")),
        "attachments": list(dict.fromkeys(name for name in names if name))[:20],
    }
    record.entries = turn.entries(role, {name: value for name, value in said.items() if value})
    record.reason = None if record.entries else turn.reason() or SAYS_NOTHING


def _take_attachment(turn: Turn, attached: dict[str, Any]) -> str | None:
    turn.say(turn.talk.storable.text(attached.get("extracted_content")))
    return turn.talk.storable.line(attached.get("file_name"), MAX_TITLE)


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
