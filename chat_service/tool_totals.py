"""Totals of tool usage: how often each tool was called, how often in vain, how long it took, and when it was last."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, func, select, type_coerce

from chat_service.moments import happened_at
from chat_service.paging import check_filters
from chat_service.tool_counts import with_sums
from chat_service.totals import entries_of, in_time
from chat_service.users import get_user_key
from models.ids import SessionId, UserId
from models.inputs import TimeRange, ToolStatus
from models.tables import Timestamp, tool_usages
from models.total_shapes import ToolSummaryDict, ToolTotalDict


def summarize(
    connection: Connection,
    user_id: UserId,
    session_id: SessionId | None = None,
    tool_name: str | None = None,
    status: ToolStatus | None = None,
    times: TimeRange | None = None,
) -> ToolSummaryDict:
    """Return totals by tool and server, of one session or of all the user's sessions.

    The filters are those of the list, and a range of time in which a call began. Raises Invalid and NotFound.
    """
    check_filters(tool_name=tool_name)
    found, _, parameters = entries_of(connection, tool_usages, user_id, session_id)
    moment = happened_at(tool_usages)
    given = (("tool_name", tool_name), ("status", status))
    found = found.where(*(tool_usages.c[name] == value for name, value in given if value is not None))
    found = found.where(*in_time(moment, times))
    tool, server, duration = tool_usages.c.tool_name, tool_usages.c.server_name, tool_usages.c.duration_ms
    each_tool: Any = {"partition_by": (tool, server)}
    # Ranked within each tool: a percentile is the least duration whose rank reaches its share of those that are known.
    ranked = found.with_only_columns(
        tool,
        server,
        tool_usages.c.status,
        duration,
        moment.label("moment"),
        func.row_number().over(order_by=duration.asc().nulls_last(), **each_tool).label("rank"),
        func.count(duration).over(**each_tool).label("known"),
    ).subquery()
    groups = (
        select(
            ranked.c.tool_name,
            ranked.c.server_name,
            func.count().label("calls"),
            _count_of(ranked.c.status == "error").label("errors"),
            _count_of(ranked.c.status == "unknown").label("unknown"),
            func.coalesce(func.sum(ranked.c.duration_ms), 0.0).label("total_duration_ms"),
            _percentile(ranked, 50).label("p50_duration_ms"),
            _percentile(ranked, 95).label("p95_duration_ms"),
            type_coerce(func.max(ranked.c.moment), Timestamp).label("last_used_at"),
        )
        .group_by(ranked.c.tool_name, ranked.c.server_name)
        .subquery()
    )
    rows = connection.execute(with_sums(groups, "calls", "errors", "unknown"), parameters).fetchall()
    if not rows and session_id is None:
        get_user_key(connection, user_id)
    number, calls, errors, unknown = rows[0][:4] if rows else (0, 0, 0, 0)
    tools = [_total(row[4:]) for row in rows]
    return {"calls": calls, "errors": errors, "unknown": unknown, "tools": tools, "left_out": number - len(tools)}


def _count_of(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.sum(case((condition, 1), else_=0))


def _percentile(ranked: Any, percent: int) -> ColumnElement[float | None]:
    reached = ranked.c.rank * 100 >= ranked.c.known * percent
    return func.min(case((reached, ranked.c.duration_ms)))


def _total(row: Sequence[Any]) -> ToolTotalDict:
    tool, server, calls, errors, unknown, duration, median, high, last = row
    return {
        "tool_name": tool,
        "server_name": server,
        "calls": calls,
        "errors": errors,
        "unknown": unknown,
        "total_duration_ms": duration,
        "p50_duration_ms": median,
        "p95_duration_ms": high,
        "last_used_at": last,
    }
