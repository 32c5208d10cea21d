"""Forks: a session that goes on from a point of another one, made in one row whatever the length of what it inherits.

How its history is read is in `chat_service.lineage`. Before a session is removed, each of its forks is given the
entries that it has read there until then (`give_own_copy`), so that it reads the same afterwards.
"""

from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Table, and_, bindparam, case, func, insert, null, select, update

from chat_service.events import Event
from chat_service.paging import check_filters, check_seq
from chat_service.sessions import find_session, get_session, refuse_merged
from chat_service.steps import BATCH, Step, size_of
from chat_service.users import get_user_key
from chat_service.work import Work
from models.errors import Invalid
from models.ids import SessionId, UserId, new_id
from models.inputs import MAX_LINE
from models.prepared import PreparedInsert
from models.shapes import SessionDict
from models.tables import blob_references, chat_sessions, messages, tool_call_references, tool_usages, users

_INSERT = PreparedInsert(chat_sessions)
_INSERT_REFERENCE = insert(tool_call_references)
_PARENT: Any = bindparam("parent_key")
_FORK: Any = bindparam("fork_key")
_LOW: Any = bindparam("low")
_HIGH: Any = bindparam("high")
_NOT_COPIED = ("key", "session_key", "idempotency_key", "digest", "indexed_in")


def _within(entries: Table, session_key: Any) -> ColumnElement[bool]:
    return and_(entries.c.session_key == session_key, entries.c.seq > _LOW, entries.c.seq <= _HIGH)


def _copy(entries: Table, **changed: Any) -> Any:
    # A key belongs to the session to which it was given: the fork may use it for something else.
    names = [column.name for column in entries.c if column.name not in _NOT_COPIED]
    values = [changed[name] if name in changed else entries.c[name] for name in names]
    copied = select(_FORK, *values).where(_within(entries, _PARENT)).order_by(entries.c.seq)
    return insert(entries).from_select(["session_key", *names], copied)


_COPY_MESSAGES = _copy(messages)
_COPY_TOOL_USAGES = _copy(
    tool_usages,
    message_seq=case((tool_usages.c.message_seq <= bindparam("fork_seq"), tool_usages.c.message_seq), else_=null()),
)
_COPY_BLOB_REFERENCES = insert(blob_references).from_select(
    ["session_key", "message_seq", "blob_key"],
    select(_FORK, blob_references.c.message_seq, blob_references.c.blob_key).where(
        blob_references.c.session_key == _PARENT,
        blob_references.c.message_seq > _LOW,
        blob_references.c.message_seq <= _HIGH,
    ),
)
_PARTS = select(messages.c.seq, messages.c.parts).where(_within(messages, _PARENT), messages.c.parts.is_not(None))


def _own_up_to(entries: Table, value: Any) -> Any:
    return select(value).where(_within(entries, _FORK))


_LAST_COPIED = select(
    *(
        func.coalesce(_own_up_to(entries, func.max(entries.c.seq)).scalar_subquery(), 0)
        for entries in (messages, tool_usages)
    )
)
_HAND_OVER = (
    update(chat_sessions)
    .where(chat_sessions.c.key == _FORK)
    .values(
        forked_from_key=bindparam("grandparent_key"),
        forked_from_seq=bindparam("grandparent_seq"),
        message_count=chat_sessions.c.message_count + _own_up_to(messages, func.count()).scalar_subquery(),
        tool_usage_count=chat_sessions.c.tool_usage_count + _own_up_to(tool_usages, func.count()).scalar_subquery(),
    )
)
_WHOSE = (
    select(users.c.id, chat_sessions.c.id)
    .join(users, users.c.key == chat_sessions.c.user_key)
    .where(chat_sessions.c.key == _FORK)
)


_SIZES = tuple(
    select(func.coalesce(func.sum(size_of(entries)), 0)).where(_within(entries, _PARENT))
    for entries in (messages, tool_usages)
)


