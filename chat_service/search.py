"""Search: the acting user's messages and tool usage that hold what a query asks for.

The index gives the newest candidates, a block of each kind at a time; only these are ranked, so a word that stands in
every message costs no more than a rare one. A page never spans two blocks; its cursor says where each kind's block
begins and how much of the block was given. Filters that the index does not know are judged on a bounded number of
candidates, so a page may be short, even empty, although more follow.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    Table,
    Text,
    null,
    select,
    type_coerce,
    union,
)

from chat_service import query_language
from chat_service.candidates import BLOCK, NARROWED, PLAIN, Candidate, Candidates, find_newest
from chat_service.excerpts import Finder, excerpt, rank
from chat_service.lineage import LINEAGE
from chat_service.moments import known_moment
from chat_service.paging import END, check_limit, make_cursor_of, read_cursor_of
from chat_service.query_language import SearchQuery
from chat_service.sessions import get_timeline
from chat_service.users import USER_KEY, get_user_key
from models import full_text
from models.ids import SessionId, UserId, to_microseconds
from models.indexing import read_progress
from models.prepared import Prepared, listed
from models.shapes import SearchHitDict, SearchPageDict
from models.tables import Timestamp, chat_sessions, messages, tool_usages
from models.text import to_json

_NEWEST = 2**63 - 1
_FIRST_MOMENT, _LAST_MOMENT = -(2**63), 2**63 - 1
_SEGMENTS = Prepared(select(LINEAGE.c.session_key, LINEAGE.c.low, LINEAGE.c.high))
_KINDS = (messages, tool_usages)


def _text(column: Any) -> Any:
    return type_coerce(column, Text)


def _of_keys(entries: Table, *shape: Any) -> Any:
    session = chat_sessions.c.id, chat_sessions.c.title
    said_at = type_coerce(known_moment(entries), Timestamp).label("said_at")
    return Prepared(
        select(entries.c.key, entries.c.seq, entries.c.created_at, said_at, *session, *shape)
        .join(chat_sessions, chat_sessions.c.key == entries.c.session_key)
        # A sum has no index, else the owner's sessions would be the way in, and all their entries be walked.
        .where(entries.c.key.in_(select(listed("keys"))), chat_sessions.c.user_key + 0 == USER_KEY)
    )


_MOVED_FROM = Prepared(
    union(
        *(
            select(entries.c.indexed_in).where(
                entries.c.session_key.in_(select(listed("sessions"))), entries.c.indexed_in.is_not(None)
            )
            for entries in (messages, tool_usages)
        )
    )
)
_MESSAGE_HITS = _of_keys(
    messages, messages.c.role, null().label("tool_name"), messages.c.content, _text(messages.c.parts).label("parts")
)
_TOOL_USAGE_HITS = _of_keys(
    tool_usages,
    null().label("role"),
    tool_usages.c.tool_name,
    tool_usages.c.server_name,
    _text(tool_usages.c.arguments).label("arguments"),
    _text(tool_usages.c.result).label("result"),
    tool_usages.c.error,
)


class Segment(NamedTuple):
    """The entries of one session's rows after a seq, up to another."""

    session_key: int
    after_seq: int
    up_to_seq: int


def search(
    connection: Connection, user_id: UserId, query: str, limit: int = 20, cursor: str | None = None
) -> SearchPageDict:
    """Return a page of hits; raises Invalid, naming what of the query to change, and NotFound for a session: filter."""
    check_limit(limit)
    wanted = query_language.parse(query)
    of = ("search", user_id, query)
    *edges, given = read_cursor_of(cursor, len(_KINDS) + 1, *of) or (_NEWEST,) * len(_KINDS) + (0,)
    user_key = get_user_key(connection, user_id)
    progress = read_progress(connection)
    indexed_keys = progress.messages, progress.tool_usages
    segments = [each for session_id in wanted.sessions for each in segments_of(connection, user_id, session_id)]
    marks = _marks(connection, user_key, segments)
    blocks = [
        # Nothing is indexed beyond that key.
        _block(connection, entries, min(edge, indexed_key + 1), user_id, wanted, marks, segments)
        for entries, edge, indexed_key in zip(_KINDS, edges, indexed_keys, strict=True)
    ]
    finders = [Finder(term) for term in wanted.terms]
    block = _ranked([candidate for each in blocks for candidate in each.fitting], finders)
    page = block[given : given + limit]
    next_cursor: str | None = None
    if given + limit < len(block):
        next_cursor = make_cursor_of((*(each.edge for each in blocks), given + limit), *of)
    elif any(each.next_edge for each in blocks):
        next_cursor = make_cursor_of((*(each.next_edge for each in blocks), 0), *of)
    finders += [Finder(full_text.Term(tool)) for tool in wanted.tools]
    return {
        "hits": _hits(connection, user_id, page, finders),
        "next_cursor": next_cursor,
        "is_complete": progress.is_complete,
    }


