"""Merges: the entries of one session moved to the end of another in one transaction, and a mark left behind."""

from typing import Any

from sqlalchemy import Connection, Table, bindparam, func, select, union_all, update

from chat_service.events import Event
from chat_service.sessions import check_ids, find_session, get_session, refuse_merged
from chat_service.work import Work
from models.errors import Conflict
from models.ids import SessionId, UserId
from models.shapes import SessionDict
from models.tables import blob_references, chat_sessions, messages, tool_call_references, tool_usages, users

_SOURCE: Any = bindparam("source_key")
_TARGET: Any = bindparam("target_key")
_OFFSET: Any = bindparam("offset")
_FORK_OF_EITHER = (
    select(chat_sessions.c.key)
    .join(users, users.c.key == chat_sessions.c.user_key)
    .where(
        # What reads through one of them; a fork that is being deleted reads nothing any more.
        (chat_sessions.c.forked_from_key.in_([_SOURCE, _TARGET]) & users.c.deleted_at.is_(None))
        | (chat_sessions.c.key.in_([_SOURCE, _TARGET]) & chat_sessions.c.forked_from_key.is_not(None))
    )
    .limit(1)
)
_KEYS_OF_TARGET = union_all(
    *(
        select(entries.c.idempotency_key).where(
            entries.c.session_key == _TARGET, entries.c.idempotency_key.is_not(None)
        )
        for entries in (messages, tool_usages)
    )
)


def _release(entries: Table) -> Any:
    known = entries.c.idempotency_key.in_(_KEYS_OF_TARGET)
    return update(entries).where(entries.c.session_key == _SOURCE, known).values(idempotency_key=None, digest=None)


def _move(entries: Table, *seqs: str) -> Any:
    moved = {name: entries.c[name] + _OFFSET for name in seqs}
    if "indexed_in" in entries.c:
        # Under the same mark, so that the index of full text stays as it is (docs/decisions/deletion.md).
        moved["indexed_in"] = func.coalesce(entries.c.indexed_in, entries.c.session_key)
    return update(entries).where(entries.c.session_key == _SOURCE).values(session_key=_TARGET, **moved)


_MOVE = (
    _release(messages),
    _release(tool_usages),
    _move(messages, "seq", "replaces_seq"),
    _move(tool_usages, "seq", "message_seq"),
    _move(tool_call_references, "message_seq"),
    _move(blob_references, "message_seq"),
)
_EXTEND = (
    update(chat_sessions)
    .where(chat_sessions.c.key == _TARGET)
    .values(
        last_seq=chat_sessions.c.last_seq + bindparam("more"),
        message_count=chat_sessions.c.message_count + bindparam("more_messages"),
        tool_usage_count=chat_sessions.c.tool_usage_count + bindparam("more_tool_usages"),
        last_append_at=bindparam("now"),
    )
)
_EMPTY = (
    update(chat_sessions)
    .where(chat_sessions.c.key == _SOURCE)
    .values(status="archived", last_seq=0, message_count=0, tool_usage_count=0, merged_into=bindparam("target_id"))
)


def merge_sessions(work: Work, user_id: UserId, source_id: SessionId, target_id: SessionId) -> SessionDict:
    """Move all entries of the source to the end of the target, in order, and return the target.

    What they refer to (message_seq, replaces_seq, tool calls) moves with them. An idempotency key goes along, unless
    the target has used it: then it means the target's entry from now on. The source stays as an empty, archived session
    that says in `merged_into` where its entries are. Raises NotFound, and Conflict where both are the same, one is
    archived or was merged itself, or one is a fork or has one.
    """
    for name, session_id in (("source_id", source_id), ("target_id", target_id)):
        check_ids(user_id, session_id, name)
    source, (source_key, _) = find_session(work.connection, user_id, source_id, "source_id or target_id")
    target, (target_key, _) = find_session(work.connection, user_id, target_id, "source_id or target_id")
    _check(work.connection, source, target, {"source_key": source_key, "target_key": target_key})
    place = {"source_key": source_key, "target_key": target_key, "offset": target["last_seq"]}
    for statement in _MOVE:
        work.connection.execute(statement, place)
    more = {"more": source["last_seq"], "more_messages": source["message_count"]}
    more |= {"more_tool_usages": source["tool_usage_count"]}
    work.connection.execute(_EXTEND, place | more | {"now": work.now})
    work.connection.execute(_EMPTY, place | {"target_id": target_id})
    work.tell(Event(user_id, target_id, "appended", target["last_seq"] + source["last_seq"]))
    work.tell(Event(user_id, source_id, "updated"))
    return get_session(work.connection, user_id, target_id)


def _check(connection: Connection, source: SessionDict, target: SessionDict, keys: dict[str, int]) -> None:
    if source["id"] == target["id"]:
        raise Conflict("source_id and target_id are the same session: name two.")
    for name, session in (("source_id", source), ("target_id", target)):
        refuse_merged(session)
        if session["status"] != "active":
            raise Conflict(f"{name} is archived: set its status to active with update_session, then merge.")
    if connection.execute(_FORK_OF_EITHER, keys).first() is not None:
        raise Conflict("One of the two is a fork or has one, so that its entries stay where they are: choose others.")
