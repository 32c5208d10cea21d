"""Results of tools as people read them: what MCP and Anthropic write as blocks of content, told apart into parts."""

import json
from typing import Any

_REST = {"content", "isError", "structuredContent", "resultType"}
"""The fields of an MCP result that are shown, or say what the entry's status says."""


def parts_of(result: Any) -> list[dict[str, Any]]:
    """Return a result as parts: `text`, `blob`, and `json` for whatever is neither."""
    if result is None:
        return []
    if isinstance(result, str):
        return [{"type": "text", "content": result}]
    if isinstance(result, dict) and result.keys() <= _REST and _are_blocks(result.get("content")):
        parts = [_part(block) for block in result["content"]]
        structured = result.get("structuredContent")
        return parts if structured is None or _is_said(structured, parts) else [*parts, _json(structured)]
    return [_part(block) for block in result] if result and _are_blocks(result) else [_json(result)]


def _are_blocks(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(block, dict) and isinstance(block.get("type"), str) for block in value
    )


def _part(block: dict[str, Any]) -> dict[str, Any]:
    match block:
        case {"type": "text", "text": str(text)}:
            return {"type": "text", "content": text}
        case {"type": "image" | "audio", "data": str(data), "mimeType": str(media_type)}:
            return {"type": "blob", "content": data, "mime_type": media_type}
        case {"type": "image", "source": {"type": "base64", "data": str(data), "media_type": str(media_type)}}:
            return {"type": "blob", "content": data, "mime_type": media_type}
    return _json(block)


def _json(value: Any) -> dict[str, Any]:
    return {"type": "json", "content": json.dumps(value, ensure_ascii=False, indent=2)}


def _is_said(structured: Any, parts: list[dict[str, Any]]) -> bool:
    """Tell whether the text of a result is its structured content, written out for clients that know only text."""
    if len(parts) != 1:
        return False
    text = parts[0]["content"]
    try:
        said = json.loads(text)
    except ValueError:
        said = text
    return structured in (said, {"result": said}, {"result": text})
