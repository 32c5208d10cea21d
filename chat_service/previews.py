"""Previews: the beginnings of entries, of a window or of those that matter most to who carries a session on.

All of them read a timeline that was found to be the acting user's, on the same snapshot.
"""

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from sqlalchemy import Connection, Text, bindparam, cast, desc, func, literal, literal_column, select, union_all

from chat_service.lineage import (
    HIGH,
    LINEAGE,
    SESSION_KEY,
    Statements,
    in_order,
    inherited,
    is_whole,
    known_here,
    read_entries,
    window_of,
    within,
)
from chat_service.paging import END
from chat_service.sessions import Timeline
from models.inputs import Kind
from models.prepared import Prepared, listed
from models.rows import columns
from models.shapes import CorrectionDict, MessagePreviewDict, ToolUsagePreviewDict
from models.tables import messages, tool_usages
from models.text import to_json

_BEGINNING: Any = bindparam("content_limit")
_MOST = bindparam("entry_limit", type_=messages.c.seq.type)


def _beginning(column: Any) -> Any:
    return func.substr(cast(column, Text), 1, _BEGINNING)


def _length(column: Any) -> Any:
    return func.length(cast(column, Text))


_BEGINNINGS = {
    "message_type": messages.c.role,
    "content": _beginning(messages.c.content),
    "content_length": _length(messages.c.content),
    "parts": _beginning(messages.c.parts),
    "parts_length": _length(messages.c.parts),
}
_MESSAGE = columns(MessagePreviewDict, messages, **_BEGINNINGS)


def _tool_usage(message_seq: Any) -> Any:
    return columns(
        ToolUsagePreviewDict,
        tool_usages,
        message_seq=message_seq,
        arguments=_beginning(tool_usages.c.arguments),
        arguments_length=_length(tool_usages.c.arguments),
        result=_beginning(tool_usages.c.result),
        result_length=_length(tool_usages.c.result),
        error=_beginning(tool_usages.c.error),
        error_length=_length(tool_usages.c.error),
    )


_OWN_TOOL_USAGE, _INHERITED_TOOL_USAGE = (
    _tool_usage(tool_usages.c.message_seq),
    _tool_usage(known_here(tool_usages.c.message_seq)),
)
_MESSAGES = window_of(messages, _MESSAGE, _MESSAGE)
_TOOL_USAGES = window_of(tool_usages, _OWN_TOOL_USAGE, _INHERITED_TOOL_USAGE)
_ASKED_LATER = Statements(
    select(*_OWN_TOOL_USAGE).where(within(tool_usages), tool_usages.c.message_seq > HIGH).order_by(tool_usages.c.seq),
    select(*_INHERITED_TOOL_USAGE)
    .select_from(inherited(tool_usages))
    .where(known_here(tool_usages.c.message_seq) > HIGH)
    .order_by(tool_usages.c.seq),
)


def _tokens(entries: Any, *texts: Any) -> Any:
    # What has no count yet was stored by an earlier version: judged by its length.
    lengths = [func.coalesce(func.length(cast(text, Text)), 0) for text in texts]
    tokens = func.coalesce(entries.c.token_count, sum(lengths[1:], lengths[0]) / literal(3))
    return select(entries.c.seq, tokens.label("tokens"))


def _newest_first(*counts: Any) -> Any:
    return Prepared(union_all(*counts).order_by(desc("seq")))


_OF_MESSAGES = _tokens(messages, messages.c.content)
_OF_TOOL_USAGES = _tokens(tool_usages, tool_usages.c.arguments, tool_usages.c.result, tool_usages.c.error)
_TOKEN_COUNTS = _newest_first(_OF_MESSAGES.where(within(messages)), _OF_TOOL_USAGES.where(within(tool_usages)))
_INHERITED_TOKEN_COUNTS = _newest_first(
    _OF_MESSAGES.select_from(inherited(messages)), _OF_TOOL_USAGES.select_from(inherited(tool_usages))
)
_CORRECTED = messages.c.replaces_seq.in_(select(listed("corrected")))
# The second condition is that of a partial index: written out, or SQLite would not see that it may use it.
_OF_KIND = messages.c.kind == bindparam("kind"), messages.c.kind != literal_column("'message'")
_NEWEST_OF_KIND = Statements(
    select(*_MESSAGE)
    .where(messages.c.session_key == SESSION_KEY, *_OF_KIND)
    .order_by(messages.c.seq.desc())
    .limit(_MOST),
    select(*_MESSAGE).select_from(inherited(messages)).where(*_OF_KIND).order_by(messages.c.seq.desc()).limit(_MOST),
)


