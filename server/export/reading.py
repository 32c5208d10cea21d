"""Reading whole sessions page by page, for those who write them out."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from chat_service.service import ChatService
from models.ids import SessionId, UserId
from models.shapes import MessageDict, ToolUsageDict
from server.export import results

_PAGE = 50

Entry = MessageDict | ToolUsageDict


async def entries_of(service: ChatService, user_id: UserId, session_id: SessionId) -> AsyncIterator[Entry]:
    """Read the entries of a session from its beginning."""
    seq = 0
    while True:
        window = await service.get_session_history(user_id, session_id, _PAGE, after_seq=seq)
        for entry in window["entries"]:
            yield entry
        seq = window["after_seq"]
        if not window["newer"]:
            return


def parts_of(message: MessageDict) -> list[dict[str, Any]]:
    """Return all that a message says as parts, also the text that is in its content alone, after what was thought."""
    parts = message["parts"] or []
    # Importers keep the text of the parts in the content as well.
    texts = [part["content"] for part in parts if part["type"] == "text"]
    if not message["content"] or "".join(message["content"].split()) == "".join("".join(texts).split()):
        return parts
    rest = [part for part in parts if part["type"] != "text" or part["content"] not in message["content"]]
    thought = [part for part in rest if part["type"] == "reasoning"]
    others = [part for part in rest if part["type"] != "reasoning"]
    return [*thought, {"type": "text", "content": message["content"]}, *others]


def outcome_of(usage: ToolUsageDict) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return what came of a call, as parts under a name: the error, and the result where that says something else.

    What is no text and no blob is a part `json`, whose content is written out.
    """
    error, result = usage["error"], results.parts_of(usage["result"])
    if error is None:
        return [("Result", result)] if result else []
    if result and result[0]["type"] == "text" and result[0]["content"].startswith(error):
        # An import takes the error out of the result.
        return [("Error", result)]
    said = [("Error", [{"type": "text", "content": error}]), ("Result", result)]
    return [(name, parts) for name, parts in said if parts]


def heading_of(entry: Entry) -> str:
    """Say whose entry it is."""
    if "message_type" in entry:
        return entry["message_type"] if entry["kind"] == "message" else f"{entry['message_type']}, {entry['kind']}"
    return f"tool, {entry['status']}"


def in_utc(moment: str) -> str:
    """Return a moment as people read it, to the second, where it is one; else as it stands."""
    try:
        time = datetime.fromisoformat(moment)
        return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if time.tzinfo else moment
    except (ValueError, OverflowError):
        return moment


def time_of(entry: Entry) -> str:
    """Return when it was said: by its source, where that says so, else when it was recorded."""
    if "message_type" not in entry:
        return entry["started_at"] or entry["created_at"]
    said = (entry["message_metadata"] or {}).get("timestamp")
    return said if isinstance(said, str) else entry["created_at"]
