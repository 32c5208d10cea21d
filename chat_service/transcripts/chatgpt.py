"""Reads an export of ChatGPT: `conversations.json`, an array of conversations, each a tree of messages.

The path that leads to `current_node` is the main line; what was answered again or edited leaves it as a branch. A call
of one of the provider's tools is an assistant's message to a recipient, and has no id: its result is the tool's message
that follows it.
"""

from collections.abc import Iterator
from typing import Any

from chat_service.transcripts.neutral import Ending, Record, Source
from chat_service.transcripts.storable import MAX_URI, Storable, moment_of
from chat_service.transcripts.trees import Item, Tree, raw_of, read_conversations
from chat_service.transcripts.turns import SAYS_NOTHING, Talk, Turn
from models.inputs import Role, UriPart

HIDDEN = "hidden from the conversation"
NO_MESSAGE = "holds no message"
NO_OBJECT = "node that is no object"

_ROLES: dict[Any, Role] = {"user": "user", "assistant": "assistant", "system": "system", "tool": "tool"}
_TEXTS = ("text", "result", "content")


def read_records(source: Source) -> Iterator[Record | Ending]:
    """Read the records of all conversations."""
    return read_conversations(source, _tree_of, _take_node)


def _tree_of(storable: Storable, conversation: dict[str, Any]) -> Tree | None:
    mapping = conversation.get("mapping")
    if not isinstance(mapping, dict):
        return None
    return Tree(
        source_id=storable.name(conversation.get("conversation_id") or conversation.get("id")),
        title=storable.title(conversation.get("title"), 512),
        about={name: value for name, value in conversation.items() if name != "mapping"},
        items={node_id: Item(node, _parent_of(node)) for node_id, node in mapping.items() if isinstance(node, dict)},
        current=conversation.get("current_node"),
        unparsed=[
            (NO_OBJECT, raw_of({node_id: node})) for node_id, node in mapping.items() if not isinstance(node, dict)
        ],
    )


def _parent_of(node: dict[str, Any]) -> str | None:
    parent = node.get("parent")
    return parent if isinstance(parent, str) else None


def _take_node(talk: Talk, record: Record, node: dict[str, Any]) -> None:
    message = node.get("message")
    if not isinstance(message, dict):
        record.kind, record.reason = "node", NO_MESSAGE
        return
    author, content, metadata = (
        value if isinstance(value, dict) else {} for value in map(message.get, ("author", "content", "metadata"))
    )
    storable = talk.storable
    role = _ROLES.get(str(author.get("role")), "tool")
    kind = storable.line(content.get("content_type"), 80) or "content without a type"
    record.kind = f"{role} {kind}"
    record.moment = moment_of(message.get("create_time"))
    if metadata.get("is_visually_hidden_from_conversation") is True:
        record.reason = HIDDEN
        return
    turn = Turn(talk, record.native_id, record.moment)
    name = storable.line(author.get("name"))
    recipient = storable.line(message.get("recipient"))
    if role == "tool" and name and talk.calls.is_open(name):
        turn.answer(None, content, failed=kind == "system_error", name=name)
    elif role == "assistant" and recipient not in (None, "all"):
        turn.ask(None, recipient, _text_of(storable, content))
    else:
        _take_content(turn, content, kind)
    said = {"id": record.native_id, "name": name, "timestamp": record.moment and record.moment.isoformat()}
    kept = {key: value for key, value in said.items() if value}
    record.entries = turn.entries(role, kept, storable.line(metadata.get("model_slug")))
    record.reason = None if record.entries else turn.reason() or SAYS_NOTHING


def _take_content(turn: Turn, content: dict[str, Any], kind: str) -> None:
    storable = turn.talk.storable
    if kind == "thoughts":
        thoughts = content.get("thoughts")
        for thought in thoughts if isinstance(thoughts, list) else []:
            if isinstance(thought, dict):
                turn.think(storable.text(thought.get("content")) or storable.text(thought.get("summary")))
        return
    if kind == "reasoning_recap":
        turn.think(storable.text(content.get("content")))
        return
    parts = content.get("parts")
    if not isinstance(parts, list):
        turn.say(_text_of(storable, content))
        return
    for part in parts:
        if isinstance(part, str):
            turn.say(storable.text(part))
        elif not (isinstance(part, dict) and _take_part(turn, part)):
            storable.left_out["unreadable part"] += 1


def _take_part(turn: Turn, part: dict[str, Any]) -> bool:
    storable = turn.talk.storable
    pointer = storable.text(part.get("asset_pointer"))
    if 0 < len(pointer) <= MAX_URI:
        modality = "image" if "image" in str(part.get("content_type")) else None
        turn.parts.append(UriPart(type="uri", uri=pointer, modality=modality))
        return True
    return turn.say(storable.text(part.get("text")))


def _text_of(storable: Storable, content: dict[str, Any]) -> str:
    texts = [storable.text(content.get(name)) for name in _TEXTS]
    parts = content.get("parts")
    texts += [storable.text(part) for part in parts] if isinstance(parts, list) else []
    return "\n\n".join(text for text in texts if text)
