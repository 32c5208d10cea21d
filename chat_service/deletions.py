"""Deletions: invisible at once, removed in steps, and finished later where a process ended in between.

What is deleted belongs to nobody from the first, small transaction on: a session is moved to a user whom no id and no
name leads to, and a deleted user becomes such a one. So every query that asks whose a session is, as all do, hides it,
and its names and keys are free again. `finish_some` then removes what is nobody's, a bounded step at a time; any
process may call it at any moment, as each step finds for itself what is to be done next. A small deletion is finished
in the transaction that began it.

A fork of what is deleted gets its own copy of what it has read there, or goes with it when asked.

Each deletion has a receipt in the audit log, and stands in `erasures` until every byte of it is overwritten: when no
row is left, the database is swept (`models.remnants`), and `complete` says in the log that it is done.
"""

from typing import Any

from sqlalchemy import Connection, Table, bindparam, delete, func, insert, select, tuple_, update

from chat_service import audit, blobs, tombstones
from chat_service.events import Event
from chat_service.forks import Inherited, give_own_copy
from chat_service.sessions import OWNED, check_ids, get_timeline
from chat_service.steps import BATCH, Step, size_of
from chat_service.users import USER_KEY, get, get_user_key
from chat_service.work import Work
from models import index_words
from models.ids import SessionId, UserId, new_id
from models.index_words import Place, replace_some
from models.shapes import DeletedDict
from models.tables import (
    audit_log,
    chat_sessions,
    erasures,
    messages,
    source_records,
    tool_call_references,
    tool_usages,
    users,
)

_forks = chat_sessions.alias("forks")
_INHERITED = (chat_sessions.c.key, chat_sessions.c.forked_from_key, func.coalesce(chat_sessions.c.forked_from_seq, 0))


def _with_forks() -> Any:
    tree = select(chat_sessions.c.key).where(OWNED).cte("tree", recursive=True)
    return tree.union_all(select(_forks.c.key).join(tree, _forks.c.forked_from_key == tree.c.key))


def _take_away(which: Any) -> Any:
    # Of all forks only what is the user's still: others are being deleted already.
    return (
        update(chat_sessions)
        .where(which, chat_sessions.c.user_key == USER_KEY)
        # Its entries are in the index under the user whom it had: they are found there, to be taken out, by that.
        .values(user_key=bindparam("nobody"), indexed_for=chat_sessions.c.user_key)
        .returning(
            chat_sessions.c.key, chat_sessions.c.id, chat_sessions.c.message_count, chat_sessions.c.tool_usage_count
        )
    )


_TAKE_AWAY = _take_away(OWNED)
_TAKE_AWAY_WITH_FORKS = _take_away(chat_sessions.c.key.in_(select(_with_forks().c.key)))
_TOTALS = select(
    func.count(),
    func.coalesce(func.sum(chat_sessions.c.message_count), 0),
    func.coalesce(func.sum(chat_sessions.c.tool_usage_count), 0),
).where(chat_sessions.c.user_key == USER_KEY)
_SESSIONS_OF = select(chat_sessions.c.id).where(chat_sessions.c.user_key == USER_KEY).order_by(chat_sessions.c.key)
_MAKE_NOBODY = insert(users).returning(users.c.key)
_BECOME_NOBODY = update(users).where(users.c.id == bindparam("user_id"))
_NOBODY = select(users.c.key).where(users.c.deleted_at.is_not(None)).limit(1)
# A fork's key is larger than its parent's, so that forks come first.
_LAST_SESSION = (
    select(*_INHERITED)
    .where(chat_sessions.c.user_key == bindparam("nobody"))
    .order_by(chat_sessions.c.key.desc())
    .limit(1)
)
_FORK = (
    select(*_INHERITED)
    .join(users, users.c.key == chat_sessions.c.user_key)
    .where(chat_sessions.c.forked_from_key == bindparam("session_key"))
    .order_by(chat_sessions.c.key)
    .limit(1)
)
_DELETED_FORK = _FORK.where(users.c.deleted_at.is_not(None))
_ENTRIES = {
    entries: (
        select(entries.c.key, size).where(entries.c.session_key == bindparam("session_key")).limit(BATCH),
        delete(entries).where(entries.c.key.in_(bindparam("keys", expanding=True))),
    )
    for entries, size in (
        (messages, size_of(messages)),
        (tool_usages, size_of(tool_usages)),
        (source_records, func.length(source_records.c.data)),
    )
}
_reference = tuple_(*tool_call_references.primary_key.columns)
_DELETE_REFERENCES = delete(tool_call_references).where(
    _reference.in_(
        select(*tool_call_references.primary_key.columns)
        .where(tool_call_references.c.session_key == bindparam("of_session"))
        .limit(bindparam("limit"))
    )
)
_DELETE_SESSION = delete(chat_sessions).where(chat_sessions.c.key == bindparam("session_key"))
_DELETE_NOBODY = delete(users).where(users.c.key == bindparam("nobody"))
_NAME_ERASURE = update(users).where(users.c.key == bindparam("nobody")).values(erasure=bindparam("receipt"))
_COUNT = (
    update(erasures)
    .where(
        erasures.c.receipt
        == select(users.c.erasure)
        .join(chat_sessions, chat_sessions.c.user_key == users.c.key)
        .where(chat_sessions.c.key == bindparam("session_key"))
        .scalar_subquery()
    )
    .values(
        blobs=erasures.c.blobs + bindparam("more_blobs"),
        source_records=erasures.c.source_records + bindparam("more_source_records"),
    )
)
_ERASURES = select(erasures.c.receipt).order_by(erasures.c.receipt)
_TO_COMPLETE = (
    select(erasures.c.receipt, erasures.c.blobs, erasures.c.source_records, users.c.id.label("user_id"))
    .join(audit_log, audit_log.c.key == erasures.c.receipt)
    .outerjoin(users, users.c.key == audit_log.c.user_key)
    .where(erasures.c.receipt.in_(bindparam("receipts", expanding=True)))
    .order_by(erasures.c.receipt)
)
_DELETE_ERASURES = delete(erasures).where(erasures.c.receipt.in_(bindparam("receipts", expanding=True)))


