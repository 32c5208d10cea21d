"""The items of OpenAI's Responses API: messages, function calls and their outputs, reasoning."""

from typing import Any

from chat_service.transcripts.storable import MAX_TITLE, MAX_URI, Storable, parse
from chat_service.transcripts.turns import Turn
from models.inputs import BlobPart, FilePart, Part, Role, UriPart

UNKNOWN = "of an unknown type"

_ROLES: dict[Any, Role] = {
    "user": "user", "human": "user", "assistant": "assistant", "system": "system", "developer": "system",
    "tool": "tool", "function": "tool",
}  # fmt: skip
_OUTPUTS = ("function_call_output", "custom_tool_call_output", "local_shell_call_output", "computer_call_output")
_TEXTS = ("text", "input_text", "output_text", "summary_text", "reasoning_text", "refusal")


def role_of(value: Any) -> Role:
    """Return the role that a message is stored under; an unknown one is the tool's."""
    return _ROLES.get(value, "tool") if isinstance(value, str) else "tool"


def take_item(turn: Turn, item: dict[str, Any]) -> tuple[Role, str | None]:
    """Read an item; returns whose message it is, and why nothing became of it."""
    kind = item.get("type", "message")
    if kind == "message":
        take_content(turn, item.get("content"))
        return role_of(item.get("role")), turn.reason()
    if kind == "reasoning":
        texts = [*_texts(turn, item.get("summary")), *_texts(turn, item.get("content"))]
        turn.think("\n\n".join(texts), turn.talk.storable.text(item.get("encrypted_content")))
        return "assistant", turn.reason()
    if kind in _OUTPUTS:
        output = item.get("output")
        turn.answer(item.get("call_id"), output, failed=_has_failed(output))
        return "tool", turn.reason()
    if isinstance(kind, str) and kind.endswith("_call"):
        _take_call(turn, item, kind)
        return "assistant", None
    return "assistant", UNKNOWN


def take_content(turn: Turn, content: Any) -> None:
    """Read the content of a message, text or a list of parts; what cannot be read is counted by its type."""
    storable = turn.talk.storable
    parts = content if isinstance(content, list) else [content] if isinstance(content, str) else []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if not (isinstance(part, str) and turn.say(storable.text(part))) and not _take_part(turn, part, kind):
            storable.left_out[f"{storable.line(kind, MAX_TITLE) or 'unreadable'} part"] += 1


def _take_part(turn: Turn, part: Any, kind: Any) -> bool:
    if not isinstance(part, dict):
        return False
    storable = turn.talk.storable
    if kind in _TEXTS:
        return turn.say(storable.text(part.get("refusal" if kind == "refusal" else "text")))
    found = _attachment(storable, part)
    if found is not None:
        turn.parts.append(found)
    return found is not None


def _attachment(storable: Storable, part: dict[str, Any]) -> Part | None:
    modality = "image" if "image" in str(part.get("type")) else "audio" if "audio" in str(part.get("type")) else None
    image, audio, file = part.get("image_url"), part.get("input_audio"), part.get("file")
    inner = file if isinstance(file, dict) else part
    address = storable.text(image.get("url") if isinstance(image, dict) else image) or storable.text(
        inner.get("file_data") or inner.get("file_url")
    )
    if isinstance(audio, dict) and storable.text(audio.get("data")):
        mime_type = f"audio/{storable.line(audio.get('format'), MAX_TITLE) or 'wav'}"
        return BlobPart(type="blob", content=storable.text(audio.get("data")), mime_type=mime_type, modality="audio")
    if address.startswith("data:") and ";base64," in address[:200]:
        head, _, data = address.partition(";base64,")
        media_type = head.removeprefix("data:").split(";")[0] or None
        return BlobPart(type="blob", content=data, mime_type=media_type, modality=modality)
    if 0 < len(address) <= MAX_URI:
        return UriPart(type="uri", uri=address, modality=modality)
    file_id = storable.line(inner.get("file_id"))
    return FilePart(type="file", file_id=file_id, modality=modality) if file_id else None


def _take_call(turn: Turn, item: dict[str, Any], kind: str) -> None:
    call_id = item.get("call_id") or item.get("id")
    if kind in ("function_call", "custom_tool_call", "mcp_call"):
        arguments = item.get("input") if kind == "custom_tool_call" else item.get("arguments")
        turn.ask(call_id, item.get("name"), arguments)
        if kind == "mcp_call" and ("output" in item or "error" in item):
            error = item.get("error")
            turn.answer(call_id, item.get("output") if error is None else error, failed=error is not None)
        return
    # Tools that the provider runs itself say in the item what they were asked and what came of it.
    turn.ask(call_id, kind.removesuffix("_call"), item.get("action") or item.get("queries") or item.get("code"))
    results = next((item[name] for name in ("results", "outputs", "result") if item.get(name) is not None), None)
    if kind != "local_shell_call" and (results is not None or item.get("status") in ("completed", "failed")):
        turn.answer(call_id, results, failed=item.get("status") == "failed")


def _texts(turn: Turn, parts: Any) -> list[str]:
    found = parts if isinstance(parts, list) else []
    texts = [turn.talk.storable.text(part.get("text")) for part in found if isinstance(part, dict)]
    return [text for text in texts if text]


def _has_failed(output: Any) -> bool:
    """Tell whether an output says that its call failed: by `success`, or by the exit code of a command."""
    if isinstance(output, str):
        output = parse(output) if output.startswith("{") else None
    if not isinstance(output, dict):
        return False
    metadata = output.get("metadata")
    exit_code = metadata.get("exit_code") if isinstance(metadata, dict) else None
    return output.get("success") is False or (type(exit_code) is int and exit_code != 0)
