"""Restoring an archive: its sessions come back under their own ids, entry by entry, with their numbers and times.

What is there already is compared and passed over; a session that has gone on since it was archived, or that the archive
has more of, is continued. A session that says something else than the archive is left as it is, and reported.
"""

import base64
import binascii
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from chat_service import blobs, source_records, tombstones
from chat_service.appends import refer_to_calls
from chat_service.archive.lines import (
    ArchiveLine,
    BlobLine,
    MessageLine,
    SessionEndLine,
    SessionLine,
    SourceRecordLine,
    ToolUsageLine,
)
from chat_service.archive.write import stored_lines
from chat_service.events import Event
from chat_service.sessions import check_ids
from chat_service.tool_payloads import digests_of
from chat_service.users import USER_KEY, get_user_key
from chat_service.work import Work
from models.errors import Conflict, Invalid
from models.ids import SessionId, UserId
from models.inputs import BlobReferencePart
from models.tables import chat_sessions, messages, tool_usages
from models.tables import source_records as raw_records

_FIND = select(
    chat_sessions.c.key,
    chat_sessions.c.last_seq,
    chat_sessions.c.user_key == USER_KEY,
).where(chat_sessions.c.id == bindparam("session_id"))
_OF_SOURCE = select(chat_sessions.c.key).where(
    chat_sessions.c.user_key == USER_KEY,
    chat_sessions.c.source == bindparam("source"),
    chat_sessions.c.source_id == bindparam("source_id"),
)
_OF_KEY = select(chat_sessions.c.key).where(
    chat_sessions.c.user_key == USER_KEY, chat_sessions.c.idempotency_key == bindparam("idempotency_key")
)
_LAST_RECORD = select(func.coalesce(func.max(raw_records.c.number), 0)).where(
    raw_records.c.session_key == bindparam("session_key")
)
_INSERT_MESSAGE = insert(messages)
_INSERT_TOOL_USAGE = insert(tool_usages)
_INSERT_RECORD = insert(raw_records)
_ADVANCE = (
    update(chat_sessions)
    .where(chat_sessions.c.key == bindparam("of_session"))
    .values(
        last_seq=bindparam("to_seq"),
        message_count=chat_sessions.c.message_count + bindparam("new_messages"),
        tool_usage_count=chat_sessions.c.tool_usage_count + bindparam("new_tool_usages"),
    )
)

Checked = tuple[ArchiveLine, dict[str, Any]]
"""A line, checked, and the values that it was read from: those are what is stored."""


@dataclass(slots=True)
class Restored:
    """What became of a batch of lines, counted by type, and the seq of the last entry among them."""

    stored: Counter[str] = field(default_factory=Counter)
    already_there: Counter[str] = field(default_factory=Counter)
    last_seq: int = 0


class DeletedHere(Exception):
    """The session was deleted here, or goes on from one that was, and stays out."""


class Differs(Conflict):
    """The session says something else than the archive, from the entry `seq` on."""

    def __init__(self, seq: int) -> None:
        super().__init__(f"entry {seq} of the session is another one by now: it was left as it is.")
        self.seq = seq


