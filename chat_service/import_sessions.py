"""The sessions of an import: found by where they came from, made when something was said, and kept in step.

A conversation's main line is the session of its source and source id; a branch is one more, whose source id goes on
with the branch's own id.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, or_, select, update

from chat_service import sessions, source_records
from chat_service.sessions import OWNED, check_ids
from chat_service.transcripts.neutral import Branch, Conversation, Record
from chat_service.users import USER_KEY
from chat_service.work import Work
from models.errors import Conflict
from models.ids import SessionId, UserId, to_timestamp
from models.inputs import NewSession
from models.tables import chat_sessions

IMPORTED_TITLE = "imported_title"
"""The title that the import gave a session; where a person has changed it since, it stays."""

_COLUMNS = (
    chat_sessions.c.id,
    chat_sessions.c.key,
    chat_sessions.c.source,
    chat_sessions.c.source_id,
    chat_sessions.c.title,
    chat_sessions.c.status,
    chat_sessions.c.session_data,
    chat_sessions.c.last_append_at,
)
_OF_CONVERSATION = (
    select(*_COLUMNS)
    .where(
        chat_sessions.c.user_key == USER_KEY,
        chat_sessions.c.source == bindparam("source"),
        # All that begin with the conversation's id and a slash: "0" comes after "/".
        or_(
            chat_sessions.c.source_id == bindparam("source_id"),
            (chat_sessions.c.source_id > bindparam("source_id") + "/")
            & (chat_sessions.c.source_id < bindparam("source_id") + "0"),
        ),
    )
    .order_by(chat_sessions.c.key)
)
_BY_ID = select(*_COLUMNS).where(OWNED)
_CHANGE = update(chat_sessions).where(chat_sessions.c.key == bindparam("of_session"))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where records come from, and the session that the main line goes on in, where it has none of its own yet."""

    source: str
    into: SessionId | None = None


@dataclass(frozen=True, slots=True)
class ImportSession:
    """A session that an import appends to; `branch_id` is None for the main line of its conversation."""

    id: SessionId
    key: int
    branch_id: str | None
    title: str | None
    status: str
    session_data: dict[str, Any]
    last_append_at: str | None


def of_conversation(
    connection: Connection, user_id: UserId, origin: Origin, conversation: Conversation
) -> list[ImportSession]:
    """Return the sessions that a conversation has already, the first made first."""
    where = {"user_id": user_id, "source": origin.source, "source_id": conversation.source_id}
    return [_session(row, conversation) for row in connection.execute(_OF_CONVERSATION, where)]


def make(
    work: Work,
    user_id: UserId,
    origin: Origin,
    conversation: Conversation,
    branch: Branch | None,
    known: dict[str | None, ImportSession],
    records: Sequence[Record],
) -> ImportSession:
    """Make the session of a conversation's main line, or of a branch of it, and add it to those that are known."""
    if branch is None:
        if origin.into is not None:
            session_id = _adopt(work, user_id, origin.into, origin.source, conversation)
        else:
            new_session = _new_session(origin, conversation, conversation.source_id, conversation.title)
            session_id = SessionId(sessions.create(work, user_id, new_session)["id"])
    else:
        parent = known.get(branch.parent) or known.get(None)
        if parent is None:
            parent = make(work, user_id, origin, conversation, None, known, [])
        moment = next((record.moment for record in records if record.moment is not None), None)
        seq = source_records.seq_after(
            work.connection, parent.key, branch.after, None if moment is None else to_timestamp(moment)
        )
        title = None if conversation.title is None else f"{conversation.title[:490]} (branch)"
        new_session = _new_session(origin, conversation, f"{conversation.source_id}/{branch.id}", title)
        session_id = open_branch(work, user_id, parent.id, seq, new_session)
    row = work.connection.execute(_BY_ID, check_ids(user_id, session_id)).one()
    made = known[None if branch is None else branch.id] = _session(row, conversation)
    return made


def open_branch(work: Work, user_id: UserId, parent: SessionId, at_seq: int, new_session: NewSession) -> SessionId:
    """Open a session that leaves another one after a seq, and return its id; its session_data names both."""
    branch_of = {"branch_of": {"session_id": parent, "seq": at_seq}}
    given = new_session.model_copy(update={"session_data": (new_session.session_data or {}) | branch_of})
    return SessionId(sessions.create(work, user_id, given)["id"])


def touch(
    work: Work, user_id: UserId, session: ImportSession, conversation: Conversation, records: Sequence[Record]
) -> None:
    """Let a session be as old as what was said in it, and have the title that its source gives it by now."""
    moments = [to_timestamp(record.moment) for record in records if record.moment is not None]
    last = max([*moments, *filter(None, [session.last_append_at])], default=None)
    values: dict[str, Any] = {}
    if last is not None:
        values["last_append_at"] = min(last, work.now)
    imported = session.session_data.get(IMPORTED_TITLE)
    if session.branch_id is None and conversation.title not in (None, imported) and session.title == imported:
        values["title"] = conversation.title
        values["session_data"] = session.session_data | {IMPORTED_TITLE: conversation.title}
    if values:
        work.connection.execute(_CHANGE.values(values), {"of_session": session.key})


def _session(row: Any, conversation: Conversation) -> ImportSession:
    branch_id = row.source_id.removeprefix(conversation.source_id).removeprefix("/") or None
    data = row.session_data if isinstance(row.session_data, dict) else {}
    return ImportSession(SessionId(row.id), row.key, branch_id, row.title, row.status, data, row.last_append_at)


def _new_session(origin: Origin, conversation: Conversation, source_id: str, title: str | None) -> NewSession:
    data = {"workspace": conversation.workspace, IMPORTED_TITLE: title}
    return NewSession(
        title=title,
        session_data={name: value for name, value in data.items() if value is not None} or None,
        client=origin.source,
        source=origin.source,
        source_id=source_id,
    )


def _adopt(work: Work, user_id: UserId, session_id: SessionId, source: str, conversation: Conversation) -> SessionId:
    session = sessions.get_session(work.connection, user_id, session_id)
    if session["source"] is not None:
        raise Conflict("The session to import into is that of another conversation: name one without a source.")
    values = {"source": source, "source_id": conversation.source_id}
    work.connection.execute(update(chat_sessions).where(OWNED).values(values), check_ids(user_id, session_id))
    return session_id
