"""Tool usage: the only store of tool calls and their results, in the same timeline as the messages."""

from typing import Any

from sqlalchemy import Connection, String, bindparam, case, cast, func, select, update

from chat_service.events import Event
from chat_service.messages import SESSION, entry_id, entry_parameters, is_message
from chat_service.paging import check_filters, check_limit, make_cursor, read_cursor
from chat_service.sessions import ACTING_USER, OWNED, digest_of, get_key
from chat_service.timeline import Keyed, claim, find_replay
from chat_service.users import USER_KEY, check_user_id
from chat_service.work import Work
from models.errors import Invalid
from models.ids import SessionId, UserId, to_timestamp
from models.inputs import NewToolUsage, ToolStatus
from models.prepared import Prepared, prepared_insert
from models.rows import all_rows, columns, page_rows
from models.shapes import ToolSummaryDict, ToolTotalDict, ToolUsageDict, ToolUsagePageDict
from models.tables import chat_sessions, tool_call_references, tool_usages

TOOL_USAGE_COLUMNS = columns(
    ToolUsageDict,
    tool_usages,
    id=bindparam("id_prefix", type_=String) + cast(tool_usages.c.seq, String),
    session_id=SESSION,
    user_id=ACTING_USER,
)
_BY_SEQ = (
    select(*TOOL_USAGE_COLUMNS)
    .join(chat_sessions, chat_sessions.c.key == tool_usages.c.session_key)
    .where(OWNED, tool_usages.c.seq == bindparam("seq"))
)
_ASKED_BY = Prepared(
    select(func.max(tool_call_references.c.message_seq)).where(
        tool_call_references.c.session_key == bindparam("session_key"),
        tool_call_references.c.tool_call_id == bindparam("tool_call_id"),
    )
)
_INSERT = prepared_insert(tool_usages, leaving_out="key")
_OF_SEQ = update(tool_usages).where(
    tool_usages.c.session_key == bindparam("of_session"), tool_usages.c.seq == bindparam("of_seq")
)
_COMPLETE = _OF_SEQ.where(tool_usages.c.status == "unknown", tool_usages.c.origin == "import")

MAX_TOTALS = 100
"""So many tools are summarized one by one; the rest are counted."""


def add(
    work: Work,
    user_id: UserId,
    session_id: SessionId,
    usage: NewToolUsage,
    expected_seq: int | None = None,
) -> ToolUsageDict:
    """Append a tool call that has ended and return its record; a replay returns the first one.

    Without `message_seq` the record joins the last message that refers to its tool_call_id, if there is one; if that
    message comes later, it joins the record. Raises what appending messages does.
    """
    work.limits.check_tool_usage(usage)
    keyed = Keyed(usage.idempotency_key, None if usage.idempotency_key is None else digest_of(usage))
    seqs = find_replay(work.connection, user_id, session_id, "tool_usage", [keyed])
    if seqs is not None:
        parameters = entry_parameters(user_id, session_id) | {"seq": seqs[0]}
        return all_rows(work.connection, ToolUsageDict, _BY_SEQ, parameters)[0]
    message_seq = usage.message_seq
    if message_seq is not None and not is_message(work.connection, user_id, session_id, message_seq):
        raise Invalid("message_seq is not the seq of an earlier message of this session.")
    session_key, seq = claim(work, user_id, session_id, new_tool_usages=1, expected_seq=expected_seq)
    if message_seq is None and usage.tool_call_id is not None:
        asked_by = {"session_key": session_key, "tool_call_id": usage.tool_call_id}
        ((message_seq,),) = _ASKED_BY.rows(work.connection, asked_by)
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
        "created_at": work.now,
    }
    inside: dict[str, Any] = {"session_key": session_key, "idempotency_key": keyed.idempotency_key}
    row = {name: value for name, value in record.items() if name in tool_usages.c} | inside | {"digest": keyed.digest}
    _INSERT.run(work.connection, row)
    return record


def complete(work: Work, user_id: UserId, session_id: SessionId, seq: int, usage: NewToolUsage) -> bool:
    """Write how a call ended into its record, where that was imported without a result; tells whether it was.

    A call that was closed as `unknown` is one whose end we did not see: what came of it belongs into the same record.
    """
    work.limits.check_tool_usage(usage)
    values = {
        "result": usage.result,
        "status": usage.outcome,
        "error": usage.error,
        "duration_ms": usage.duration_ms,
        "digest": digest_of(usage),
    }
    where = {"of_session": get_key(work.connection, user_id, session_id), "of_seq": seq}
    is_completed = work.connection.execute(_COMPLETE.values(values), where).rowcount == 1
    if is_completed:
        work.tell(Event(user_id, session_id, "updated"))
    return is_completed


