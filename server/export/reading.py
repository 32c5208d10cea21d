"""Reading whole sessions page by page, for those who write them out."""

import json
from collections.abc import AsyncIterator
from typing import Any

from chat_service.service import ChatService
from models.ids import SessionId, UserId
from models.shapes import MessageDict, ToolUsageDict

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


def outcome_of(usage: ToolUsageDict) -> list[tuple[str, str]]:
    """Return what came of a call, each under its name: the error, and the result where that says something else."""
    result = usage["result"]
    shown = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, indent=2)
    outcome = [("Error", usage["error"]), ("Result", None if result is None or shown == usage["error"] else shown)]
    return [(name, text) for name, text in outcome if text is not None]


def heading_of(entry: Entry) -> str:
    """Say whose entry it is."""
    if "message_type" in entry:
        return entry["message_type"] if entry["kind"] == "message" else f"{entry['message_type']}, {entry['kind']}"
    return f"tool, {entry['status']}"


def time_of(entry: Entry) -> str:
    """Return when it was said: by its source, where that says so, else when it was recorded."""
    if "message_type" not in entry:
        return entry["started_at"] or entry["created_at"]
    said = (entry["message_metadata"] or {}).get("timestamp")
    return said if isinstance(said, str) else entry["created_at"]
