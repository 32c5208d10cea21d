"""Chat sessions: created, found, listed, changed, deleted, each for its owner alone."""

import hashlib

from pydantic import BaseModel
from sqlalchemy import (
    JSON,
    Connection,
    and_,
    bindparam,
    delete,
    func,
    insert,
    select,
    type_coerce,
    update,
)

from chat_service import blobs
from chat_service.events import Event
from chat_service.paging import check_filters, check_limit, make_cursor, read_cursor
from chat_service.users import USER_KEY, check_user_id, get_user_key
from chat_service.work import Work
from models.errors import Conflict, Invalid, NotFound
from models.ids import SessionId, UserId, is_id, new_id
from models.inputs import NewSession, SessionChanges, SessionStatus
from models.prepared import Prepared
from models.rows import columns, one_row, page_rows
from models.shapes import ActiveSessionDict, DeletedDict, SessionDict, SessionPageDict
from models.tables import PublicId, chat_sessions
from models.text import to_canonical_json

OWNED = and_(chat_sessions.c.id == bindparam("session_id"), chat_sessions.c.user_key == USER_KEY)
"""The one place where ownership is decided: this session, if the acting user's; parameters session_id, user_id."""

ACTING_USER = bindparam("user_id", type_=PublicId)
_COLUMNS = columns(SessionDict, chat_sessions, user_id=ACTING_USER)
_GET = Prepared(select(*_COLUMNS).where(OWNED))
_GET_KEY = Prepared(select(chat_sessions.c.key).where(OWNED))
_BY_IDEMPOTENCY_KEY = select(chat_sessions.c.digest, chat_sessions.c.id).where(
    chat_sessions.c.user_key == USER_KEY, chat_sessions.c.idempotency_key == bindparam("idempotency_key")
)


def digest_of(value: BaseModel) -> bytes:
    """Return a digest of what an input says, its idempotency key and everything left at its default aside."""
    said = value.model_dump(mode="json", exclude={"idempotency_key"}, exclude_defaults=True)
    return hashlib.blake2b(to_canonical_json(said).encode(), digest_size=16).digest()


def check_ids(user_id: UserId, session_id: SessionId) -> dict[str, str]:
    """Return both ids as the parameters of `OWNED`; raises Invalid where one cannot be an id."""
    check_user_id(user_id)
    if not is_id(session_id):
        raise Invalid("session_id is not a session's id: use the id that start_session or list_sessions gave.")
    return {"user_id": user_id, "session_id": session_id}


def not_found() -> NotFound:
    """Return the one answer for a session that does not exist and one that is not yours."""
    return NotFound("You have no session with this session_id: list_sessions shows those you have.")


def get_session(connection: Connection, user_id: UserId, session_id: SessionId) -> SessionDict:
    """Return the session; raises NotFound."""
    session = one_row(connection, SessionDict, _GET, check_ids(user_id, session_id))
    if session is None:
        raise not_found()
    return session


def get_key(connection: Connection, user_id: UserId, session_id: SessionId) -> int:
    """Return the integer key of an owned session; raises NotFound."""
    found = _GET_KEY.first(connection, check_ids(user_id, session_id))
    if found is None:
        raise not_found()
    key: int = found[0]
    return key


def create(work: Work, user_id: UserId, new_session: NewSession) -> SessionDict:
    """Create a session and return it; with an idempotency key that was used before, return the first one.

    Raises Conflict where the key was used for another session's data, or the source is already on record.
    """
    work.limits.check_metadata("metadata", new_session.session_data)
    user_key = get_user_key(work.connection, user_id)
    digest = None
    if new_session.idempotency_key is not None:
        digest = digest_of(new_session)
        first = work.connection.execute(
            _BY_IDEMPOTENCY_KEY, {"user_id": user_id, "idempotency_key": new_session.idempotency_key}
        ).one_or_none()
        if first is not None:
            if first.digest != digest:
                raise Conflict("idempotency_key was used for a session with other data: take a new key.")
            return get_session(work.connection, user_id, SessionId(first.id))
    if new_session.source is not None:
        _refuse_known_source(work.connection, user_id, new_session)
    session_id = SessionId(new_id())
    values = new_session.model_dump() | {
        "id": session_id,
        "status": "active",
        "digest": digest,
        "created_at": work.now,
        "user_key": user_key,
    }
    work.connection.execute(insert(chat_sessions), values)
    work.tell(Event(user_id, session_id, "created", 0))
    return get_session(work.connection, user_id, session_id)


