"""Restoring an archive: its sessions come back under their own ids, entry by entry, with their numbers and times.

What is there already is compared and passed over; a session that has gone on since it was archived, or that the archive
has more of, is continued. A session that says something else than the archive is left as it is, and reported.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select
from sqlalchemy.exc import IntegrityError

from chat_service import tombstones
from chat_service.archive.entries import GivenBlob, Restored, RestoredSession
from chat_service.archive.lines import (
    ArchiveLine,
    BlobLine,
    MessageLine,
    SessionEndLine,
    SessionLine,
    SourceRecordLine,
    ToolUsageLine,
)
from chat_service.events import Event
from chat_service.sessions import check_ids, first_of_key, is_on_record
from chat_service.users import USER_KEY, get_user_key
from chat_service.work import Work
from models.errors import Conflict, Invalid
from models.ids import SessionId, UserId
from models.tables import chat_sessions

_FIND = select(
    chat_sessions.c.key,
    chat_sessions.c.last_seq,
    chat_sessions.c.user_key == USER_KEY,
).where(chat_sessions.c.id == bindparam("session_id"))
Checked = tuple[ArchiveLine, dict[str, Any]]
"""A line, checked, and the values that it was read from: those are what is stored."""


class DeletedHere(Exception):
    """The session was deleted here, or goes on from one that was, and stays out."""


def restore(
    work: Work, user_id: UserId, lines: Sequence[Checked], alike_to: Mapping[str, int], *, brings_back: bool
) -> Restored:
    """Restore lines that follow each other in an archive, those of one session.

    `alike_to` says of sessions that were refused up to which entry they are here as the archive has them.

    Raises Invalid where lines do not follow from what is there, Conflict where that says something else (Differs, where
    it is an entry that does), and DeletedHere, unless with `brings_back`.
    """
    try:
        return _restore(work, user_id, lines, alike_to, brings_back=brings_back)
    except IntegrityError:
        raise Invalid("a session of the archive has something twice that there can be only once.") from None


def _restore(
    work: Work, user_id: UserId, lines: Sequence[Checked], alike_to: Mapping[str, int], *, brings_back: bool
) -> Restored:
    restored = Restored()
    session: RestoredSession | None = None
    given_blobs: dict[str, GivenBlob] = {}
    for line, given in lines:
        if isinstance(line, BlobLine):
            given_blobs[line.sha256] = _blob_of(line)
        elif isinstance(line, SessionLine):
            session = _open(work, user_id, line, restored, alike_to, brings_back=brings_back)
        elif isinstance(line, MessageLine | ToolUsageLine | SourceRecordLine | SessionEndLine):
            if session is None or session.id != line.session_id:
                if session is not None:
                    session.advance()
                session = _find(work, user_id, SessionId(line.session_id))
            session.take(line, given, restored, given_blobs)
    if session is not None:
        session.advance()
    return restored


def _open(
    work: Work,
    user_id: UserId,
    line: SessionLine,
    restored: Restored,
    alike_to: Mapping[str, int],
    *,
    brings_back: bool,
) -> RestoredSession:
    where = {"user_id": user_id, "session_id": line.id}
    found = work.connection.execute(_FIND, where).one_or_none()
    if found is not None and found[2]:
        restored.already_there["session"] += 1
        return _find(work, user_id, SessionId(line.id))
    if not brings_back and _is_deleted(work.connection, user_id, line):
        raise DeletedHere
    if found is not None:
        raise Conflict("a session of the archive cannot be restored under its id.")
    if is_on_record(work.connection, user_id, line.source, line.source_id):
        raise Conflict("the conversation that this session was imported from is on record as another session.")
    if brings_back:
        tombstones.forget_session(work, SessionId(line.id))
        if line.source is not None and line.source_id is not None:
            tombstones.forget_source(work, user_id, line.source, [line.source_id])
    parent_key, first = None, 0
    if line.forked_from is not None:
        parent = _find(work, user_id, SessionId(line.forked_from.session_id))
        parent_key, first = parent.key, line.forked_from.seq
        if first > min(parent.last_seq, alike_to.get(parent.id, first)):
            raise Invalid(f"a fork goes on from entry {first} of a session that is not here as the archive has it.")
    # A key goes along, unless another session has been made with it here.
    key = line.idempotency_key
    keyed = key is not None and first_of_key(work.connection, user_id, key) is None
    row = line.model_dump(exclude={"type", "forked_from"}) | {
        "user_key": get_user_key(work.connection, user_id),
        "idempotency_key": key if keyed else None,
        "digest": bytes.fromhex(line.digest) if keyed and line.digest is not None else None,
        "last_seq": first,
        "forked_from_key": parent_key,
        "forked_from_seq": None if line.forked_from is None else first,
    }
    work.connection.execute(insert(chat_sessions), row)
    work.tell(Event(user_id, SessionId(line.id), "created", 0))
    restored.stored["session"] += 1
    return _find(work, user_id, SessionId(line.id))


def _is_deleted(connection: Connection, user_id: UserId, line: SessionLine) -> bool:
    if tombstones.is_deleted(connection, SessionId(line.id)):
        return True
    of_source = [] if line.source_id is None else [line.source_id]
    if line.source is not None and tombstones.is_source_deleted(connection, user_id, line.source, of_source):
        return True
    if line.forked_from is None:
        return False
    parent_id = SessionId(line.forked_from.session_id)
    where = {"user_id": user_id, "session_id": parent_id}
    return connection.execute(_FIND, where).first() is None and tombstones.is_deleted(connection, parent_id)


def _find(work: Work, user_id: UserId, session_id: SessionId) -> RestoredSession:
    found = work.connection.execute(_FIND, check_ids(user_id, session_id)).one_or_none()
    if found is None:
        raise Invalid("an entry stands in the archive before its session, or a fork before what it was forked from.")
    if not found[2]:
        raise Conflict("a session of the archive cannot be restored under its id.")
    return RestoredSession(work, user_id, session_id, found.key, found.last_seq)


def _blob_of(line: BlobLine) -> GivenBlob:
    try:
        data = base64.b64decode(line.content, validate=True)
    except (binascii.Error, ValueError):
        raise Invalid("a blob of the archive is not base64.") from None
    if hashlib.sha256(data).hexdigest() != line.sha256:
        raise Invalid("a blob of the archive is not what its sha256 says.")
    return GivenBlob(data, line.media_type)
