"""Twins: the same tool call, recorded once on its way by a proxy and once more in the client's transcript.

A transcript knows the id that the model gave the call, a proxy as a rule does not. So both are one where they are of
the same session and the proxy was told the model's id; or, where it was not, where the tool, the arguments and the time
agree: the proxy saw the call start within the time that it took by the transcript. What differs in any of these stays
two records: one too many can be seen and told, one too few cannot. Whichever is written second joins the first, which
keeps its place in the timeline.
"""

from bisect import bisect_left
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    bindparam,
    case,
    func,
    literal,
    literal_column,
    or_,
    select,
    type_coerce,
    update,
)

from chat_service import blobs, tool_payloads
from chat_service.sessions import OWNED, check_ids, digest_of
from chat_service.tokens import count_tool_usage
from chat_service.work import Work
from models.ids import SessionId, UserId, to_microseconds, to_timestamp
from models.inputs import NewToolUsage
from models.tables import chat_sessions, tool_usages
from models.text import to_canonical_json

PROXY_KEY = "proxy:"
"""How the idempotency key of a proxy's record begins; an id that the proxy has made goes on as the key does."""

SLACK = timedelta(seconds=2)
"""How far the clocks of two writers on one machine may be apart, and what the wire takes."""

LONGEST = timedelta(minutes=10)
"""How long after it was asked for a call may start, where the transcript does not say when it ended: people confirm."""

MAX_BACK = 1_000
"""Among so many imported calls from before LONGEST a proxy's call is looked for that took longer than that."""

_IS_MADE = or_(
    tool_usages.c.tool_call_id.is_(None),
    func.substr(literal(PROXY_KEY) + tool_usages.c.tool_call_id, 1, func.length(tool_usages.c.idempotency_key) + 1)
    == tool_usages.c.idempotency_key + ":",
)
_OF_PROXY = (
    select(
        tool_usages.c.seq,
        tool_usages.c.tool_call_id,
        tool_usages.c.server_name,
        tool_usages.c.tool_name,
        tool_usages.c.started_at,
        tool_usages.c.arguments,
    )
    .where(tool_usages.c.session_key == bindparam("session_key"), tool_usages.c.origin == "proxy")
    .order_by(tool_usages.c.started_at, tool_usages.c.seq)
)
_OF_ID = _OF_PROXY.where(tool_usages.c.tool_call_id.in_(bindparam("ids", expanding=True)))
# Written as two comparisons, in which SQLite sees that the index without calls of no known time will do.
_OF_TIME = _OF_PROXY.where(
    _IS_MADE, tool_usages.c.started_at >= bindparam("since"), tool_usages.c.started_at <= bindparam("until")
)

_OF_SESSION = (
    select(
        chat_sessions.c.key,
        tool_usages.c.seq,
        tool_usages.c.tool_name,
        tool_usages.c.started_at,
        tool_usages.c.duration_ms,
        tool_usages.c.arguments,
        tool_usages.c.status,
    )
    .join(chat_sessions, chat_sessions.c.key == tool_usages.c.session_key)
    .where(OWNED, chat_sessions.c.status == "active", tool_usages.c.origin == "import")
)
# Ordered by a sum, as SQLite would walk all the session's records by their seq, where the id has an index.
_IMPORTED_OF_ID = (
    _OF_SESSION.where(tool_usages.c.tool_call_id == bindparam("tool_call_id"))
    .order_by(tool_usages.c.seq + literal_column("0"))
    .limit(1)
)


def _microseconds(length: timedelta) -> int:
    return length // timedelta(microseconds=1)


def _that_may_be_it(calls: Any) -> Any:
    """Select those of these imported calls that are of one of the names, and went on at the earliest moment."""
    took: Any = case((calls.c.duration_ms.is_(None), _microseconds(LONGEST)), else_=calls.c.duration_ms * 1_000)
    start: Any = type_coerce(calls.c.started_at, BigInteger)
    return (
        select(calls.c.key, calls.c.seq, calls.c.arguments, calls.c.status)
        .where(
            calls.c.tool_name.in_(bindparam("names", expanding=True)),
            start + took >= bindparam("earliest", type_=BigInteger),
        )
        .order_by(calls.c.seq)
    )


_started_at = tool_usages.c.started_at
_since, _latest = (bindparam(name, type_=_started_at.type) for name in ("since", "latest"))
_IMPORTED_LATELY = _that_may_be_it(
    _OF_SESSION.where(_started_at >= _since, _started_at <= _latest).subquery(),
)
_IMPORTED_BEFORE = _that_may_be_it(
    _OF_SESSION.where(_started_at < _since).order_by(_started_at.desc()).limit(MAX_BACK).subquery(),
)
_JOIN = update(tool_usages).where(
    tool_usages.c.session_key == bindparam("of_session"), tool_usages.c.seq == bindparam("of_seq")
)


