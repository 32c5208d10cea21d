"""Counts of tool usage: how often each tool was called, how often in error, and how long altogether.

What a list of calls tells beside them. `chat_service.tool_totals` tells more, and takes several times as long: it puts
the durations in order.
"""

from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Text, bindparam, case, func, or_, select

from chat_service.lineage import inherited, within
from chat_service.paging import END, check_filters
from chat_service.sessions import get_timeline
from chat_service.users import USER_KEY, check_user_id, get_user_key
from models.ids import SessionId, UserId
from models.inputs import ToolStatus
from models.prepared import Prepared
from models.tables import chat_sessions, tool_usages
from models.total_shapes import ToolCountsDict

MAX_TOTALS = 100
"""So many tools are given one by one; the rest are counted."""


def kept(entries: Any) -> list[ColumnElement[bool]]:
    """Return the conditions of the filters; parameters tool_name and status, each None where it keeps to nothing."""
    given = ((entries.c[name], bindparam(name, type_=Text)) for name in ("tool_name", "status"))
    return [or_(value.is_(None), column == value) for column, value in given]


def with_sums(groups: Any, *names: str) -> Select[Any]:
    """Return the most used of groups, each after their number and the sums over all of them, so many first columns.

    So the calls are read once.
    """
    over_all = [func.count().over(), *(func.sum(groups.c[name]).over() for name in names)]
    order = (groups.c.calls.desc(), groups.c.tool_name, groups.c.server_name.asc().nulls_first())
    return select(*over_all, *groups.c).order_by(*order).limit(MAX_TOTALS)


def _counts(found: Any, *where: Any) -> Prepared:
    named = (tool_usages.c.tool_name, tool_usages.c.server_name)
    groups = (
        select(
            *named,
            func.count().label("calls"),
            func.sum(case((tool_usages.c.status == "error", 1), else_=0)).label("errors"),
            func.coalesce(func.sum(tool_usages.c.duration_ms), 0.0).label("duration"),
        )
        .select_from(found)
        .where(*where, *kept(tool_usages))
        .group_by(*named)
        .subquery()
    )
    return Prepared(with_sums(groups, "calls", "errors"))


_OF_USER = _counts(
    tool_usages.join(chat_sessions, chat_sessions.c.key == tool_usages.c.session_key),
    chat_sessions.c.user_key == USER_KEY,
)
_OF_SESSION = _counts(tool_usages, within(tool_usages))
_OF_FORK = _counts(inherited(tool_usages))


def count(
    connection: Connection,
    user_id: UserId,
    session_id: SessionId | None = None,
    tool_name: str | None = None,
    status: ToolStatus | None = None,
) -> ToolCountsDict:
    """Return counts by tool and server, of one session or of all the user's sessions; raises Invalid and NotFound."""
    check_filters(tool_name=tool_name)
    parameters: dict[str, Any] = {"user_id": user_id, "tool_name": tool_name, "status": status}
    if session_id is None:
        check_user_id(user_id)
        statement = _OF_USER
    else:
        timeline = get_timeline(connection, user_id, session_id)
        statement = _OF_FORK if timeline.inherited else _OF_SESSION
        parameters |= {"session_key": timeline.session_key, "low": 0, "high": END}
    rows = statement.rows(connection, parameters)
    if not rows and session_id is None:
        get_user_key(connection, user_id)
    number, calls, errors = rows[0][:3] if rows else (0, 0, 0)
    return {
        "calls": calls,
        "errors": errors,
        "tools": [
            {"tool_name": tool, "server_name": server, "calls": of, "errors": failed, "total_duration_ms": duration}
            for _, _, _, tool, server, of, failed, duration in rows
        ],
        "left_out": number - len(rows),
    }