def adopt(work: Work, user_id: UserId, session_id: SessionId, seq: int, usage: NewToolUsage) -> None:
    """Let the record of a proxy be that of an imported call: with its id, its key and the message that asked for it."""
    session_key = get_key(work.connection, user_id, session_id)
    asked_by = {"session_key": session_key, "tool_call_id": usage.tool_call_id}
    ((message_seq,),) = _ASKED_BY.rows(work.connection, asked_by)
    values = {
        "tool_call_id": usage.tool_call_id,
        "message_seq": func.coalesce(tool_usages.c.message_seq, message_seq),
    }
    where = {"of_session": session_key, "of_seq": seq}
    work.connection.execute(_OF_SEQ.values(values), where)
    keyed = {"idempotency_key": usage.idempotency_key, "digest": digest_of(usage)}
    work.connection.execute(_OF_SEQ.where(tool_usages.c.idempotency_key.is_(None)).values(keyed), where)
    work.tell(Event(user_id, session_id, "updated"))


def list_tool_usage(
    connection: Connection,
    user_id: UserId,
    session_id: SessionId | None = None,
    tool_name: str | None = None,
    status: ToolStatus | None = None,
    limit: int = 20,
    cursor: str | None = None,
) -> ToolUsagePageDict:
    """Return a page of tool usage, newest first: of one session, or of all the user's sessions."""
    check_limit(limit)
    check_filters(tool_name=tool_name)
    of = ("tool_usages", user_id, session_id, tool_name, status)
    before = read_cursor(cursor, *of)
    if session_id is None:
        check_user_id(user_id)
        parameters: dict[str, Any] = {"user_id": user_id}
        newest = tool_usages.c.key
        shape = columns(
            ToolUsageDict,
            tool_usages,
            id=cast(tool_usages.c.seq, String),
            session_id=chat_sessions.c.id,
            user_id=ACTING_USER,
        )
        page = select(newest, *shape).join(chat_sessions, chat_sessions.c.key == tool_usages.c.session_key)
        page = page.where(chat_sessions.c.user_key == USER_KEY)
    else:
        parameters = entry_parameters(user_id, session_id)
        newest = tool_usages.c.seq
        page = select(newest, *TOOL_USAGE_COLUMNS)
        page = page.where(tool_usages.c.session_key == get_key(connection, user_id, session_id))
    if tool_name is not None:
        page = page.where(tool_usages.c.tool_name == tool_name)
    if status is not None:
        page = page.where(tool_usages.c.status == status)
    if before is not None:
        page = page.where(newest < before)
    records, last = page_rows(connection, ToolUsageDict, page.order_by(newest.desc()), limit, parameters)
    if session_id is None:
        # The public form of a session's id is made outside the database.
        for record in records:
            record["id"] = entry_id(SessionId(record["session_id"]), record["seq"])
    return {"tool_usages": records, "next_cursor": None if last is None else make_cursor(last, *of)}


def summarize(
    connection: Connection,
    user_id: UserId,
    session_id: SessionId | None = None,
    tool_name: str | None = None,
    status: ToolStatus | None = None,
) -> ToolSummaryDict:
    """Return totals by tool, of one session or of all the user's sessions; the same filters as the list."""
    check_filters(tool_name=tool_name)
    calls = func.count().label("calls")
    errors = func.coalesce(func.sum(case((tool_usages.c.status == "error", 1), else_=0)), 0)
    duration = func.coalesce(func.sum(tool_usages.c.duration_ms), 0.0)
    found = select().select_from(tool_usages)
    if session_id is None:
        check_user_id(user_id)
        joined = chat_sessions.c.key == tool_usages.c.session_key
        found = found.join(chat_sessions, joined).where(chat_sessions.c.user_key == USER_KEY)
    else:
        found = found.where(tool_usages.c.session_key == get_key(connection, user_id, session_id))
    if tool_name is not None:
        found = found.where(tool_usages.c.tool_name == tool_name)
    if status is not None:
        found = found.where(tool_usages.c.status == status)
    parameters = {"user_id": user_id}
    shape = columns(ToolTotalDict, tool_usages, calls=calls, errors=errors, total_duration_ms=duration)
    by_tool = found.with_only_columns(*shape).group_by(tool_usages.c.tool_name)
    by_tool = by_tool.order_by(calls.desc(), tool_usages.c.tool_name).limit(MAX_TOTALS)
    totals = found.with_only_columns(calls, errors, func.count(tool_usages.c.tool_name.distinct()))
    tools = all_rows(connection, ToolTotalDict, by_tool, parameters)
    all_calls, all_errors, names = connection.execute(totals, parameters).one()
    return {"calls": all_calls, "errors": all_errors, "tools": tools, "left_out": names - len(tools)}
