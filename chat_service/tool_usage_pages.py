"""Pages of tool usage: of one session, or of all that somebody has, the newest first.

Of all sessions a page is as a rule among the newest calls of the database, where it is looked for first; only where it
is not, all calls of the user are put in order (docs/decisions/usage.md).
"""

from typing import Any

from sqlalchemy import Connection, bindparam, func, not_, select, union_all

from chat_service import tool_counts, tool_payloads
from chat_service.lineage import GIVEN_TO_INHERITED, last_inherited, name_entries, naming, within
from chat_service.paging import END, check_filters, check_limit, make_cursor, read_cursor
from chat_service.sessions import Timeline, get_timeline
from chat_service.tool_counts import kept
from chat_service.tool_usage import INHERITED_TOOL_USAGE_COLUMNS, TOOL_USAGE_COLUMNS
from chat_service.users import USER_KEY, check_user_id, get_user_key
from models.ids import SessionId, UserId
from models.inputs import ToolStatus
from models.prepared import Prepared
from models.rows import PAGE_SIZE, columns, page_rows
from models.shapes import ToolUsageDict, ToolUsageListDict, ToolUsagePageDict
from models.tables import chat_sessions, tool_usages

_LOOKED_AT = 500
"""So many of the newest calls are looked at first."""


def _of_user() -> Prepared:
    """Return the statement for a page of all the user's calls before a key."""
    before = tool_usages.c.key < bindparam("before")
    newest = tool_usages.c.key.desc()
    looked_at = (
        select(*(tool_usages.c[name] for name in ("key", "session_key", "tool_name", "status")))
        .where(before)
        .order_by(newest)
        .limit(_LOOKED_AT)
        .subquery("looked_at")
    )
    # Asked of each call: joined, the owner's sessions would be the way in, and all their calls be walked.
    owner = select(chat_sessions.c.user_key).where(chat_sessions.c.key == looked_at.c.session_key).scalar_subquery()
    near = (
        select(looked_at.c.key)
        .where(owner == USER_KEY, *kept(looked_at))
        .order_by(looked_at.c.key.desc())
        .limit(PAGE_SIZE)
        .cte("near")
    )
    is_near = select(func.count() == PAGE_SIZE).select_from(near).scalar_subquery()
    anywhere = (
        select(tool_usages.c.key)
        .join(chat_sessions, chat_sessions.c.key == tool_usages.c.session_key)
        .where(not_(is_near), chat_sessions.c.user_key == USER_KEY, before, *kept(tool_usages))
        .order_by(newest)
        .limit(PAGE_SIZE)
        .subquery("anywhere")
    )
    keys = union_all(select(near.c.key).where(is_near), select(anywhere.c.key))
    shape = columns(ToolUsageDict, tool_usages, GIVEN_TO_INHERITED, session_id=chat_sessions.c.id)
    page = select(tool_usages.c.key, *shape).join(chat_sessions, chat_sessions.c.key == tool_usages.c.session_key)
    return Prepared(page.where(tool_usages.c.key.in_(keys)).order_by(newest))


def _of_session(*shape: Any, found: Any, where: Any) -> Prepared:
    newest = tool_usages.c.seq
    page = select(newest.label("number"), *shape).select_from(found).where(*where)
    return Prepared(page.order_by(newest.desc()).limit(PAGE_SIZE))


_OF_USER = _of_user()
_OF_SESSION = _of_session(*TOOL_USAGE_COLUMNS, found=tool_usages, where=[within(tool_usages), *kept(tool_usages)])
_OF_FORK = _of_session(*INHERITED_TOOL_USAGE_COLUMNS, found=last_inherited(tool_usages, kept=kept), where=[])


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
    before = read_cursor(cursor, *of) or END
    parameters: dict[str, Any] = {"tool_name": tool_name, "status": status}
    timeline: Timeline | None = None
    if session_id is None:
        check_user_id(user_id)
        statement, parameters = _OF_USER, parameters | {"user_id": user_id, "before": before}
    else:
        timeline = get_timeline(connection, user_id, session_id)
        statement = _OF_FORK if timeline.inherited else _OF_SESSION
        parameters |= {"session_key": timeline.session_key, "low": 0, "high": before - 1}
    given = naming(user_id, None if timeline is None or timeline.inherited else session_id)
    records, last = page_rows(connection, ToolUsageDict, statement, limit, parameters, given)
    if not records and session_id is None:
        get_user_key(connection, user_id)
    name_entries(records)
    _put_back_payloads(connection, user_id, session_id, records)
    return {"tool_usages": records, "next_cursor": None if last is None else make_cursor(last, *of)}


def list_with_counts(
    connection: Connection,
    user_id: UserId,
    session_id: SessionId | None = None,
    tool_name: str | None = None,
    status: ToolStatus | None = None,
    limit: int = 20,
) -> ToolUsageListDict:
    """Return the first page, and the counts of all that fits."""
    return {
        "page": list_tool_usage(connection, user_id, session_id, tool_name, status, limit),
        "counts": tool_counts.count(connection, user_id, session_id, tool_name, status),
    }


def _put_back_payloads(
    connection: Connection, user_id: UserId, session_id: SessionId | None, records: list[ToolUsageDict]
) -> None:
    with_payloads: dict[SessionId, list[ToolUsageDict]] = {}
    for record in records:
        if tool_payloads.digests_of(record["result"]):
            with_payloads.setdefault(session_id or SessionId(record["session_id"]), []).append(record)
    for of_session, some in with_payloads.items():
        tool_payloads.put_back(connection, get_timeline(connection, user_id, of_session), some)
