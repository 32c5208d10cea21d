"""Runs: each answer of a model is a row with a lease, so that a retry can tell a crash from another process at work.

A run begins with its question, in one transaction, and ends with its answer, in one transaction. In between, a message
that asks for tool calls is appended together with what is about to be called: where the process dies, those calls
without a record are closed as unknown by whoever takes the run over, and never repeated.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, bindparam, delete, insert, select, update

from chat_service import appends, sessions, tool_usage
from chat_service.sessions import ACTING_USER, digest_of
from chat_service.users import USER_KEY, check_user_id, get_user_key
from chat_service.work import Work
from models.errors import Conflict, Invalid, NotFound
from models.ids import RunId, SessionId, UserId, is_id, new_id, to_timestamp
from models.inputs import Lease, NewMessage, NewRun, NewSession, NewToolUsage, RunCall, RunState
from models.rows import columns, one_row
from models.shapes import MessageDict, RunDict
from models.tables import chat_runs, chat_sessions, tool_usages

LOST = "the process that made this call went away before it ended; it may have done its work"
"""What is recorded of a call whose end nobody saw."""

_COLUMNS = columns(RunDict, chat_runs, session_id=chat_sessions.c.id, user_id=ACTING_USER)
_MINE = (
    select(*_COLUMNS)
    .join(chat_sessions, chat_sessions.c.key == chat_runs.c.session_key)
    # A session that is being deleted has another owner.
    .where(chat_runs.c.user_key == USER_KEY, chat_sessions.c.user_key == USER_KEY)
)
_BY_ID = _MINE.where(chat_runs.c.id == bindparam("run_id"))
_BY_KEY = _MINE.where(chat_runs.c.idempotency_key == bindparam("idempotency_key"))
_FORGET = delete(chat_runs).where(
    chat_runs.c.user_key == USER_KEY, chat_runs.c.idempotency_key == bindparam("idempotency_key")
)
_INSIDE = select(
    chat_runs.c.key, chat_runs.c.session_key, chat_runs.c.digest, chat_runs.c.lease_owner, chat_runs.c.calls
).where(chat_runs.c.id == bindparam("run_id"))
_AT_WORK = select(chat_runs.c.lease_expires_at).where(
    chat_runs.c.session_key == bindparam("session_key"),
    chat_runs.c.key != bindparam("run_key"),
    chat_runs.c.state == "running",
    chat_runs.c.lease_expires_at > bindparam("now"),
)
_HELD = and_(
    chat_runs.c.id == bindparam("run_id"),
    chat_runs.c.user_key == USER_KEY,
    chat_runs.c.state == "running",
    chat_runs.c.lease_owner == bindparam("owner"),
)
_RECORDED = select(tool_usages.c.tool_call_id, tool_usages.c.message_seq).where(
    tool_usages.c.session_key == bindparam("session_key"),
    tool_usages.c.tool_call_id.in_(bindparam("ids", expanding=True)),
)


def begin(work: Work, user_id: UserId, new_run: NewRun, lease: Lease) -> RunDict:
    """Append the question and return its run; one of this key that is done is returned as it is, else taken over.

    Raises Conflict where another process is at work, or where the key was used for another question.
    """
    check_user_id(user_id)
    known = one_row(work.connection, RunDict, _BY_KEY, {"user_id": user_id, "idempotency_key": new_run.idempotency_key})
    digest = digest_of(new_run.model_copy(update={"title": None, "client": None}))
    if known is not None:
        return _again(work, user_id, known, digest, lease)
    if new_run.session_id is None:
        new_session = NewSession(title=new_run.title, client=new_run.client)
        session_id = SessionId(sessions.create(work, user_id, new_session)["id"])
    else:
        session_id = SessionId(new_run.session_id)
    session_key = sessions.get_timeline(work.connection, user_id, session_id).session_key
    _refuse_beside_another(work, session_key)
    (message,) = appends.add(work, user_id, session_id, [new_run.message])
    # One of this key may be left of a session that is being deleted.
    work.connection.execute(_FORGET, {"user_id": user_id, "idempotency_key": new_run.idempotency_key})
    run_id = RunId(new_id())
    values = {
        "id": run_id,
        "user_key": get_user_key(work.connection, user_id),
        "session_key": session_key,
        "idempotency_key": new_run.idempotency_key,
        "digest": digest,
        "state": "running",
        "message_seq": message["seq"],
        "lease_owner": lease.owner,
        "lease_expires_at": _expiry(work, lease),
        "created_at": work.now,
    }
    work.connection.execute(insert(chat_runs), values)
    return _get(work, user_id, run_id)


def renew(work: Work, user_id: UserId, run_id: RunId, lease: Lease) -> RunDict:
    """Renew the lease; raises Conflict where it is not held any more."""
    _get(work, user_id, run_id)
    _change(work, user_id, run_id, lease, {})
    return _get(work, user_id, run_id)


def add_message(
    work: Work, user_id: UserId, run_id: RunId, lease: Lease, message: NewMessage, calls: Sequence[RunCall]
) -> MessageDict:
    """Append a message that asks for calls, and note them; raises Conflict where the lease is not held any more."""
    run = _get(work, user_id, run_id)
    (stored,) = appends.add(work, user_id, SessionId(run["session_id"]), [message])
    noted = {"message_seq": stored["seq"], "calls": [call.model_dump() for call in calls]}
    _change(work, user_id, run_id, lease, {"calls": noted})
    return stored


def end(
    work: Work,
    user_id: UserId,
    run_id: RunId,
    lease: Lease,
    state: RunState,
    new_messages: Sequence[NewMessage],
    result: dict[str, Any] | None = None,
) -> RunDict:
    """Close what is open, append the last messages, and end the run; raises Conflict where the lease is not held."""
    run = _get(work, user_id, run_id)
    _change(work, user_id, run_id, lease, {})
    _close_calls(work, user_id, run)
    if new_messages:
        stored = appends.add(work, user_id, SessionId(run["session_id"]), new_messages)
        if result is not None:
            result = {**result, "answer_seq": stored[0]["seq"]}
    _change(work, user_id, run_id, lease, {"state": state, "result": result})
    return _get(work, user_id, run_id)


def _again(work: Work, user_id: UserId, run: RunDict, digest: bytes, lease: Lease) -> RunDict:
    inside = work.connection.execute(_INSIDE, {"run_id": run["id"]}).one()
    if inside.digest != digest:
        raise Conflict("idempotency_key was used for another message: take a new key.")
    if run["state"] == "done":
        return run
    if run["state"] == "running" and run["lease_expires_at"] > work.now and inside.lease_owner != lease.owner:
        raise Conflict("This answer is being written: call again with the same idempotency_key in a moment.")
    _refuse_beside_another(work, inside.session_key, inside.key)
    taken = {"state": "running", "lease_owner": lease.owner, "lease_expires_at": _expiry(work, lease)}
    work.connection.execute(update(chat_runs).where(chat_runs.c.key == inside.key).values(taken))
    _close_calls(work, user_id, run)
    return _get(work, user_id, RunId(run["id"]))


def _refuse_beside_another(work: Work, session_key: int, run_key: int = 0) -> None:
    """Raise Conflict where another run than this one is at work in the session."""
    at_work = {"session_key": session_key, "run_key": run_key, "now": work.now}
    if work.connection.execute(_AT_WORK, at_work).first() is not None:
        raise Conflict("Another answer is being written in this session: wait for it, then ask.")


def _close_calls(work: Work, user_id: UserId, run: RunDict) -> None:
    inside = work.connection.execute(_INSIDE, {"run_id": run["id"]}).one()
    if inside.calls is None:
        return
    calls = [RunCall.model_validate(call) for call in inside.calls["calls"]]
    message_seq = inside.calls["message_seq"]
    ids = {"session_key": inside.session_key, "ids": [call.tool_call_id for call in calls]}
    recorded = {tuple(row) for row in work.connection.execute(_RECORDED, ids)}
    for call in calls:
        if (call.tool_call_id, message_seq) not in recorded:
            usage = NewToolUsage(
                **call.model_dump(), status="unknown", error=LOST, message_seq=message_seq, origin="proxy"
            )
            tool_usage.add(work, user_id, SessionId(run["session_id"]), usage)
    work.connection.execute(update(chat_runs).where(chat_runs.c.key == inside.key).values(calls=None))


def _change(work: Work, user_id: UserId, run_id: RunId, lease: Lease, values: dict[str, Any]) -> None:
    held = {"run_id": _checked(run_id), "user_id": user_id, "owner": lease.owner}
    changed = work.connection.execute(
        update(chat_runs).where(_HELD).values(lease_expires_at=_expiry(work, lease), **values), held
    )
    if changed.rowcount == 0:
        raise Conflict("Another process has taken this answer over: read the session.")


def _get(work: Work, user_id: UserId, run_id: RunId) -> RunDict:
    check_user_id(user_id)
    run = one_row(work.connection, RunDict, _BY_ID, {"run_id": _checked(run_id), "user_id": user_id})
    if run is None:
        raise NotFound("There is no such run of yours: begin one with begin_run.")
    return run


def _checked(run_id: RunId) -> RunId:
    if not is_id(run_id):
        raise Invalid("run_id is not a run's id: use the one that begin_run gave.")
    return run_id


def _expiry(work: Work, lease: Lease) -> str:
    return to_timestamp(datetime.fromisoformat(work.now) + timedelta(seconds=lease.seconds))