class Inherited(NamedTuple):
    """A session as those who care for its forks see it: `start` is the last seq that it has from its parent."""

    key: int
    parent_key: int | None
    start: int


def fork_session(
    work: Work, user_id: UserId, session_id: SessionId, at_seq: int | None = None, title: str | None = None
) -> SessionDict:
    """Create a session whose timeline goes on after `at_seq` of this one, by default its end, and return it.

    It has the parent's title unless another is given, its client and its session_data, and is active. Raises NotFound,
    Invalid where the parent has no such entry, and Conflict where its entries have gone to another session.
    """
    check_seq("at_seq", at_seq)
    _check_title(title)
    parent, timeline = find_session(work.connection, user_id, session_id)
    refuse_merged(parent)
    last_seq = parent["last_seq"] if at_seq is None else at_seq
    if last_seq > parent["last_seq"]:
        raise Invalid(f"at_seq is past the session's last entry, which is {parent['last_seq']}.")
    fork_id = SessionId(new_id())
    fork = {
        "id": fork_id,
        "user_key": get_user_key(work.connection, user_id),
        "title": parent["title"] if title is None else title,
        "status": "active",
        "client": parent["client"],
        "session_data": parent["session_data"],
        "last_seq": last_seq,
        "created_at": work.now,
        "forked_from_key": timeline.session_key,
        "forked_from_seq": last_seq,
    }
    _INSERT.run(work.connection, fork)
    work.tell(Event(user_id, fork_id, "created", last_seq))
    return get_session(work.connection, user_id, fork_id)


def give_own_copy(work: Work, parent: Inherited, fork: Inherited, step: Step) -> None:
    """Copy what a fork reads of its parent's own entries, as far as the step goes; at the end it inherits from nobody.

    Where the parent is a fork itself, the fork inherits from its parent's parent then. Until then it reads what it has
    read, and what was copied already is not looked at.
    """
    low, high = parent.start, max(parent.start, fork.start)
    place = {"parent_key": parent.key, "fork_key": fork.key, "fork_seq": fork.start}
    copied = max(low, *work.connection.execute(_LAST_COPIED, place | {"low": low, "high": high}).one())
    while copied < high:
        if step.is_over:
            return
        last = min(copied + BATCH, high)
        _copy_entries(work.connection, place | {"low": copied, "high": last}, step)
        copied = last
    is_fork = parent.parent_key is not None
    ancestor = {"grandparent_key": parent.parent_key, "grandparent_seq": min(low, fork.start) if is_fork else None}
    work.connection.execute(_HAND_OVER, place | ancestor | {"low": low, "high": high})
    step.spend(rows=1)
    user_id, fork_id = work.connection.execute(_WHOSE, place).one()
    work.tell(Event(UserId(user_id), SessionId(fork_id), "updated"))


def _copy_entries(connection: Connection, place: dict[str, Any], step: Step) -> None:
    """Copy the entries of a range of seq, with all that is kept beside them; the index of their words comes later."""
    for size in _SIZES:
        step.spend(rows=0, characters=connection.execute(size, place).scalar_one())
    connection.execute(_COPY_MESSAGES, place)
    connection.execute(_COPY_TOOL_USAGES, place)
    references = {
        (part["id"], seq): {"session_key": place["fork_key"], "tool_call_id": part["id"], "message_seq": seq}
        for seq, parts in connection.execute(_PARTS, place)
        for part in parts
        if part["type"] == "tool_call"
    }
    if references:
        connection.execute(_INSERT_REFERENCE, list(references.values()))
    connection.execute(_COPY_BLOB_REFERENCES, place)
    step.spend(rows=place["high"] - place["low"])


def _check_title(title: str | None) -> None:
    if title is not None and not 1 <= len(title) <= MAX_LINE:
        raise Invalid(f"title must have 1 to {MAX_LINE} characters.")
    check_filters(title=title)
