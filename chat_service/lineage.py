"""Lineage: a session's timeline through the sessions that it was forked from.

A fork stores nothing of what it inherits. Its entries up to the fork point are read from its parent, and from the
parent's parent where the parent inherits them itself. `LINEAGE` is the one place where that is worked out: a recursive
query whose rows are segments, each a session and the range of seq that it contributes to the window that is read. It
goes no further back than the window does, so that reading the end of a fork costs what reading any session costs, and
what is not inherited is read by the plain statement, beside which each statement through the lineage stands.

An inherited entry is the parent's: its `session_id` and `id` are those of the session that has it, its seq is the same
in all. A session that is being deleted is not named any more; what a fork still reads through it, it shows as its own.
"""

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Select,
    and_,
    bindparam,
    case,
    func,
    literal,
    select,
)

from chat_service.paging import END
from chat_service.sessions import Timeline
from models.ids import SessionId, UserId, entry_id
from models.prepared import Prepared
from models.rows import PAGE_SIZE, all_rows
from models.tables import chat_sessions

Shape = TypeVar("Shape")

LOW = bindparam("low", type_=BigInteger)
HIGH = bindparam("high", type_=BigInteger)
SESSION_KEY = bindparam("session_key", type_=BigInteger)
GIVEN = ("id", "session_id", "user_id")
"""What is not read of a session's own entries: the same in all, or made of the rest (`naming`, `name_entries`)."""
GIVEN_TO_INHERITED = ("id", "user_id")
"""The same of what a fork inherits: each entry says which session has it."""


def _lesser(one: Any, other: Any) -> ColumnElement[int]:
    return case((one < other, one), else_=other)


def _greater(one: Any, other: Any) -> ColumnElement[int]:
    return case((one > other, one), else_=other)


def _in_segment(entries: FromClause, seq: str) -> ColumnElement[bool]:
    return and_(
        entries.c.session_key == LINEAGE.c.session_key,
        entries.c[seq] > LINEAGE.c.low,
        entries.c[seq] <= LINEAGE.c.high,
    )


def _lineage() -> Any:
    parents = chat_sessions.alias("parents")
    start = func.coalesce(chat_sessions.c.forked_from_seq, 0)
    own = (
        select(
            chat_sessions.c.key.label("session_key"),
            chat_sessions.c.id.label("session_id"),
            chat_sessions.c.user_key,
            chat_sessions.c.forked_from_key.label("parent_key"),
            start.label("start"),
            _greater(start, LOW).label("low"),
            HIGH.label("high"),
            literal(END, BigInteger).label("reach"),
        )
        .where(chat_sessions.c.key == SESSION_KEY)
        .cte("lineage", recursive=True)
    )
    start = func.coalesce(parents.c.forked_from_seq, 0)
    return own.union_all(
        select(
            parents.c.key,
            case((parents.c.user_key == own.c.user_key, parents.c.id), else_=own.c.session_id),
            own.c.user_key,
            parents.c.forked_from_key,
            start,
            _greater(start, LOW),
            _lesser(own.c.high, own.c.start),
            _lesser(own.c.reach, own.c.start),
        )
        .join(own, parents.c.key == own.c.parent_key)
        .where(own.c.start > LOW)
    )


LINEAGE: Any = _lineage()
"""The segments of a window of a timeline, the newest first; parameters session_key, low (excluded), high (included).

Each has session_key, low and high; the public session_id; and `reach`, the last seq that the reading session inherits.
"""


class Statements:
    """A read of entries: of what a session has itself, and of what it has through its lineage; the same parameters."""

    def __init__(self, own: Select[Any], through: Select[Any]) -> None:
        self.own = Prepared(own)
        self.through = Prepared(through)


def within(entries: FromClause, seq: str = "seq") -> ColumnElement[bool]:
    """Return the condition that entries are of the session and in the window."""
    return and_(entries.c.session_key == SESSION_KEY, entries.c[seq] > LOW, entries.c[seq] <= HIGH)


def inherited(entries: FromClause, seq: str = "seq") -> FromClause:
    """Return entries joined to `LINEAGE`: those of the window."""
    return entries.join(LINEAGE, _in_segment(entries, seq))


def window_of(entries: FromClause, own: Sequence[Any], through: Sequence[Any]) -> Statements:
    """Return the read of a window, in order: columns of what a session has itself, and those through its lineage."""
    return Statements(
        select(*own).where(within(entries)).order_by(entries.c.seq),
        select(*through).select_from(inherited(entries)).order_by(entries.c.seq),
    )


def last_inherited(
    entries: FromClause, *, forward: bool = False, kept: Callable[[Any], list[ColumnElement[bool]]] | None = None
) -> FromClause:
    """Return entries joined to `LINEAGE`: of each segment the last ones, `PAGE_SIZE` at most, or the first ones.

    So a page costs the same whatever the length of the session. `kept` makes the conditions that entries must meet.
    """
    each = entries.alias("each")
    conditions = kept(each) if kept else []
    keys = (
        select(each.c.key)
        .where(_in_segment(each, "seq"), *conditions)
        .order_by(each.c.seq if forward else each.c.seq.desc())
        .limit(PAGE_SIZE)
        .correlate(LINEAGE)
    )
    return entries.join(LINEAGE, entries.c.key.in_(keys))


def known_here(seq: Any) -> ColumnElement[int | None]:
    """Return the seq that an inherited entry names, or NULL where it is past the fork point."""
    return case((seq <= LINEAGE.c.reach, seq))


def read_entries(
    connection: Connection, shape: type[Shape], statements: Statements, timeline: Timeline, parameters: dict[str, Any]
) -> list[Shape]:
    """Run the statement that the window of these parameters needs, and return its rows as dicts."""
    window = parameters | {"session_key": timeline.session_key}
    is_own = parameters["low"] >= timeline.inherited
    statement = statements.own if is_own else statements.through
    if "id" not in shape.__annotations__:
        return all_rows(connection, shape, statement, window)
    given = naming(parameters["user_id"], parameters["session_id"] if is_own else None)
    entries = all_rows(connection, shape, statement, window, given)
    name_entries(entries)
    return entries


def is_whole(entries: Sequence[Any], low: int, high: int) -> bool:
    """Tell whether entries of one kind are all that there is in a window: seq leaves no number out."""
    return len(entries) == high - low


def in_order(said: Iterable[Any], done: Iterable[Any]) -> list[Any]:
    """Return messages and tool usage of a window, oldest first."""
    return sorted([*said, *done], key=itemgetter("seq"))


def naming(user_id: UserId, session_id: SessionId | None = None) -> dict[str, str]:
    """Return what entries get beside their columns: the user, the session if it is not read, and room for the id."""
    same = {"id": "", "user_id": user_id}
    return same if session_id is None else {**same, "session_id": session_id}


def name_entries(entries: Iterable[Any]) -> None:
    """Set the id of entries, which is made of session and seq."""
    for entry in entries:
        entry["id"] = entry_id(entry["session_id"], entry["seq"])
