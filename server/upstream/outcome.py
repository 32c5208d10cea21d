"""What a call came to: its status, and its result as JSON that can be stored."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.inputs import ToolStatus
from models.text import check_json, check_text, to_json

if TYPE_CHECKING:
    import mcp_types as types

_LONGEST_ERROR = 4_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: what the tool gave, and a sentence where it failed."""

    status: ToolStatus
    result: Any = None
    error: str | None = None


def outcome_of(result: "types.CallToolResult") -> Outcome:
    """Return the outcome of a call that the tool has answered."""
    given = storable(_result_of(result))
    if not result.is_error:
        return Outcome("success", given)
    texts = [block.text for block in result.content if block.type == "text"]
    return Outcome("error", given, storable_text("\n".join(texts))[:_LONGEST_ERROR] or "the tool failed")


def storable(value: Any) -> Any:
    """Return a JSON value as it is, or as text where it cannot be stored so."""
    try:
        return check_json(value)
    except ValueError:
        # What is no text, like half of a surrogate pair, is written as an escape.
        return storable_text(json.dumps(value))


def storable_text(text: str) -> str:
    """Return a text as it is, or without what cannot be stored."""
    try:
        return check_text(text)
    except ValueError:
        return text.replace("\0", "").encode("utf-8", "replace").decode()


def within(value: Any, max_bytes: int) -> Any:
    """Return the value, or where it is larger as JSON, its beginning and its size."""
    text = to_json(value)
    size = len(text.encode())
    if size <= max_bytes:
        return value
    # Quotes and what is not ASCII grow when the text is written as JSON itself.
    return {"left_out": "larger than the record keeps", "bytes": size, "beginning": text[: max_bytes // 8]}


def _result_of(result: "types.CallToolResult") -> Any:
    blocks = [block.model_dump(by_alias=True, mode="json", exclude_none=True) for block in result.content]
    only_text = blocks[0]["text"] if len(blocks) == 1 and set(blocks[0]) == {"type", "text"} else None
    if result.structured_content is None:
        return blocks if only_text is None else only_text
    if not blocks or (only_text is not None and _says(only_text, result.structured_content)):
        return result.structured_content
    return {"structuredContent": result.structured_content, "content": blocks}


def _says(text: str, value: Any) -> bool:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return False
    # A value that is no object is wrapped by servers, and its text is not.
    return bool(said == value or {"result": said} == value)
