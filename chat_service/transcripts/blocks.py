"""The blocks of a message as Anthropic writes them: text, thinking, tool use and result, image, document."""

from collections.abc import Callable
from typing import Any

from chat_service.transcripts.storable import MAX_LINE, MAX_TITLE, MAX_URI, Storable
from chat_service.transcripts.turns import Turn
from models.inputs import BlobPart, FilePart, Part, TextPart, UriPart

Block = dict[str, Any]


def take_content(turn: Turn, content: Any) -> None:
    """Read the content of a message, text or a list of blocks; what cannot be read is counted by its type."""
    storable = turn.talk.storable
    for block in _blocks(content):
        taker = _TAKERS.get(str(block.get("type")))
        if taker is None or not taker(turn, block):
            storable.left_out[f"{storable.line(block.get('type'), MAX_TITLE) or 'unreadable'} block"] += 1


def _blocks(content: Any) -> list[Block]:
    if isinstance(content, str):
        content = [content]
    if not isinstance(content, list):
        return []
    return [
        block if isinstance(block, dict) else {"type": "text" if isinstance(block, str) else None, "text": block}
        for block in content
    ]


def _take_text(turn: Turn, block: Block) -> bool:
    return turn.say(turn.talk.storable.text(block.get("text")))


def _take_thinking(turn: Turn, block: Block) -> bool:
    storable = turn.talk.storable
    return turn.think(storable.text(block.get("thinking")), storable.text(block.get("signature")))


def _take_tool_use(turn: Turn, block: Block) -> bool:
    return turn.ask(block.get("id"), block.get("name"), block.get("input"))


def _take_tool_result(turn: Turn, block: Block) -> bool:
    failed = block.get("is_error") is True
    name = turn.talk.storable.line(block.get("name"))
    return turn.answer(block.get("tool_use_id"), block.get("content"), failed=failed, name=name)


def _take_attachment(turn: Turn, block: Block) -> bool:
    source = block.get("source")
    part = attachment(turn.talk.storable, source, block.get("type")) if isinstance(source, dict) else None
    if part is not None:
        turn.parts.append(part)
    return part is not None


def attachment(storable: Storable, source: dict[str, Any], kind: Any) -> Part | None:
    """Return the part that an image or a document becomes, None where its source cannot be read."""
    mime_type = storable.line(source.get("media_type"))
    modality = "image" if kind == "image" else None
    data, address = storable.text(source.get("data")), storable.text(source.get("url"))
    if source.get("type") == "base64" and data:
        return BlobPart(type="blob", content=data, mime_type=mime_type, modality=modality)
    if source.get("type") == "text" and data:
        return TextPart(type="text", content=data)
    if source.get("type") == "url" and 0 < len(address) <= MAX_URI:
        return UriPart(type="uri", uri=address, mime_type=mime_type, modality=modality)
    file_id = storable.line(source.get("file_id"), MAX_LINE)
    return FilePart(type="file", file_id=file_id, mime_type=mime_type, modality=modality) if file_id else None


_TAKERS: dict[str, Callable[[Turn, Block], bool]] = {
    "text": _take_text,
    "thinking": _take_thinking,
    "tool_use": _take_tool_use,
    "tool_result": _take_tool_result,
    "image": _take_attachment,
    "document": _take_attachment,
}
