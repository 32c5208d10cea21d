"""Tool usage: the only store of tool calls and their results, in the same timeline as the messages."""

from typing import Any

from sqlalchemy import Connection, bindparam, func, or_, select, update
from typing_extensions import TypedDict

from chat_service import blobs, tool_payloads
from chat_service.events import Event
from chat_service.lineage import (
    GIVEN,
    GIVEN_TO_INHERITED,
    LINEAGE,
    Statements,
    inherited,
    known_here,
    name_entries,
    naming,
    read_entries,
    within,
)
from chat_service.messages import is_message
from chat_service.paging import END
from chat_service.sessions import OWNED, Timeline, check_ids, digest_of, get_timeline
from chat_service.timeline import Keyed, claim, find_replay
from chat_service.tokens import count_tool_usage
from chat_service.tool_usage_twins import join_imported
from chat_service.work import Work
from models.errors import Invalid
from models.ids import SessionId, UserId, entry_id, to_timestamp
from models.inputs import NewToolUsage
from models.prepared import PreparedInsert
from models.rows import all_rows, columns
from models.shapes import ToolUsageDict
from models.tables import chat_sessions, tool_call_references, tool_usages

TOOL_USAGE_COLUMNS = columns(ToolUsageDict, tool_usages, GIVEN)
INHERITED_TOOL_USAGE_COLUMNS = columns(
    ToolUsageDict,
    tool_usages,
    GIVEN_TO_INHERITED,
    session_id=LINEAGE.c.session_id,
    message_seq=known_here(tool_usages.c.message_seq),
)
_BY_SEQ = (
    select(*TOOL_USAGE_COLUMNS)
    .join(chat_sessions, chat_sessions.c.key == tool_usages.c.session_key)
    .where(OWNED, tool_usages.c.seq == bindparam("seq"))
)


class _AskedBy(TypedDict):
    message_seq: int | None


_asking = select(func.max(tool_call_references.c.message_seq).label("message_seq")).where(
    tool_call_references.c.tool_call_id == bindparam("tool_call_id")
)
_ASKED_BY = Statements(
    _asking.where(within(tool_call_references, "message_seq")),
    _asking.select_from(inherited(tool_call_references, "message_seq")),
)
_INSERT = PreparedInsert(tool_usages)
_OF_SEQ = update(tool_usages).where(
    tool_usages.c.session_key == bindparam("of_session"), tool_usages.c.seq == bindparam("of_seq")
)
_ORIGIN_OF_OPEN = select(tool_usages.c.origin).where(
    tool_usages.c.session_key == bindparam("of_session"),
    tool_usages.c.seq == bindparam("of_seq"),
    tool_usages.c.status == "unknown",
)


def add(
    work: Work,
    user_id: UserId,
    session_id: SessionId,
    usage: NewToolUsage,
    expected_seq: int | None = None,
) -> ToolUsageDict:
    """Append a tool call that has ended and return its record; a replay returns the first one.

    Without `message_seq` the record joins the last message that refers to its tool_call_id, if there is one; if that
    message comes later, it joins the record. A proxy's record of a call that was imported becomes one with that. Raises
    what appending messages does.
    """
    work.limits.check_tool_usage(usage)
    keyed = Keyed(usage.idempotency_key, None if usage.idempotency_key is None else digest_of(usage))
    seqs = find_replay(work.connection, user_id, session_id, "tool_usage", [keyed])
    if seqs is not None:
        return _stored(work.connection, user_id, session_id, seqs[0])
    message_seq = usage.message_seq
    if message_seq is not None and not is_message(work.connection, user_id, session_id, message_seq):
        raise Invalid("message_seq is not the seq of an earlier message of this session.")
    if usage.origin == "proxy" and expected_seq is None:
        joined = join_imported(work, user_id, session_id, usage)
        if joined is not None:
            work.tell(Event(user_id, session_id, "updated"))
            return _stored(work.connection, user_id, session_id, joined)
    timeline, seq = claim(work, user_id, session_id, new_tool_usages=1, expected_seq=expected_seq)
    kept, digests = tool_payloads.keep(work.connection, usage)
    if message_seq is None and usage.tool_call_id is not None:
        message_seq = _asked_by(work.connection, timeline, usage.tool_call_id, seq)
    record: ToolUsageDict = {
        "id": entry_id(session_id, seq),
        "session_id": session_id,
        "user_id": user_id,
        "seq": seq,
        "message_seq": message_seq,
        "tool_call_id": usage.tool_call_id,
        "server_name": usage.server_name,
        "tool_name": usage.tool_name,
        "arguments": usage.arguments,
        "result": usage.result,
        "status": usage.outcome,
        "error": usage.error,
        "started_at": None if usage.started_at is None else to_timestamp(usage.started_at),
        "duration_ms": usage.duration_ms,
        "origin": usage.origin,
        "token_count": count_tool_usage(work.limits.count_tokens, kept),
        "call_metadata": usage.call_metadata,
        "created_at": work.now,
    }
    inside: dict[str, Any] = {"session_key": timeline.session_key, "idempotency_key": keyed.idempotency_key}
    row = {name: value for name, value in record.items() if name in tool_usages.c} | inside | {"digest": keyed.digest}
    _INSERT.run(work.connection, row | {"result": kept.result})
    blobs.refer_to(work.connection, timeline.session_key, seq, digests)
    return record