def segments_of(connection: Connection, user_id: UserId, session_id: SessionId) -> list[Segment]:
    """Return where the entries of a session are, those that it inherits too; raises NotFound."""
    timeline = get_timeline(connection, user_id, session_id)
    if not timeline.inherited:
        return [Segment(timeline.session_key, 0, END)]
    window = {"session_key": timeline.session_key, "low": 0, "high": END}
    return [Segment(*row) for row in _SEGMENTS.rows(connection, window)]


def _block(
    connection: Connection,
    entries: Table,
    edge: int,
    user_id: UserId,
    wanted: SearchQuery,
    marks: Sequence[str],
    segments: Sequence[Segment],
) -> Candidates:
    if edge <= 1 or not _may_fit(entries, wanted):
        return Candidates([], 0, 0)
    parameters = {
        "wanted": _expression(entries, wanted, marks),
        "user_id": user_id,
        "first": to_microseconds(wanted.after) if wanted.after else _FIRST_MOMENT,
        "last": to_microseconds(wanted.before) - 1 if wanted.before else _LAST_MOMENT,
        "segments": to_json(segments) if segments else None,
    }
    reach = NARROWED if wanted.before or wanted.after or segments else PLAIN
    found = find_newest(connection, entries, edge, reach, parameters)
    if reach is PLAIN and found.next_edge and len(found.fitting) <= BLOCK:
        # All that the index gives fits then, but for what is being deleted: that may be the newest by far.
        found = find_newest(connection, entries, edge, NARROWED, parameters)
    if len(found.fitting) > BLOCK:
        return found._replace(fitting=found.fitting[:BLOCK], next_edge=found.fitting[BLOCK - 1].key)
    return found


def _may_fit(entries: Table, wanted: SearchQuery) -> bool:
    if entries is messages:
        return not wanted.tools
    return not wanted.roles or "tool" in wanted.roles


def _marks(connection: Connection, user_key: int, segments: Sequence[Segment]) -> list[str]:
    if not segments:
        return [full_text.user_mark(user_key)]
    # A session has one owner: its mark says whose it is, and is rarer.
    sessions = {segment.session_key for segment in segments}
    sessions.update(key for (key,) in _MOVED_FROM.rows(connection, {"sessions": to_json(sorted(sessions))}))
    return [full_text.session_mark(key) for key in sorted(sessions)]


def _expression(entries: Table, wanted: SearchQuery, owners: Sequence[str]) -> str:
    marks = [owners]
    if wanted.roles and entries is messages:
        marks.append([full_text.role_mark(role) for role in wanted.roles])
    return full_text.expression(full_text.Wanted(wanted.terms, wanted.excluded, marks, wanted.tools))


def _ranked(candidates: list[Candidate], finders: Sequence[Finder]) -> list[Candidate]:
    newest = sorted(candidates, key=lambda each: (each.moment, each.key, each.entries.name), reverse=True)
    scores = rank(finders, [each.text for each in newest])
    # Sorting is stable: of equal ones the newest stays first.
    order = sorted(range(len(newest)), key=lambda place: -scores[place])
    return [newest[place] for place in order]


def _hits(
    connection: Connection, user_id: UserId, page: Sequence[Candidate], finders: Sequence[Finder]
) -> list[SearchHitDict]:
    hits: dict[tuple[str, int], SearchHitDict] = {}
    for entries, statement in ((messages, _MESSAGE_HITS), (tool_usages, _TOOL_USAGE_HITS)):
        keys = [each.key for each in page if each.entries is entries]
        if not keys:
            continue
        for row in statement.rows(connection, {"keys": to_json(keys), "user_id": user_id}):
            hits[entries.name, row[0]] = _hit(row[1:], finders)
    return [hits[each.entries.name, each.key] for each in page]


def _hit(row: Sequence[Any], finders: Sequence[Finder]) -> SearchHitDict:
    seq, created_at, said_at, session_id, title, role, tool_name, *said = row
    if role is not None:
        text = full_text.message_text(*said)
    else:
        server_name, *exchanged = said
        text = " ".join([tool_name, server_name or "", full_text.tool_text(*exchanged)])
    return {
        "session_id": session_id,
        "session_title": title,
        "seq": seq,
        "entry_type": "tool_usage" if role is None else "message",
        "role": role,
        "tool_name": tool_name,
        "created_at": created_at,
        "said_at": said_at,
        "snippet": excerpt(finders, text),
    }
