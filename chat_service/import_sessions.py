"""The sessions of an import: found by where they came from, made when something was said, and kept in step.

A conversation's main line is the session of its source and source id; a branch is one more, whose source id goes on
with the branch's own id. A branch that was left by going back is a fork: it has what was said before as its parent has
it, and stores what it says itself. A subagent's conversation begins anew and saw nothing of the other: a fork that
inherits nothing, whose session_data says in `branch_of` where it was sent from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, or_, select, update

from chat_service import forks, sessions, source_records, tombstones
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
    chat_sessions.c.forked_from_seq,
    chat_sessions.c.merged_into,
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
    """Where records come from, and the session that the main line goes on in, where it has none of its own yet.

    With `brings_back` also what was deleted here is imported.
    """

    source: str
    into: SessionId | None = None
    brings_back: bool = False


@dataclass(frozen=True, slots=True)
class ImportSession:
    """A session that an import appends to; `branch_id` is None for the main line of its conversation.

    `inherited` is the last seq that it has from another one.
    """

    id: SessionId
    key: int
    branch_id: str | None
    title: str | None
    status: str
    session_data: dict[str, Any]
    last_append_at: str | None
    inherited: int
    is_merged: bool


def of_conversation(
    connection: Connection, user_id: UserId, origin: Origin, conversation: Conversation
) -> list[ImportSession]:
    """Return the sessions that a conversation has already, the first made first."""
    where = {"user_id": user_id, "source": origin.source, "source_id": conversation.source_id}
    return [_session(row, conversation) for row in connection.execute(_OF_CONVERSATION, where)]


def is_deleted(
    connection: Connection,
    user_id: UserId,
    origin: Origin,
    conversation: Conversation,
    branch_id: str | None,
    known: Mapping[str | None, ImportSession],
) -> bool:
    """Tell whether the session of a main line or a branch stays out, as it or the main line was deleted here."""
    if branch_id in known or origin.brings_back:
        return False
    source_ids = _source_ids(conversation, branch_id)
    wanted = source_ids[-1:] if None in known else source_ids
    return tombstones.is_source_deleted(connection, user_id, origin.source, wanted)


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
        parent = _parent(work, user_id, origin, conversation, branch, known)
        seq = _leaves_at(work.connection, parent, branch, records)
        title = None if conversation.title is None else f"{conversation.title[:490]} (branch)"
        new_session = _new_session(origin, conversation, f"{conversation.source_id}/{branch.id}", title)
        session_id = _open_branch(work, user_id, parent, seq, new_session, begins_anew=branch.begins_anew)
    if origin.brings_back:
        source_ids = _source_ids(conversation, None if branch is None else branch.id)
        tombstones.forget_source(work, user_id, origin.source, source_ids)
    row = work.connection.execute(_BY_ID, check_ids(user_id, session_id)).one()
    made = known[None if branch is None else branch.id] = _session(row, conversation)
    return made


def is_placed(connection: Connection, branch: Branch, known: dict[str | None, ImportSession]) -> bool:
    """Tell whether it is on record where a branch leaves the session that it belongs to."""
    if branch.begins_anew or branch.after is None:
        return True
    parent = known.get(branch.parent)
    return parent is not None and bool(source_records.known(connection, [parent.key], [branch.after]))


def _parent(
    work: Work,
    user_id: UserId,
    origin: Origin,
    conversation: Conversation,
    branch: Branch,
    known: dict[str | None, ImportSession],
) -> ImportSession:
    parent = known.get(branch.parent) or known.get(None)
    return make(work, user_id, origin, conversation, None, known, []) if parent is None else parent


def _leaves_at(connection: Connection, parent: ImportSession, branch: Branch, records: Sequence[Record]) -> int:
    """Return the last seq before a branch: after the record that it follows, else at the moment when it begins."""
    after = branch.after
    if after is not None and not source_records.known(connection, [parent.key], [after]):
        after = None
    moment = next((record.moment for record in records if record.moment is not None), None)
    seq = source_records.seq_after(connection, parent.key, after, None if moment is None else to_timestamp(moment))
    return max(seq, parent.inherited)


def _open_branch(
    work: Work, user_id: UserId, parent: ImportSession, at_seq: int, new_session: NewSession, *, begins_anew: bool
) -> SessionId:
    """Open the session of a branch, and return its id."""
    branch_of = {"branch_of": {"session_id": parent.id, "seq": at_seq}}
    noted = new_session.model_copy(update={"session_data": (new_session.session_data or {}) | branch_of})
    if parent.is_merged:
        # Its entries have gone to another session, under other numbers: there is nothing to inherit.
        return SessionId(sessions.create(work, user_id, noted)["id"])
    fork_seq, given = (0, noted) if begins_anew else (at_seq, new_session)
    fork_id = SessionId(forks.fork_session(work, user_id, parent.id, fork_seq)["id"])
    work.connection.execute(
        update(chat_sessions).where(OWNED).values(given.model_dump(exclude={"idempotency_key"})),
        check_ids(user_id, fork_id),
    )
    return fork_id


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


def _source_ids(conversation: Conversation, branch_id: str | None) -> list[str]:
    """Return the source ids of the main line and, where it is about one, of a branch."""
    main = conversation.source_id
    return [main] if branch_id is None else [main, f"{main}/{branch_id}"]


def _session(row: Any, conversation: Conversation) -> ImportSession:
    branch_id = row.source_id.removeprefix(conversation.source_id).removeprefix("/") or None
    data = row.session_data if isinstance(row.session_data, dict) else {}
    return ImportSession(
        SessionId(row.id),
        row.key,
        branch_id,
        row.title,
        row.status,
        data,
        row.last_append_at,
        row.forked_from_seq or 0,
        row.merged_into is not None,
    )


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