class Twins:
    """The records of a proxy in one session that calls of a transcript may be joined to; read in two statements."""

    def __init__(self, connection: Connection, session_key: int, usages: Sequence[NewToolUsage]) -> None:
        self._of_id: dict[str, list[Any]] = {}
        self._alike: dict[tuple[str, str], list[Any]] = {}
        ids = [usage.tool_call_id for usage in usages if usage.tool_call_id is not None]
        if ids:
            for row in connection.execute(_OF_ID, {"session_key": session_key, "ids": ids}):
                self._of_id.setdefault(row.tool_call_id, []).append(row)
        spans = [_span(usage, usage.started_at) for usage in usages if usage.started_at is not None]
        if spans:
            since, until = min(start for start, _ in spans), max(end for _, end in spans)
            where = {"session_key": session_key, "since": to_timestamp(since), "until": to_timestamp(until)}
            for row in connection.execute(_OF_TIME, where):
                arguments = to_canonical_json(row.arguments)
                for name in _names(row.tool_name, row.server_name):
                    self._alike.setdefault((name, arguments), []).append(row)
        self._taken: set[int] = set()

    def take(self, usage: NewToolUsage) -> int | None:
        """Return the seq of the proxy's record of this call, None where there is none; it is given once."""
        found = self._of_this_id(usage) or self._like_this(usage)
        if found is None:
            return None
        self._taken.add(found.seq)
        return int(found.seq)

    def _of_this_id(self, usage: NewToolUsage) -> Any:
        rows = self._of_id.get(usage.tool_call_id or "")
        return rows.pop(0) if rows else None

    def _like_this(self, usage: NewToolUsage) -> Any:
        if usage.started_at is None:
            return None
        rows = self._alike.get((usage.tool_name, to_canonical_json(usage.arguments)), [])
        since, until = _span(usage, usage.started_at)
        at, latest = bisect_left(rows, to_timestamp(since), key=_started), to_timestamp(until)
        while at < len(rows) and rows[at].started_at <= latest:
            row = rows.pop(at)
            # It may have been taken by its other name, or by its id.
            if row.seq not in self._taken:
                return row
        return None


def join_imported(work: Work, user_id: UserId, session_id: SessionId, usage: NewToolUsage) -> int | None:
    """Join a proxy's call to the imported record of it, and return its seq; None where there is none.

    The record gets what the proxy alone knows, and the result where the transcript had none; it is the proxy's from
    then on, known by the proxy's key, so that the call is recorded once however often that tries.
    """
    found = _imported(work.connection, user_id, session_id, usage)
    if found is None:
        return None
    values: dict[str, Any] = {
        "origin": usage.origin,
        "tool_name": usage.tool_name,
        "server_name": usage.server_name,
        "call_metadata": usage.call_metadata,
        "started_at": None if usage.started_at is None else to_timestamp(usage.started_at),
        "duration_ms": usage.duration_ms,
    }
    if usage.idempotency_key is not None:
        values |= {"idempotency_key": usage.idempotency_key, "digest": digest_of(usage)}
    if found.status == "unknown" and usage.outcome != "unknown":
        kept, digests = tool_payloads.keep(work.connection, usage)
        blobs.refer_to(work.connection, found.key, found.seq, digests)
        values |= {"status": kept.outcome, "result": kept.result, "error": kept.error}
        values["token_count"] = count_tool_usage(work.limits.count_tokens, kept)
    known = {name: value for name, value in values.items() if value is not None}
    work.connection.execute(_JOIN.values(known), {"of_session": found.key, "of_seq": found.seq})
    return int(found.seq)


def _imported(connection: Connection, user_id: UserId, session_id: SessionId, usage: NewToolUsage) -> Any:
    where: dict[str, Any] = {**check_ids(user_id, session_id)}
    if usage.tool_call_id is not None and not is_made(usage.tool_call_id, usage.idempotency_key):
        return connection.execute(_IMPORTED_OF_ID, where | {"tool_call_id": usage.tool_call_id}).one_or_none()
    if usage.started_at is None:
        return None
    where |= {"names": _names(usage.tool_name, usage.server_name)}
    earliest = to_timestamp(_moved(usage.started_at, -SLACK))
    where |= {"since": to_timestamp(_moved(usage.started_at, -SLACK - LONGEST)), "earliest": to_microseconds(earliest)}
    where |= {"latest": to_timestamp(_moved(usage.started_at, SLACK))}
    arguments = to_canonical_json(usage.arguments)
    for statement in (_IMPORTED_LATELY, _IMPORTED_BEFORE):
        for row in connection.execute(statement, where):
            if to_canonical_json(row.arguments) == arguments:
                return row
    return None


def is_made(tool_call_id: str, idempotency_key: str | None) -> bool:
    """Tell whether a proxy has made this id itself, since it was not told the model's."""
    return idempotency_key is not None and f"{PROXY_KEY}{tool_call_id}".startswith(f"{idempotency_key}:")


def _span(usage: NewToolUsage, started_at: datetime) -> tuple[datetime, datetime]:
    """Return from when and until when a proxy may have seen an imported call start."""
    took = LONGEST if usage.duration_ms is None else timedelta(milliseconds=usage.duration_ms)
    return _moved(started_at, -SLACK), _moved(started_at, took + SLACK)


def _moved(moment: datetime, length: timedelta) -> datetime:
    """Return a moment so much later, or earlier, within the years that there are."""
    try:
        return moment + length
    except OverflowError:
        return (datetime.max if length > timedelta(0) else datetime.min).replace(tzinfo=UTC)


def _started(row: Any) -> str:
    started: str = row.started_at
    return started


def _names(tool_name: str, server_name: str | None) -> tuple[str, ...]:
    """Return what a client may call a tool of a server: by its own name, or with the server's before it."""
    if server_name is None:
        return (tool_name,)
    return (tool_name, f"mcp__{server_name}__{tool_name}", f"{server_name}__{tool_name}", f"{server_name}.{tool_name}")