def _corrections() -> Any:
    """Return the statement over a session's own messages: those that correct some, and what corrects those in turn."""
    forms = (
        select(messages.c.replaces_seq.label("corrected"), messages.c.seq)
        .where(messages.c.session_key == SESSION_KEY, _CORRECTED)
        .cte("forms", recursive=True)
    )
    later, found = messages.alias(), messages.alias()
    # By key, so that SQLite walks from the forms to what corrects them and not through all that corrects anything.
    correcting = select(found.c.key).where(found.c.session_key == SESSION_KEY, found.c.replaces_seq == forms.c.seq)
    walk = forms.join(later, later.c.key.in_(correcting.correlate(forms).scalar_subquery()))
    newest = _newest_of(forms.union(select(forms.c.corrected, later.c.seq).select_from(walk)))
    return (
        select(*columns(CorrectionDict, messages, corrects_seq=newest.c.corrected, **_BEGINNINGS))
        .join(newest, newest.c.seq == messages.c.seq)
        .where(messages.c.session_key == SESSION_KEY)
    )


def _inherited_corrections() -> Any:
    """Return the same statement over all that a fork has."""
    forms = (
        select(messages.c.replaces_seq.label("corrected"), messages.c.seq)
        .select_from(inherited(messages))
        .where(_CORRECTED)
        .cte("forms", recursive=True)
    )
    later, found = messages.alias(), messages.alias()
    correcting = (
        select(found.c.key)
        .where(
            found.c.session_key == LINEAGE.c.session_key,
            found.c.seq > LINEAGE.c.low,
            found.c.seq <= LINEAGE.c.high,
            found.c.replaces_seq == forms.c.seq,
        )
        .correlate(forms, LINEAGE)
        .scalar_subquery()
    )
    walk = forms.join(LINEAGE, LINEAGE.c.session_key.is_not(None)).join(later, later.c.key.in_(correcting))
    newest = _newest_of(forms.union(select(forms.c.corrected, later.c.seq).select_from(walk)))
    shown = columns(CorrectionDict, messages, corrects_seq=newest.c.corrected, **_BEGINNINGS)
    return select(*shown).select_from(inherited(messages).join(newest, newest.c.seq == messages.c.seq))


def _newest_of(forms: Any) -> Any:
    return select(forms.c.corrected, func.max(forms.c.seq).label("seq")).group_by(forms.c.corrected).subquery()


_CORRECTIONS = Statements(_corrections(), _inherited_corrections())


def read_previews(
    connection: Connection, timeline: Timeline, low: int, high: int, content_limit: int
) -> list[MessagePreviewDict | ToolUsagePreviewDict]:
    """Return the beginnings of the entries after `low` up to `high`, in order."""
    window = {"content_limit": content_limit, "low": low, "high": high}
    said = read_entries(connection, MessagePreviewDict, _MESSAGES, timeline, window)
    if is_whole(said, low, high):
        return [*said]
    return in_order(said, read_entries(connection, ToolUsagePreviewDict, _TOOL_USAGES, timeline, window))


def read_asked_later(
    connection: Connection, timeline: Timeline, low: int, high: int, content_limit: int
) -> list[ToolUsagePreviewDict]:
    """Return the tool usage after `low` up to `high` whose asking message comes after `high`."""
    window = {"content_limit": content_limit, "low": low, "high": high}
    return read_entries(connection, ToolUsagePreviewDict, _ASKED_LATER, timeline, window)


def find_start(connection: Connection, timeline: Timeline, high: int, tokens: int, entries: int) -> int:
    """Return the seq after which lie the newest entries up to `high` that exceed so many tokens, or number so many.

    No entry counts for more than half of the tokens.
    """
    window = {"session_key": timeline.session_key, "low": max(0, high - entries), "high": high}
    counts = _TOKEN_COUNTS if window["low"] >= timeline.inherited else _INHERITED_TOKEN_COUNTS
    low, total = high, 0
    with closing(counts.each(connection, window)) as newest_first:
        # Row by row, so that none is read past the one that fills the window.
        for seq, of_entry in newest_first:
            low, total = seq - 1, total + min(of_entry, tokens // 2)
            if total > tokens:
                break
    return low


def read_kind(
    connection: Connection, timeline: Timeline, kind: Kind, entries: int, content_limit: int
) -> list[MessagePreviewDict]:
    """Return the beginnings of the newest messages of a kind that is not the usual one, newest first."""
    window = {"low": 0, "high": END, "kind": kind, "entry_limit": entries, "content_limit": content_limit}
    return read_entries(connection, MessagePreviewDict, _NEWEST_OF_KIND, timeline, window)


def read_newest_forms(
    connection: Connection, timeline: Timeline, corrected: Sequence[int], content_limit: int
) -> dict[int, CorrectionDict]:
    """Return the newest correction of each of these messages, where there is one, also a correction of a correction."""
    if not corrected:
        return {}
    window = {"low": 0, "high": END, "corrected": to_json(corrected), "content_limit": content_limit}
    forms = read_entries(connection, CorrectionDict, _CORRECTIONS, timeline, window)
    return {form["corrects_seq"]: form for form in forms}
