"""Sessions among all that somebody has: listed, searched by title, and the one to carry on with."""

from typing import Any

from sqlalchemy import JSON, Connection, Text, bindparam, func, or_, select, type_coerce

from chat_service.paging import END, check_filters, check_limit, make_cursor, read_cursor
from chat_service.sessions import SESSION_COLUMNS, WITH_PARENT
from chat_service.users import USER_KEY, check_user_id, get_user_key
from models.errors import Invalid
from models.ids import UserId, ids_beginning
from models.inputs import MAX_LINE, SessionStatus
from models.prepared import Prepared
from models.rows import PAGE_SIZE, one_row_after, page_rows
from models.shapes import ActiveSessionDict, SessionDict, SessionPageDict
from models.tables import PublicId, chat_sessions

_OF_STATUS = chat_sessions.c.status == bindparam("status")
# SQLite's LIKE takes small and capital letters for the same by itself.
_OF_TITLE = chat_sessions.c.title.like(bindparam("like", type_=Text), escape="/")
_OF_ID = chat_sessions.c.id.between(bindparam("first_id", type_=PublicId), bindparam("last_id", type_=PublicId))


def _page(*filters: Any) -> Prepared:
    return Prepared(
        select(chat_sessions.c.key, *SESSION_COLUMNS)
        .select_from(WITH_PARENT)
        .where(chat_sessions.c.user_key == USER_KEY, chat_sessions.c.key < bindparam("before"), *filters)
        .order_by(chat_sessions.c.key.desc())
        .limit(PAGE_SIZE)
    )


_PAGES = {
    (False, False): _page(),
    (True, False): _page(_OF_STATUS),
    (False, True): _page(_OF_TITLE),
    (True, True): _page(_OF_STATUS, _OF_TITLE),
}
"""By whether they are those of a status, and those whose title contains something."""

_FOUND = _page(_OF_TITLE)
_FOUND_BY_ID_TOO = _page(or_(_OF_TITLE, _OF_ID))


def _active(*filters: Any) -> Prepared:
    """Return the statement for how many active sessions there are, and for the one with the newest append.

    It is looked for by its key alone: to sort all that is read of each session took more than twice as long.
    """
    mine = (chat_sessions.c.user_key == USER_KEY, chat_sessions.c.status == "active", *filters)
    count = select(func.count()).select_from(chat_sessions).where(*mine).correlate(None).scalar_subquery()
    appended = func.coalesce(chat_sessions.c.last_append_at, chat_sessions.c.created_at)
    newest = select(chat_sessions.c.key).where(*mine).order_by(appended.desc(), chat_sessions.c.key.desc()).limit(1)
    found = select(count.label("active"), *SESSION_COLUMNS).select_from(WITH_PARENT)
    return Prepared(found.where(chat_sessions.c.key == newest.correlate(None).scalar_subquery()))


_OF_CLIENT = chat_sessions.c.client == bindparam("client")
_OF_WORKSPACE = type_coerce(chat_sessions.c.session_data, JSON)["workspace"].as_string() == bindparam("workspace")
_ACTIVE = {
    (False, False): _active(),
    (True, False): _active(_OF_CLIENT),
    (False, True): _active(_OF_WORKSPACE),
    (True, True): _active(_OF_CLIENT, _OF_WORKSPACE),
}
"""By whether they are those of a client, and of a workspace."""


def get_active(
    connection: Connection, user_id: UserId, client: str | None = None, workspace: str | None = None
) -> ActiveSessionDict:
    """Return the active session with the newest append, and how many other active ones there are; raises NotFound.

    `client` keeps to sessions of one client, `workspace` to those whose session_data names it as `workspace`. A session
    without entries counts from its creation.
    """
    check_user_id(user_id)
    check_filters(client=client, workspace=workspace)
    mine = {"user_id": user_id, "client": client, "workspace": workspace}
    found = one_row_after(connection, SessionDict, _ACTIVE[client is not None, workspace is not None], mine, 1)
    if found is None:
        get_user_key(connection, user_id)
        return {"session": None, "other_active": 0}
    (active,), session = found
    return {"session": session, "other_active": active - 1}


def list_sessions(
    connection: Connection,
    user_id: UserId,
    query: str | None = None,
    status: SessionStatus | None = None,
    limit: int = 20,
    cursor: str | None = None,
) -> SessionPageDict:
    """Return a page of sessions, the last created first; `query` keeps to titles that contain it.

    Raises NotFound where there is no such user.
    """
    check_user_id(user_id)
    check_limit(limit)
    _check_part_of_title("query", query)
    page = _PAGES[status is not None, bool(query)]
    filters = {"status": status, "like": _like(query or "")}
    return _get_page(connection, user_id, page, filters, limit, cursor, "sessions", user_id, query, status)


def find_sessions(
    connection: Connection, user_id: UserId, text: str, limit: int = 20, cursor: str | None = None
) -> SessionPageDict:
    """Return a page of sessions whose id begins with the text or whose title contains it, the last created first."""
    check_user_id(user_id)
    check_limit(limit)
    _check_part_of_title("text", text)
    page, filters = _FOUND, {"like": _like(text)}
    ids = ids_beginning(text)
    if ids is not None:
        page, filters = _FOUND_BY_ID_TOO, filters | {"first_id": ids[0], "last_id": ids[1]}
    return _get_page(connection, user_id, page, filters, limit, cursor, "found", user_id, text)


def _check_part_of_title(name: str, text: str | None) -> None:
    check_filters(**{name: text})
    # SQLite ends a statement whose pattern is very long in an error.
    if text is not None and len(text) > MAX_LINE:
        raise Invalid(f"{name} is longer than the {MAX_LINE} characters of a title: give a part of one.")


def _get_page(
    connection: Connection,
    user_id: UserId,
    page: Prepared,
    filters: dict[str, Any],
    limit: int,
    cursor: str | None,
    *of: str | None,
) -> SessionPageDict:
    parameters = {**filters, "user_id": user_id, "before": read_cursor(cursor, *of) or END}
    sessions, last = page_rows(connection, SessionDict, page, limit, parameters)
    if not sessions:
        get_user_key(connection, user_id)
    return {"sessions": sessions, "next_cursor": None if last is None else make_cursor(last, *of)}


def _like(text: str) -> str:
    """Return the pattern of what contains a text."""
    for each in "/%_":
        text = text.replace(each, f"/{each}")
    return f"%{text}%"