def get_active(
    connection: Connection, user_id: UserId, client: str | None = None, workspace: str | None = None
) -> ActiveSessionDict:
    """Return the active session with the newest append, and how many other active ones there are.

    `client` keeps to sessions of one client, `workspace` to those whose session_data names it as `workspace`. A session
    without entries counts from its creation.
    """
    check_user_id(user_id)
    check_filters(client=client, workspace=workspace)
    mine = [chat_sessions.c.user_key == USER_KEY, chat_sessions.c.status == "active"]
    if client is not None:
        mine.append(chat_sessions.c.client == client)
    if workspace is not None:
        mine.append(type_coerce(chat_sessions.c.session_data, JSON)["workspace"].as_string() == workspace)
    newest = (
        select(*_COLUMNS)
        .where(*mine)
        .order_by(
            func.coalesce(chat_sessions.c.last_append_at, chat_sessions.c.created_at).desc(), chat_sessions.c.key.desc()
        )
        .limit(1)
    )
    session = one_row(connection, SessionDict, newest, {"user_id": user_id})
    active = connection.execute(select(func.count()).select_from(chat_sessions).where(*mine), {"user_id": user_id})
    return {"session": session, "other_active": max(0, active.scalar_one() - 1)}


def list_sessions(
    connection: Connection,
    user_id: UserId,
    query: str | None = None,
    status: SessionStatus | None = None,
    limit: int = 20,
    cursor: str | None = None,
) -> SessionPageDict:
    """Return a page of sessions, the last created first; `query` keeps to titles that contain it."""
    check_user_id(user_id)
    check_limit(limit)
    check_filters(query=query)
    of = ("sessions", user_id, query, status)
    before = read_cursor(cursor, *of)
    page = (
        select(chat_sessions.c.key, *_COLUMNS)
        .order_by(chat_sessions.c.key.desc())
        .where(chat_sessions.c.user_key == USER_KEY)
    )
    if status is not None:
        page = page.where(chat_sessions.c.status == status)
    if query:
        page = page.where(chat_sessions.c.title.icontains(query, autoescape=True))
    if before is not None:
        page = page.where(chat_sessions.c.key < before)
    sessions, last = page_rows(connection, SessionDict, page, limit, {"user_id": user_id})
    return {"sessions": sessions, "next_cursor": None if last is None else make_cursor(last, *of)}


def update_session(work: Work, user_id: UserId, session_id: SessionId, changes: SessionChanges) -> SessionDict:
    """Change what is given and return the session; raises NotFound."""
    work.limits.check_metadata("metadata", changes.session_data)
    get_key(work.connection, user_id, session_id)
    values = changes.model_dump(exclude_unset=True)
    if "status" in values and values["status"] is None:
        raise Invalid("status cannot be cleared: it is active or archived.")
    if values:
        parameters = check_ids(user_id, session_id)
        work.connection.execute(update(chat_sessions).where(OWNED).values(values), parameters)
        work.tell(Event(user_id, session_id, "updated"))
    return get_session(work.connection, user_id, session_id)


def delete_session(work: Work, user_id: UserId, session_id: SessionId) -> DeletedDict:
    """Delete the session with all its entries, and return the receipt; raises NotFound."""
    session = get_session(work.connection, user_id, session_id)
    parameters = check_ids(user_id, session_id)
    blob_keys = blobs.referred_to(work.connection, [get_key(work.connection, user_id, session_id)])
    work.connection.execute(delete(chat_sessions).where(OWNED), parameters)
    blobs.remove_unreferenced(work.connection, blob_keys)
    work.tell(Event(user_id, session_id, "deleted"))
    return {
        "deleted": session_id,
        "sessions": 1,
        "messages": session["message_count"],
        "tool_usages": session["tool_usage_count"],
    }


def _refuse_known_source(connection: Connection, user_id: UserId, new_session: NewSession) -> None:
    known = select(chat_sessions.c.key).where(
        chat_sessions.c.user_key == USER_KEY,
        chat_sessions.c.source == new_session.source,
        chat_sessions.c.source_id == new_session.source_id,
    )
    if connection.execute(known, {"user_id": user_id}).first() is not None:
        raise Conflict("source and source_id are on record already: append to that session.")