def restore(
    work: Work,
    user_id: UserId,
    lines: Sequence[Checked],
    alike_to: Mapping[str, int] = MappingProxyType({}),
    *,
    brings_back: bool = False,
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
    session: _Session | None = None
    given_blobs: set[str] = set()
    for line, given in lines:
        if isinstance(line, BlobLine):
            given_blobs.add(_restore_blob(work.connection, line))
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


class _Session:
    """A session that is being restored, as far as it is there."""

    def __init__(self, work: Work, user_id: UserId, session_id: SessionId, key: int, last_seq: int) -> None:
        self.id = session_id
        self._work = work
        self._user_id = user_id
        self.key = key
        self._before = last_seq
        self.last_seq = last_seq
        self._last_record: int | None = None
        self._added: Counter[str] = Counter()
        self._there: dict[int, dict[str, Any]] = {}

    def take(
        self,
        line: MessageLine | ToolUsageLine | SourceRecordLine | SessionEndLine,
        given: dict[str, Any],
        restored: Restored,
        given_blobs: Set[str],
    ) -> None:
        """Restore one line; the blobs that stood before it are those that it may name."""
        if isinstance(line, SessionEndLine):
            self._end(line)
        elif isinstance(line, SourceRecordLine):
            self._take_record(line, restored)
        elif line.seq <= self._before:
            if self._stored(line.seq) != given:
                raise Differs(line.seq)
            restored.already_there[line.type] += 1
            restored.last_seq = line.seq
        elif line.seq != self.last_seq + 1:
            raise Invalid(f"entry {line.seq} of a session does not follow: entry {self.last_seq + 1} is missing.")
        else:
            self._append(line, given, given_blobs)
            self.last_seq = restored.last_seq = line.seq
            restored.stored[line.type] += 1

    def advance(self) -> None:
        """Let the session end where its last entry is."""
        if self.last_seq == self._before:
            return
        self._work.connection.execute(
            _ADVANCE,
            {
                "of_session": self.key,
                "to_seq": self.last_seq,
                "new_messages": self._added["message"],
                "new_tool_usages": self._added["tool_usage"],
            },
        )
        self._work.tell(Event(self._user_id, self.id, "appended", self.last_seq))

    def _stored(self, seq: int) -> dict[str, Any] | None:
        if seq not in self._there:
            rows = stored_lines(self._work.connection, self.id, self.key, seq - 1, min(seq + 49, self._before))
            self._there = {row["seq"]: row for row in rows}
        return self._there.get(seq)

    def _append(self, line: MessageLine | ToolUsageLine, given: dict[str, Any], given_blobs: Set[str]) -> None:
        connection = self._work.connection
        digest = None if line.digest is None else bytes.fromhex(line.digest)
        table = messages if isinstance(line, MessageLine) else tool_usages
        row = {column.name: given.get(column.name) for column in table.c if column.name != "key"}
        row |= {"session_key": self.key, "digest": digest}
        self._added[line.type] += 1
        if isinstance(line, ToolUsageLine):
            connection.execute(_INSERT_TOOL_USAGE, row)
            digests = [digest for digest in digests_of(line.result) if self._may_name(digest, given_blobs)]
            blobs.refer_to(connection, self.key, line.seq, digests)
            return
        for part in line.parts or ():
            if isinstance(part, BlobReferencePart) and not self._may_name(part.sha256, given_blobs):
                raise Invalid(f"entry {line.seq} refers to a blob that does not stand before it in the archive.")
        connection.execute(_INSERT_MESSAGE, row)
        blobs.refer(self._work, self.key, line.seq, line.parts or ())
        refer_to_calls(connection, self.key, line.seq, line.parts or ())

    def _may_name(self, sha256: str, given_blobs: Set[str]) -> bool:
        # Who only knows the digest of what somebody else has stored is not shown it.
        return sha256 in given_blobs or blobs.is_of_user(self._work.connection, self._user_id, sha256)

    def _take_record(self, line: SourceRecordLine, restored: Restored) -> None:
        if self._last_record is None:
            where = {"session_key": self.key}
            self._last_record = int(self._work.connection.execute(_LAST_RECORD, where).scalar_one())
        if line.number <= self._last_record:
            restored.already_there[line.type] += 1
            return
        if line.number != self._last_record + 1:
            raise Invalid(f"source record {line.number} of a session does not follow the one before it.")
        row = line.model_dump(exclude={"type", "session_id", "content"}) | {
            "session_key": self.key,
            "digest": source_records.digest_of_raw(line.content),
            "data": source_records.pack(line.content),
        }
        self._work.connection.execute(_INSERT_RECORD, row)
        self._last_record = line.number
        restored.stored[line.type] += 1

    def _end(self, line: SessionEndLine) -> None:
        if line.entries > self.last_seq:
            raise Invalid("a session ends before its last entry: the archive is not whole.")


def _open(
    work: Work,
    user_id: UserId,
    line: SessionLine,
    restored: Restored,
    alike_to: Mapping[str, int],
    *,
    brings_back: bool,
) -> _Session:
    where = {"user_id": user_id, "session_id": line.id}
    found = work.connection.execute(_FIND, where).one_or_none()
    if found is not None and found[2]:
        restored.already_there["session"] += 1
        return _find(work, user_id, SessionId(line.id))
    if not brings_back and _is_deleted(work.connection, user_id, line):
        raise DeletedHere
    if found is not None:
        raise Conflict("a session of the archive cannot be restored under its id.")
    if line.source is not None:
        of_source = {"user_id": user_id, "source": line.source, "source_id": line.source_id}
        if work.connection.execute(_OF_SOURCE, of_source).first() is not None:
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
    by_key = {"user_id": user_id, "idempotency_key": line.idempotency_key}
    # A key goes along, unless another session has been made with it here.
    keyed = line.idempotency_key is not None and work.connection.execute(_OF_KEY, by_key).first() is None
    row = line.model_dump(exclude={"type", "forked_from"}) | {
        "user_key": get_user_key(work.connection, user_id),
        "idempotency_key": line.idempotency_key if keyed else None,
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


def _find(work: Work, user_id: UserId, session_id: SessionId) -> _Session:
    found = work.connection.execute(_FIND, check_ids(user_id, session_id)).one_or_none()
    if found is None:
        raise Invalid("an entry stands in the archive before its session, or a fork before what it was forked from.")
    if not found[2]:
        raise Conflict("a session of the archive cannot be restored under its id.")
    return _Session(work, user_id, session_id, found.key, found.last_seq)


def _restore_blob(connection: Connection, line: BlobLine) -> str:
    try:
        data = base64.b64decode(line.content, validate=True)
    except (binascii.Error, ValueError):
        raise Invalid("a blob of the archive is not base64.") from None
    if hashlib.sha256(data).hexdigest() != line.sha256:
        raise Invalid("a blob of the archive is not what its sha256 says.")
    return blobs.keep_bytes(connection, data, line.media_type)
