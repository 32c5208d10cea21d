"""The history: messages and tool usage of a session, merged in the order in which they happened.

Explicit queries, three whatever the length: the session, its messages in the window, its tool usage in the window.
Since seq is dense, a window of so many entries is a range of seq, and no row is read that is not shown. A tool call
and its result are one entry, so no window can separate them.
"""

from typing import Any, Literal

from sqlalchemy import Connection, Text, bindparam, cast, func, select

from chat_service.messages import MESSAGE_COLUMNS, check_one_edge, entry_parameters
from chat_service.paging import END, check_limit, check_seq
from chat_service.sessions import get_key, get_session
from chat_service.tool_usage import TOOL_USAGE_COLUMNS
from models.errors import Invalid, NotFound
from models.ids import SessionId, UserId
from models.prepared import Prepared
from models.rows import all_rows, columns, one_row
from models.shapes import (
    EntryPieceDict,
    HistoryDict,
    HistoryPreviewDict,
    MessageDict,
    MessagePreviewDict,
    ToolUsageDict,
    ToolUsagePreviewDict,
    WindowDict,
)
from models.tables import chat_sessions, messages, tool_usages
from models.text import to_json

MAX_PIECE = 100_000
"""Characters of an entry that one piece may hold."""

_BEGINNING: Any = bindparam("content_limit")


def _beginning(column: Any) -> Any:
    return func.substr(cast(column, Text), 1, _BEGINNING)


def _length(column: Any) -> Any:
    return func.length(cast(column, Text))


def _session_key() -> Any:
    owned = chat_sessions.c.id == bindparam("session_id")
    return select(chat_sessions.c.key).where(owned).scalar_subquery()


def _window(entries: Any, *shape: Any) -> Prepared:
    # Asked only after the session was found to be the acting user's, on the same snapshot.
    inside = entries.c.seq > bindparam("low"), entries.c.seq <= bindparam("high")
    return Prepared(select(*shape).where(entries.c.session_key == _session_key(), *inside).order_by(entries.c.seq))


_MESSAGES = _window(messages, *MESSAGE_COLUMNS)
_TOOL_USAGES = _window(tool_usages, *TOOL_USAGE_COLUMNS)
_MESSAGE_PREVIEWS = _window(
    messages,
    *columns(
        MessagePreviewDict,
        messages,
        message_type=messages.c.role,
        content=_beginning(messages.c.content),
        content_length=_length(messages.c.content),
        parts=_beginning(messages.c.parts),
        parts_length=_length(messages.c.parts),
    ),
)
_TOOL_USAGE_PREVIEWS = _window(
    tool_usages,
    *columns(
        ToolUsagePreviewDict,
        tool_usages,
        arguments=_beginning(tool_usages.c.arguments),
        arguments_length=_length(tool_usages.c.arguments),
        result=_beginning(tool_usages.c.result),
        result_length=_length(tool_usages.c.result),
        error=_beginning(tool_usages.c.error),
        error_length=_length(tool_usages.c.error),
    ),
)
_CONTENT_PIECE = Prepared(
    select(
        func.substr(messages.c.content, bindparam("start"), bindparam("piece")),
        func.length(messages.c.content),
        messages.c.parts.is_(None) & messages.c.message_metadata.is_(None),
    ).where(messages.c.session_key == bindparam("session_key"), messages.c.seq == bindparam("seq"))
)


def get_history(
    connection: Connection,
    user_id: UserId,
    session_id: SessionId,
    limit: int = 50,
    before_seq: int | None = None,
    after_seq: int | None = None,
) -> HistoryDict:
    """Return the last entries before `before_seq` (or the end), or the first after `after_seq`, oldest first."""
    window = _place(connection, user_id, session_id, limit, before_seq, after_seq)
    parameters = entry_parameters(user_id, session_id) | _edges(window)
    said = all_rows(connection, MessageDict, _MESSAGES, parameters)
    done = all_rows(connection, ToolUsageDict, _TOOL_USAGES, parameters)
    entries: list[MessageDict | ToolUsageDict] = sorted([*said, *done], key=_seq)
    return {**window, "entries": entries}


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
    window = _place(connection, user_id, session_id, limit, before_seq, after_seq)
    parameters = {"session_id": session_id, "content_limit": content_limit} | _edges(window)
    said = all_rows(connection, MessagePreviewDict, _MESSAGE_PREVIEWS, parameters)
    done = all_rows(connection, ToolUsagePreviewDict, _TOOL_USAGE_PREVIEWS, parameters)
    entries: list[MessagePreviewDict | ToolUsagePreviewDict] = sorted([*said, *done], key=_seq)
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
    session_key = get_key(connection, user_id, session_id)
    if not 0 < seq < END:
        raise _no_such_entry()
    where = {"session_key": session_key, "seq": seq, "start": content_offset + 1, "piece": content_limit}
    message = _CONTENT_PIECE.first(connection, where)
    content_type: Literal["text/plain", "application/json"] = "text/plain"
    if message is not None and message[2]:
        content, length = message[0], message[1]
    else:
        entry = _whole(connection, user_id, session_id, seq)
        if entry is None:
            raise _no_such_entry()
        text, content_type = to_json(entry), "application/json"
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


def _whole(
    connection: Connection, user_id: UserId, session_id: SessionId, seq: int
) -> MessageDict | ToolUsageDict | None:
    parameters = entry_parameters(user_id, session_id) | {"low": seq - 1, "high": seq}
    message = one_row(connection, MessageDict, _MESSAGES, parameters)
    return message or one_row(connection, ToolUsageDict, _TOOL_USAGES, parameters)


def _place(
    connection: Connection,
    user_id: UserId,
    session_id: SessionId,
    limit: int,
    before_seq: int | None,
    after_seq: int | None,
) -> WindowDict:
    check_limit(limit)
    check_one_edge(before_seq, after_seq)
    session = get_session(connection, user_id, session_id)
    last = session["last_seq"]
    if after_seq is not None:
        low = min(after_seq, last)
        high = min(low + limit, last)
    else:
        high = last if before_seq is None else min(before_seq - 1, last)
        low = max(high - limit, 0)
    return {
        "session": session,
        "older": low,
        "newer": last - high,
        "before_seq": low + 1 if low else None,
        "after_seq": high,
    }


def _edges(window: WindowDict) -> dict[str, int]:
    return {"low": window["older"], "high": window["after_seq"]}


def _seq(entry: Any) -> int:
    seq: int = entry["seq"]
    return seq