def delete_session(work: Work, user_id: UserId, session_id: SessionId, *, with_forks: bool = False) -> DeletedDict:
    """Delete the session with all its entries, and with all its forks where asked, and return the receipt.

    Raises NotFound.
    """
    get_timeline(work.connection, user_id, session_id)
    nobody = _nobody(work) | {"created_at": work.now, "last_seen_at": work.now}
    parameters: dict[str, Any] = check_ids(user_id, session_id)
    parameters["nobody"] = work.connection.execute(_MAKE_NOBODY, nobody).scalar_one()
    taken = work.connection.execute(_TAKE_AWAY_WITH_FORKS if with_forks else _TAKE_AWAY, parameters).all()
    for session in sorted(taken):
        work.tell(Event(user_id, SessionId(session.id), "deleted"))
    counts = _counts(
        len(taken),
        sum(session.message_count for session in taken),
        sum(session.tool_usage_count for session in taken),
    )
    receipt = audit.add(work, "session_deleted", counts, user_id)
    _expect(work, receipt, user_id)
    work.connection.execute(_NAME_ERASURE, {"nobody": parameters["nobody"], "receipt": receipt})
    finish_some(work)
    return _told(session_id, counts, receipt)


def delete_user(work: Work, user_id: UserId) -> DeletedDict:
    """Delete the user and everything of theirs, and return the receipt; raises NotFound."""
    get(work.connection, user_id)
    sessions, said, done = work.connection.execute(_TOTALS, {"user_id": user_id}).one()
    counts = _counts(sessions, said, done)
    for session_id in work.connection.execute(_SESSIONS_OF, {"user_id": user_id}).scalars():
        work.tell(Event(user_id, SessionId(session_id), "deleted"))
    audit.erase_of_user(work, get_user_key(work.connection, user_id))
    receipt = audit.add(work, "user_deleted", counts, None)
    _expect(work, receipt, user_id)
    nothing = {"issuer": None, "subject": None, "email": None, "display_name": None, "erasure": receipt}
    work.connection.execute(_BECOME_NOBODY.values(_nobody(work) | nothing), {"user_id": user_id})
    finish_some(work)
    return _told(user_id, counts, receipt)


def is_anything_left(connection: Connection) -> bool:
    """Tell whether something that was deleted is still to be removed."""
    return connection.execute(_NOBODY).first() is not None


def to_overwrite(connection: Connection) -> list[int] | None:
    """Return the receipts of deletions whose bytes are still to be overwritten; None while rows of any are left."""
    return None if is_anything_left(connection) else list(connection.execute(_ERASURES).scalars())


def merge_index(work: Work, *, is_first: bool) -> bool:
    """Take words of what was deleted out of an index that keeps them, for one step; tells whether there is more."""
    is_left = index_words.merge_some(work.connection, is_first=is_first)
    if not is_left:
        index_words.finish(work.connection)
    return is_left


