"""Pages of tool usage: of one session, or of all that somebody has, the newest first.

Of all sessions a page is as a rule among the newest calls of the database, where it is looked for first; only where it
is not, all calls of the user are put in order (docs/decisions/usage.md).
"""

from typing import Any, NamedTuple

from sqlalchemy import Connection, Text, bindparam, func, not_, select, type_coerce, union_all

from chat_service import tool_counts, tool_payloads
from chat_service.lineage import GIVEN_TO_INHERITED, LINEAGE, last_inherited, name_entries, naming, within
from chat_service.paging import END, check_filters, check_limit, make_cursor, read_cursor
from chat_service.sessions import Timeline, get_timeline
from chat_service.tool_counts import kept
from chat_service.tool_usage import INHERITED_TOOL_USAGE_COLUMNS, TOOL_USAGE_COLUMNS
from chat_service.users import USER_KEY, check_user_id, get_user_key
from models.ids import SessionId, UserId
from models.inputs import ToolStatus
from models.prepared import Prepared
from models.rows import PAGE_SIZE, Shape, columns, page_rows
from models.shapes import ToolUsageDict, ToolUsageLineDict, ToolUsageListDict, ToolUsagePageDict
from models.tables import chat_sessions, tool_usages

_LOOKED_AT = 500
"""So many of the newest calls are looked at first."""


class _Pages(NamedTuple):
    """The statements for a page in one shape: of all the user's sessions, of a session, and of a fork."""

    of_user: Prepared
    of_session: Prepared
    of_fork: Prepared


def _beginning(column: Any) -> Any:
    return func.substr(type_coerce(column, Text), 1, bindparam("text_limit"))


def _of_user(*shape: Any) -> Prepared:
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
    page = select(tool_usages.c.key, *shape).join(chat_sessions, chat_sessions.c.key == tool_usages.c.session_key)
    return Prepared(page.where(tool_usages.c.key.in_(keys)).order_by(newest))


def _of_session(*shape: Any, found: Any, where: Any) -> Prepared:
    newest = tool_usages.c.seq
    page = select(newest.label("number"), *shape).select_from(found).where(*where)
    return Prepared(page.order_by(newest.desc()).limit(PAGE_SIZE))


def _pages(of_user: Any, of_session: Any, of_fork: Any) -> _Pages:
    return _Pages(
        _of_user(*of_user),
        _of_session(*of_session, found=tool_usages, where=[within(tool_usages), *kept(tool_usages)]),
        _of_session(*of_fork, found=last_inherited(tool_usages, kept=kept), where=[]),
    )


_BEGINNINGS = {name: _beginning(tool_usages.c[name]) for name in ("arguments", "result", "error")}
_WHOLE = _pages(
    columns(ToolUsageDict, tool_usages, GIVEN_TO_INHERITED, session_id=chat_sessions.c.id),
    TOOL_USAGE_COLUMNS,
    INHERITED_TOOL_USAGE_COLUMNS,
)
_LINES = _pages(
    columns(ToolUsageLineDict, tool_usages, session_id=chat_sessions.c.id, **_BEGINNINGS),
    columns(ToolUsageLineDict, tool_usages, ("session_id",), **_BEGINNINGS),
    columns(ToolUsageLineDict, tool_usages, session_id=LINEAGE.c.session_id, **_BEGINNINGS),
)


class _Asked(NamedTuple):
    """What a page is asked for, and where it begins: before a key or a seq."""

    user_id: UserId
    session_id: SessionId | None
    tool_name: str | None
    status: ToolStatus | None
    limit: int
    cursor: str | None

    @property
    def _list(self) -> tuple[object, ...]:
        return ("tool_usages", self.user_id, self.session_id, self.tool_name, self.status)

    def before(self) -> int:
        """Return where it begins; raises Invalid."""
        check_limit(self.limit)
        check_filters(tool_name=self.tool_name)
        return read_cursor(self.cursor, *self._list) or END

    def cursor_after(self, last: int | None) -> str | None:
        """Return the cursor to what follows the page."""
        return None if last is None else make_cursor(last, *self._list)


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
    asked = _Asked(user_id, session_id, tool_name, status, limit, cursor)
    records, next_cursor = _page(connection, ToolUsageDict, _WHOLE, asked, {})
    name_entries(records)
    _put_back_payloads(connection, user_id, session_id, records)
    return {"tool_usages": records, "next_cursor": next_cursor}


def list_lines(
    connection: Connection,
    user_id: UserId,
    session_id: SessionId | None = None,
    tool_name: str | None = None,
    status: ToolStatus | None = None,
    limit: int = 20,
    cursor: str | None = None,
    text_limit: int = 200,
) -> ToolUsageListDict:
    """Return the same page by the beginnings of its texts as they are stored, and on the first page the counts."""
    asked = _Asked(user_id, session_id, tool_name, status, limit, cursor)
    lines, next_cursor = _page(connection, ToolUsageLineDict, _LINES, asked, {"text_limit": text_limit})
    counts = None
    if cursor is None:
        counts = tool_counts.count(connection, user_id, session_id, tool_name, status)
    return {"tool_usages": lines, "next_cursor": next_cursor, "counts": counts}


def _page(
    connection: Connection, shape: type[Shape], pages: _Pages, asked: _Asked, parameters: dict[str, Any]
) -> tuple[list[Shape], str | None]:
    before = asked.before()
    parameters = parameters | {"tool_name": asked.tool_name, "status": asked.status}
    timeline: Timeline | None = None
    if asked.session_id is None:
        check_user_id(asked.user_id)
        statement, parameters = pages.of_user, parameters | {"user_id": asked.user_id, "before": before}
    else:
        timeline = get_timeline(connection, asked.user_id, asked.session_id)
        statement = pages.of_fork if timeline.inherited else pages.of_session
        parameters |= {"session_key": timeline.session_key, "low": 0, "high": before - 1}
    given = naming(asked.user_id, None if timeline is None or timeline.inherited else asked.session_id)
    given = {name: value for name, value in given.items() if name in shape.__annotations__}
    records, last = page_rows(connection, shape, statement, asked.limit, parameters, given)
    if not records and asked.session_id is None:
        get_user_key(connection, asked.user_id)
    return records, asked.cursor_after(last)


def _put_back_payloads(
    connection: Connection, user_id: UserId, session_id: SessionId | None, records: list[ToolUsageDict]
) -> None:
    with_payloads: dict[SessionId, list[ToolUsageDict]] = {}
    for record in records:
        if tool_payloads.digests_of(record["result"]):
            with_payloads.setdefault(session_id or SessionId(record["session_id"]), []).append(record)
    for of_session, some in with_payloads.items():
        tool_payloads.put_back(connection, get_timeline(connection, user_id, of_session), some)
