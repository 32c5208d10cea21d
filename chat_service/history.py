"""The history: messages and tool usage of a session, merged in the order in which they happened.

Explicit queries, three whatever the length: the session, its messages in the window, its tool usage in the window.
Since seq is dense, a window of so many entries is a range of seq, and no row is read that is not shown. A tool call
and its result are one entry, so no window can separate them.
"""

from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import Connection, Text, bindparam, cast, desc, func, literal, literal_column, select, union_all

from chat_service.messages import MESSAGE_COLUMNS, check_one_edge, entry_parameters
from chat_service.paging import END, check_limit, check_seq
from chat_service.sessions import get_key, get_session
from chat_service.tool_usage import TOOL_USAGE_COLUMNS
from models.errors import Invalid, NotFound
from models.ids import SessionId, UserId
from models.inputs import Kind
from models.prepared import Prepared
from models.rows import all_rows, columns, one_row
from models.shapes import (
    CorrectionDict,
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


def _window(entries: Any, *shape: Any, only: Any = None) -> Prepared:
    # Asked only after the session was found to be the acting user's, on the same snapshot.
    inside = entries.c.seq > bindparam("low"), entries.c.seq <= bindparam("high")
    conditions = [entries.c.session_key == _session_key(), *inside, *([] if only is None else [only])]
    return Prepared(select(*shape).where(*conditions).order_by(entries.c.seq))


_MESSAGES = _window(messages, *MESSAGE_COLUMNS)
_TOOL_USAGES = _window(tool_usages, *TOOL_USAGE_COLUMNS)
_BEGINNINGS = {
    "message_type": messages.c.role,
    "content": _beginning(messages.c.content),
    "content_length": _length(messages.c.content),
    "parts": _beginning(messages.c.parts),
    "parts_length": _length(messages.c.parts),
}
_MESSAGE_PREVIEW = columns(MessagePreviewDict, messages, **_BEGINNINGS)
_TOOL_USAGE_PREVIEW = columns(
    ToolUsagePreviewDict,
    tool_usages,
    arguments=_beginning(tool_usages.c.arguments),
    arguments_length=_length(tool_usages.c.arguments),
    result=_beginning(tool_usages.c.result),
    result_length=_length(tool_usages.c.result),
    error=_beginning(tool_usages.c.error),
    error_length=_length(tool_usages.c.error),
)
_MESSAGE_PREVIEWS = _window(messages, *_MESSAGE_PREVIEW)
_TOOL_USAGE_PREVIEWS = _window(tool_usages, *_TOOL_USAGE_PREVIEW)
_ASKED_LATER = _window(tool_usages, *_TOOL_USAGE_PREVIEW, only=tool_usages.c.message_seq > bindparam("high"))


def _token_counts(entries: Any, *texts: Any) -> Any:
    # What has no count yet was stored by an earlier version: judged by its length.
    lengths = [func.coalesce(func.length(cast(text, Text)), 0) for text in texts]
    tokens = func.coalesce(entries.c.token_count, sum(lengths[1:], lengths[0]) / literal(3))
    inside = entries.c.session_key == _session_key(), entries.c.seq <= bindparam("high")
    return select(entries.c.seq, tokens.label("tokens")).where(*inside)


_TOKEN_COUNTS = (
    union_all(
        _token_counts(messages, messages.c.content),
        _token_counts(tool_usages, tool_usages.c.arguments, tool_usages.c.result, tool_usages.c.error),
    )
    .order_by(desc("seq"))
    .limit(bindparam("entry_limit", type_=messages.c.seq.type))
)
# The second condition is that of a partial index: written out, or SQLite would not see that it may use it.
_NEWEST_OF_KIND = Prepared(
    select(*_MESSAGE_PREVIEW)
    .where(
        messages.c.session_key == _session_key(),
        messages.c.kind == bindparam("kind"),
        messages.c.kind != literal_column("'message'"),
    )
    .order_by(messages.c.seq.desc())
    .limit(bindparam("entry_limit", type_=messages.c.seq.type))
)


def _newest_forms() -> Any:
    forms = (
        select(messages.c.replaces_seq.label("corrected"), messages.c.seq)
        .where(
            messages.c.session_key == _session_key(),
            messages.c.replaces_seq.in_(bindparam("corrected", expanding=True)),
        )
        .cte("forms", recursive=True)
    )
    later, found = messages.alias(), messages.alias()
    # By key, so that SQLite walks from the forms to what corrects them and not through all that corrects anything.
    correcting = select(found.c.key).where(found.c.session_key == _session_key(), found.c.replaces_seq == forms.c.seq)
    walk = forms.join(later, later.c.key.in_(correcting.correlate(forms).scalar_subquery()))
    forms = forms.union(select(forms.c.corrected, later.c.seq).select_from(walk))
    newest = select(forms.c.corrected, func.max(forms.c.seq).label("seq")).group_by(forms.c.corrected).subquery()
    of_session = messages.c.session_key == _session_key()
    return (
        select(*columns(CorrectionDict, messages, corrects_seq=newest.c.corrected, **_BEGINNINGS))
        .join(newest, newest.c.seq == messages.c.seq)
        .where(of_session)
    )


_NEWEST_FORMS = _newest_forms()
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
    return {**window, "entries": read_previews(connection, session_id, content_limit=content_limit, **_edges(window))}


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


# What others build their views of; the session was found to be the acting user's before, on the same snapshot.


def read_previews(
    connection: Connection, session_id: SessionId, low: int, high: int, content_limit: int
) -> list[MessagePreviewDict | ToolUsagePreviewDict]:
    """Return the beginnings of the entries after `low` up to `high`, in order."""
    parameters = {"session_id": session_id, "content_limit": content_limit, "low": low, "high": high}
    said = all_rows(connection, MessagePreviewDict, _MESSAGE_PREVIEWS, parameters)
    done = all_rows(connection, ToolUsagePreviewDict, _TOOL_USAGE_PREVIEWS, parameters)
    return sorted([*said, *done], key=_seq)


def read_asked_later(
    connection: Connection, session_id: SessionId, low: int, high: int, content_limit: int
) -> list[ToolUsagePreviewDict]:
    """Return the tool usage after `low` up to `high` whose asking message comes after `high`."""
    parameters = {"session_id": session_id, "content_limit": content_limit, "low": low, "high": high}
    return all_rows(connection, ToolUsagePreviewDict, _ASKED_LATER, parameters)


def find_start(connection: Connection, session_id: SessionId, high: int, tokens: int, entries: int) -> int:
    """Return the seq after which lie the newest entries up to `high` that exceed so many tokens, or number so many.

    No entry counts for more than half of the tokens.
    """
    low, total = high, 0
    with connection.execute(
        _TOKEN_COUNTS, {"session_id": session_id, "high": high, "entry_limit": entries}
    ) as newest_first:
        # Row by row, so that none is read past the one that fills the window.
        for row in newest_first:
            low, total = row.seq - 1, total + min(row.tokens, tokens // 2)
            if total > tokens:
                break
    return low


def read_kind(
    connection: Connection, session_id: SessionId, kind: Kind, entries: int, content_limit: int
) -> list[MessagePreviewDict]:
    """Return the beginnings of the newest messages of a kind that is not the usual one, newest first."""
    parameters = {"session_id": session_id, "kind": kind, "entry_limit": entries, "content_limit": content_limit}
    return all_rows(connection, MessagePreviewDict, _NEWEST_OF_KIND, parameters)


def read_newest_forms(
    connection: Connection, session_id: SessionId, corrected: Sequence[int], content_limit: int
) -> dict[int, CorrectionDict]:
    """Return the newest correction of each of these messages, where there is one, also a correction of a correction."""
    parameters = {"session_id": session_id, "corrected": list(corrected), "content_limit": content_limit}
    return {form["corrects_seq"]: form for form in all_rows(connection, CorrectionDict, _NEWEST_FORMS, parameters)}


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