def complete(work: Work, user_id: UserId, session_id: SessionId, seq: int, usage: NewToolUsage) -> bool:
    """Write how a call ended into its record, where that was imported, or a proxy's, without it; tells whether it was.

    A call that was closed as `unknown` is one whose end we did not see: what came of it belongs into the same record.
    """
    work.limits.check_tool_usage(usage)
    where = {"of_session": get_timeline(work.connection, user_id, session_id).session_key, "of_seq": seq}
    origin = work.connection.execute(_ORIGIN_OF_OPEN, where).scalar_one_or_none()
    if origin not in ("import", "proxy"):
        return False
    # What a proxy has measured, and what its key means, stays.
    own = {"duration_ms": usage.duration_ms, "digest": digest_of(usage)} if origin == "import" else {}
    _end(work, where, usage, **own)
    work.tell(Event(user_id, session_id, "updated"))
    return True


def adopt(work: Work, user_id: UserId, session_id: SessionId, seq: int, usage: NewToolUsage) -> bool:
    """Let the record of a proxy be that of an imported call, and tell whether that changed anything.

    It gets the call's id, the message that asked for it, its key if it has none, and how it ended where the proxy did
    not see that.
    """
    timeline = get_timeline(work.connection, user_id, session_id)
    where = {"of_session": timeline.session_key, "of_seq": seq}
    asked_by = None
    if usage.tool_call_id is not None:
        asked_by = _asked_by(work.connection, timeline, usage.tool_call_id, END)
    message_seq = func.coalesce(tool_usages.c.message_seq, asked_by)
    is_new = or_(
        tool_usages.c.tool_call_id.is_distinct_from(usage.tool_call_id),
        tool_usages.c.message_seq.is_distinct_from(message_seq),
    )
    named = _OF_SEQ.where(is_new).values(tool_call_id=usage.tool_call_id, message_seq=message_seq)
    changed = work.connection.execute(named, where).rowcount
    if usage.outcome != "unknown" and work.connection.execute(_ORIGIN_OF_OPEN, where).first() is not None:
        _end(work, where, usage)
        changed += 1
    keyed = {"idempotency_key": usage.idempotency_key, "digest": digest_of(usage)}
    changed += work.connection.execute(
        _OF_SEQ.where(tool_usages.c.idempotency_key.is_(None)).values(keyed), where
    ).rowcount
    if changed:
        work.tell(Event(user_id, session_id, "updated"))
    return bool(changed)


def _end(work: Work, where: dict[str, int], usage: NewToolUsage, **more: Any) -> None:
    """Write how a call ended into the record that is there."""
    kept, digests = tool_payloads.keep(work.connection, usage)
    values = {
        "result": kept.result,
        "status": usage.outcome,
        "error": usage.error,
        "token_count": count_tool_usage(work.limits.count_tokens, kept),
    }
    work.connection.execute(_OF_SEQ.values(values | more), where)
    blobs.refer_to(work.connection, where["of_session"], where["of_seq"], digests)


def _stored(connection: Connection, user_id: UserId, session_id: SessionId, seq: int) -> ToolUsageDict:
    parameters = check_ids(user_id, session_id) | {"seq": seq}
    found = all_rows(connection, ToolUsageDict, _BY_SEQ, parameters, naming(user_id, session_id))
    name_entries(found)
    if tool_payloads.digests_of(found[0]["result"]):
        tool_payloads.put_back(connection, get_timeline(connection, user_id, session_id), found)
    return found[0]


def _asked_by(connection: Connection, timeline: Timeline, tool_call_id: str, up_to_seq: int) -> int | None:
    asked_by = {"tool_call_id": tool_call_id, "low": 0, "high": up_to_seq}
    return read_entries(connection, _AskedBy, _ASKED_BY, timeline, asked_by)[0]["message_seq"]
