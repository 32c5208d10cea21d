"""Chat sessions: created, read, changed, each for its owner alone."""

import hashlib
from typing import Any, NamedTuple

from pydantic import BaseModel
from sqlalchemy import (
    Connection,
    and_,
    bindparam,
    case,
    func,
    select,
    update,
)

from chat_service.events import Event
from chat_service.users import USER_KEY, check_user_id, get_user_key
from chat_service.work import Work
from models.errors import Conflict, Invalid, NotFound
from models.ids import SessionId, UserId, is_id, new_id
from models.inputs import NewSession, SessionChanges
from models.prepared import Prepared, PreparedInsert
from models.rows import columns, one_row_after
from models.shapes import SessionDict
from models.tables import PublicId, chat_sessions
from models.text import to_canonical_json

OWNED = and_(chat_sessions.c.id == bindparam("session_id"), chat_sessions.c.user_key == USER_KEY)
"""The one place where ownership is decided: this session, if the acting user's; parameters session_id, user_id."""

ACTING_USER = bindparam("user_id", type_=PublicId)
_parents = chat_sessions.alias("parents")
# A parent that is being deleted has another owner, and is not named any more.
WITH_PARENT = chat_sessions.outerjoin(
    _parents,
    and_(_parents.c.key == chat_sessions.c.forked_from_key, _parents.c.user_key == chat_sessions.c.user_key),
)
SESSION_COLUMNS = columns(
    SessionDict,
    chat_sessions,
    user_id=ACTING_USER,
    forked_from=_parents.c.id,
    forked_from_seq=case((_parents.c.key.is_not(None), chat_sessions.c.forked_from_seq)),
)
TIMELINE = (chat_sessions.c.key, func.coalesce(chat_sessions.c.forked_from_seq, 0))
_GET = Prepared(select(*TIMELINE, *SESSION_COLUMNS).select_from(WITH_PARENT).where(OWNED))
_GET_TIMELINE = Prepared(select(*TIMELINE).where(OWNED))
_INSERT = PreparedInsert(chat_sessions)
_BY_IDEMPOTENCY_KEY = select(chat_sessions.c.digest, chat_sessions.c.id).where(
    chat_sessions.c.user_key == USER_KEY, chat_sessions.c.idempotency_key == bindparam("idempotency_key")
)
_BY_SOURCE = select(chat_sessions.c.key).where(
    chat_sessions.c.user_key == USER_KEY,
    chat_sessions.c.source == bindparam("source"),
    chat_sessions.c.source_id == bindparam("source_id"),
)


class Timeline(NamedTuple):
    """Where a session's entries are: under its own key, but for the first ones that it inherits, 0 where it is no fork.

    Rooms that read entries take it from `get_timeline`, which has seen that the session is the acting user's.
    """

    session_key: int
    inherited: int


def digest_of(value: BaseModel) -> bytes:
    """Return a digest of what an input says, its idempotency key and everything left at its default aside."""
    said = value.model_dump(mode="json", exclude={"idempotency_key"}, exclude_defaults=True)
    return hashlib.blake2b(to_canonical_json(said).encode(), digest_size=16).digest()


def check_ids(user_id: UserId, session_id: SessionId, name: str = "session_id") -> dict[str, str]:
    """Return both ids as the parameters of `OWNED`; raises Invalid, with the argument's name, where one is no id."""
    check_user_id(user_id)
    if not is_id(session_id):
        raise Invalid(f"{name} is not a session's id: use the id that start_session or list_sessions gave.")
    return {"user_id": user_id, "session_id": session_id}


def not_found(name: str = "session_id") -> NotFound:
    """Return the one answer for a session that does not exist and one that is not yours."""
    return NotFound(f"You have no session with this {name}: list_sessions shows those you have.")


def get_session(connection: Connection, user_id: UserId, session_id: SessionId) -> SessionDict:
    """Return the session; raises NotFound."""
    return find_session(connection, user_id, session_id)[0]


def find_session(
    connection: Connection, user_id: UserId, session_id: SessionId, name: str = "session_id"
) -> tuple[SessionDict, Timeline]:
    """Return the session and where its entries are; raises NotFound, and names the argument."""
    found = one_row_after(connection, SessionDict, _GET, check_ids(user_id, session_id, name), len(TIMELINE))
    if found is None:
        raise not_found(name)
    return found[1], Timeline(*found[0])


def get_timeline(connection: Connection, user_id: UserId, session_id: SessionId) -> Timeline:
    """Return where the entries of an owned session are; raises NotFound."""
    row = _GET_TIMELINE.first(connection, check_ids(user_id, session_id))
    if row is None:
        raise not_found()
    return Timeline(*row)


def create(work: Work, user_id: UserId, new_session: NewSession) -> SessionDict:
    """Create a session and return it; with an idempotency key that was used before, return the first one.

    Raises Conflict where the key was used for another session's data, or the source is already on record.
    """
    work.limits.check_metadata("metadata", new_session.session_data)
    user_key = get_user_key(work.connection, user_id)
    digest = None
    if new_session.idempotency_key is not None:
        digest = digest_of(new_session)
        first = first_of_key(work.connection, user_id, new_session.idempotency_key)
        if first is not None:
            if first.digest != digest:
                raise Conflict("idempotency_key was used for a session with other data: take a new key.")
            return get_session(work.connection, user_id, SessionId(first.id))
    if is_on_record(work.connection, user_id, new_session.source, new_session.source_id):
        raise Conflict("source and source_id are on record already: append to that session.")
    session_id = SessionId(new_id())
    values = new_session.model_dump() | {
        "id": session_id,
        "status": "active",
        "digest": digest,
        "created_at": work.now,
        "user_key": user_key,
    }
    _INSERT.run(work.connection, values)
    work.tell(Event(user_id, session_id, "created", 0))
    return get_session(work.connection, user_id, session_id)


def first_of_key(connection: Connection, user_id: UserId, idempotency_key: str) -> Any:
    """Return the id and the digest of the user's session that was made with this key, or None."""
    parameters = {"user_id": user_id, "idempotency_key": idempotency_key}
    return connection.execute(_BY_IDEMPOTENCY_KEY, parameters).one_or_none()


def is_on_record(connection: Connection, user_id: UserId, source: str | None, source_id: str | None) -> bool:
    """Tell whether the user has a session that was imported from there, which none was that has no source."""
    parameters = {"user_id": user_id, "source": source, "source_id": source_id}
    return source is not None and connection.execute(_BY_SOURCE, parameters).first() is not None


def update_session(work: Work, user_id: UserId, session_id: SessionId, changes: SessionChanges) -> SessionDict:
    """Change what is given and return the session; raises NotFound, and Conflict where a merged one is to be active."""
    work.limits.check_metadata("metadata", changes.session_data)
    session = get_session(work.connection, user_id, session_id)
    values = changes.model_dump(exclude_unset=True)
    if "status" in values and values["status"] is None:
        raise Invalid("status cannot be cleared: it is active or archived.")
    if values.get("status") == "active":
        refuse_merged(session)
    if values:
        parameters = check_ids(user_id, session_id)
        work.connection.execute(update(chat_sessions).where(OWNED).values(values), parameters)
        work.tell(Event(user_id, session_id, "updated"))
    return get_session(work.connection, user_id, session_id)


def refuse_merged(session: SessionDict) -> None:
    """Raise Conflict, naming the other, where a session's entries have gone to another session."""
    if session["merged_into"] is not None:
        raise Conflict(f"The session was merged into {session['merged_into']}: use that one, it has all entries.")
