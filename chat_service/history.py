"""The history: messages and tool usage of a session, merged in the order in which they happened.

Explicit queries, three whatever the length: the session, its messages in the window, its tool usage in the window.
Since seq is dense, a window of so many entries is a range of seq, and no row is read that is not shown; nor is tool
usage looked for where the messages are as many as the numbers. A tool call and its result are one entry, so no window
can separate them. A fork's window is read through its lineage where it begins before the fork point, in as many
statements.
"""

from typing import Any, Literal

from sqlalchemy import Connection, bindparam, func
from typing_extensions import TypedDict

from chat_service.lineage import in_order, is_whole, read_entries, window_of
from chat_service.messages import (
    INHERITED_MESSAGE_COLUMNS,
    MESSAGE_COLUMNS,
    check_one_edge,
)
from chat_service.paging import END, check_limit, check_seq
from chat_service.previews import read_previews
from chat_service.sessions import Timeline, find_session, get_timeline
from chat_service.tool_payloads import put_back
from chat_service.tool_usage import INHERITED_TOOL_USAGE_COLUMNS, TOOL_USAGE_COLUMNS
from models.errors import Invalid, NotFound
from models.ids import SessionId, UserId
from models.rows import columns
from models.shapes import (
    EntryPieceDict,
    HistoryDict,
    HistoryPreviewDict,
    MessageDict,
    ToolUsageDict,
    WindowDict,
)
from models.tables import messages, tool_usages
from models.text import to_json

MAX_PIECE = 100_000
"""Characters of an entry that one piece may hold."""


class _Content(TypedDict):
    content: str
    content_length: int
    is_all: bool


_PIECE_OF_CONTENT = columns(
    _Content,
    messages,
    content=func.substr(messages.c.content, bindparam("start"), bindparam("piece")),
    content_length=func.length(messages.c.content),
    is_all=messages.c.parts.is_(None) & messages.c.message_metadata.is_(None),
)
_MESSAGES = window_of(messages, MESSAGE_COLUMNS, INHERITED_MESSAGE_COLUMNS)
_TOOL_USAGES = window_of(tool_usages, TOOL_USAGE_COLUMNS, INHERITED_TOOL_USAGE_COLUMNS)
_CONTENT_PIECE = window_of(messages, _PIECE_OF_CONTENT, _PIECE_OF_CONTENT)


def get_history(
    connection: Connection,
    user_id: UserId,
    session_id: SessionId,
    limit: int = 50,
    before_seq: int | None = None,
    after_seq: int | None = None,
) -> HistoryDict:
    """Return the last entries before `before_seq` (or the end), or the first after `after_seq`, oldest first."""
    window, timeline = _place(connection, user_id, session_id, limit, before_seq, after_seq)
    entries = get_range(connection, user_id, session_id, timeline, window["older"], window["after_seq"])
    return {**window, "entries": entries}


def get_range(
    connection: Connection, user_id: UserId, session_id: SessionId, timeline: Timeline, low: int, high: int
) -> list[MessageDict | ToolUsageDict]:
    """Return the entries after seq `low` up to seq `high`, oldest first: in one statement where all are messages.

    Else in two, and one more puts the images and documents back that results hold, where there are any.
    """
    parameters: dict[str, Any] = {"user_id": user_id, "session_id": session_id, "low": low, "high": high}
    said = read_entries(connection, MessageDict, _MESSAGES, timeline, parameters)
    if is_whole(said, low, high):
        return [*said]
    done = read_entries(connection, ToolUsageDict, _TOOL_USAGES, timeline, parameters)
    put_back(connection, timeline, done)
    return in_order(said, done)


def get_preview(
    connection: Connection,
    user_id: UserId,
    session_id: SessionId,
    limit: int = 50,
    before_seq: int | None = None,
    after_seq: int | None = None,
    content_limit: int = 1_000,
) -> HistoryPreviewDict:
    """Return the same window with no more than `content_limit` characters of any text."""
    _check_content_limit(content_limit)
    window, timeline = _place(connection, user_id, session_id, limit, before_seq, after_seq)
    entries = read_previews(connection, timeline, window["older"], window["after_seq"], content_limit)
    return {**window, "entries": entries}


def get_entry(
    connection: Connection,
    user_id: UserId,
    session_id: SessionId,
    seq: int,
    content_offset: int = 0,
    content_limit: int = 16_000,
) -> EntryPieceDict:
    """Return a piece of one entry's text; raises NotFound where the session has no such entry."""
    check_seq("content_offset", content_offset)
    _check_content_limit(content_limit)
    timeline = get_timeline(connection, user_id, session_id)
    if not 0 < seq < END:
        raise _no_such_entry()
    piece = {"low": seq - 1, "high": seq, "start": content_offset + 1, "piece": content_limit}
    message = read_entries(connection, _Content, _CONTENT_PIECE, timeline, piece)
    content_type: Literal["text/plain", "application/json"] = "text/plain"
    if message and message[0]["is_all"]:
        content, length = message[0]["content"], message[0]["content_length"]
    else:
        entries = get_range(connection, user_id, session_id, timeline, seq - 1, seq)
        if not entries:
            raise _no_such_entry()
        text, content_type = to_json(entries[0]), "application/json"
        content, length = text[content_offset : content_offset + content_limit], len(text)
    if content_offset > length:
        raise Invalid(f"content_offset is past the end of the entry, which has {length} characters.")
    end = content_offset + len(content)
    return {
        "session_id": session_id,
        "seq": seq,
        "content_type": content_type,
        "content": content,
        "content_offset": content_offset,
        "content_length": length,
        "next_content_offset": end if end < length else None,
    }


def _check_content_limit(content_limit: int) -> None:
    if not 1 <= content_limit <= MAX_PIECE:
        raise Invalid(f"content_limit must be between 1 and {MAX_PIECE}.")


def _no_such_entry() -> NotFound:
    return NotFound("The session has no entry with this seq: its timeline runs from 1 to last_seq.")


def _place(
    connection: Connection,
    user_id: UserId,
    session_id: SessionId,
    limit: int,
    before_seq: int | None,
    after_seq: int | None,
) -> tuple[WindowDict, Timeline]:
    check_limit(limit)
    check_one_edge(before_seq, after_seq)
    session, timeline = find_session(connection, user_id, session_id)
    last = session["last_seq"]
    if after_seq is not None:
        low = min(after_seq, last)
        high = min(low + limit, last)
    else:
        high = last if before_seq is None else min(before_seq - 1, last)
        low = max(high - limit, 0)
    window: WindowDict = {
        "session": session,
        "older": low,
        "newer": last - high,
        "before_seq": low + 1 if low else None,
        "after_seq": high,
    }
    return window, timeline