def replace_words(work: Work, after: Place) -> Place | None:
    """Take words of what was deleted out of the table beside an index, for one step; returns how far this went."""
    return replace_some(work.connection, after)


def complete(work: Work, receipts: list[int]) -> None:
    """Say in the audit log that every byte of these deletions is overwritten; another may have said so already."""
    given = {"receipts": receipts}
    for row in work.connection.execute(_TO_COMPLETE, given).all():
        detail = {"receipt": row.receipt, "blobs": row.blobs, "source_records": row.source_records}
        audit.add(work, "erased", detail, None if row.user_id is None else UserId(row.user_id))
    work.connection.execute(_DELETE_ERASURES, given)


def finish_some(work: Work) -> bool:
    """Do one bounded step of what deletions have left to do, and tell whether something is left after it."""
    step = Step()
    while not step.is_over:
        nobody: int | None = work.connection.execute(_NOBODY).scalar()
        if nobody is None:
            return False
        session = _next_session(work.connection, nobody)
        if session is None:
            work.connection.execute(_DELETE_NOBODY, {"nobody": nobody})
            step.spend(rows=1)
        else:
            _remove(work, session, step)
    return is_anything_left(work.connection)


def _counts(sessions: int, messages: int, tool_usages: int) -> dict[str, int]:
    return {"sessions": sessions, "messages": messages, "tool_usages": tool_usages}


def _told(deleted: str, counts: dict[str, int], receipt: int) -> DeletedDict:
    return {
        "deleted": deleted,
        "sessions": counts["sessions"],
        "messages": counts["messages"],
        "tool_usages": counts["tool_usages"],
        "receipt": receipt,
    }


def _expect(work: Work, receipt: int, user_id: UserId) -> None:
    scope = tombstones.scope_of(work, user_id)
    work.connection.execute(insert(erasures), {"receipt": receipt, "scope": scope})


def _nobody(work: Work) -> dict[str, Any]:
    # Nobody is told the id, and nobody can guess the name.
    return {"id": new_id(), "username": f"deleted {new_id()}", "deleted_at": work.now}


def _next_session(connection: Connection, nobody: int) -> Inherited | None:
    row = connection.execute(_LAST_SESSION, {"nobody": nobody}).one_or_none()
    found = None
    while row is not None:
        # A fork that was deleted as well goes first, whenever that was.
        found = Inherited(*row)
        row = connection.execute(_DELETED_FORK, {"session_key": found.key}).one_or_none()
    return found


def _remove(work: Work, session: Inherited, step: Step) -> None:
    connection, place = work.connection, {"session_key": session.key}
    fork = connection.execute(_FORK, place).one_or_none()
    if fork is not None:
        give_own_copy(work, session, Inherited(*fork), step)
        return
    for entries in _ENTRIES:
        while removed := _remove_entries(connection, entries, session.key, step):
            if entries is source_records:
                _count(connection, session.key, source_records=removed)
            if step.is_over:
                return
    while (blob := blobs.remove_one_of(connection, session.key)) is not None:
        _count(connection, session.key, blobs=blob.is_removed)
        step.spend(rows=1, characters=blob.size)
        if step.is_over:
            return
    while (removed := _remove_references(connection, session.key)) > 0:
        step.spend(removed)
        if step.is_over:
            return
    tombstones.bury(work, session.key)
    connection.execute(_DELETE_SESSION, place)
    step.spend(rows=1)


def _count(connection: Connection, session_key: int, *, blobs: int = 0, source_records: int = 0) -> None:
    more = {"session_key": session_key, "more_blobs": blobs, "more_source_records": source_records}
    connection.execute(_COUNT, more)


def _remove_entries(connection: Connection, entries: Table, session_key: int, step: Step) -> int:
    """Remove some rows of a session, and return how many; triggers take their words out of the index of full text."""
    select_some, delete_these = _ENTRIES[entries]
    keys: list[int] = []
    for key, size in connection.execute(select_some, {"session_key": session_key}):
        keys.append(key)
        step.spend(rows=1, characters=size)
        if entries is not source_records:
            step.spend_indexed(size)
        if step.is_over:
            break
    if keys:
        connection.execute(delete_these, {"keys": keys})
    return len(keys)


def _remove_references(connection: Connection, session_key: int) -> int:
    return connection.execute(_DELETE_REFERENCES, {"of_session": session_key, "limit": BATCH}).rowcount
