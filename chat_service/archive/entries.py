"""The entries of a session that is restored: compared with what is there, or appended under their own numbers."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import bindparam, insert, update

from chat_service import blobs, source_records
from chat_service.appends import refer_to_calls
from chat_service.archive.lines import MessageLine, SessionEndLine, SourceRecordLine, ToolUsageLine
from chat_service.archive.write import stored_lines
from chat_service.events import Event
from chat_service.tool_payloads import digests_of
from chat_service.work import Work
from models.errors import Conflict, Invalid
from models.ids import SessionId, UserId
from models.inputs import BlobReferencePart
from models.tables import chat_sessions, messages, tool_usages
from models.tables import source_records as raw_records

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


@dataclass(slots=True)
class Restored:
    """What became of a batch of lines, counted by type, and the seq of the last entry among them."""

    stored: Counter[str] = field(default_factory=Counter)
    already_there: Counter[str] = field(default_factory=Counter)
    last_seq: int = 0


class Differs(Conflict):
    """The session says something else than the archive, from the entry `seq` on."""

    def __init__(self, seq: int) -> None:
        super().__init__(f"entry {seq} of the session is another one by now: it was left as it is.")
        self.seq = seq


class GivenBlob(NamedTuple):
    """Bytes that stand in the archive before an entry that refers to them; kept once one does."""

    data: bytes
    media_type: str | None


class RestoredSession:
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
        given_blobs: Mapping[str, GivenBlob],
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

    def _append(
        self, line: MessageLine | ToolUsageLine, given: dict[str, Any], given_blobs: Mapping[str, GivenBlob]
    ) -> None:
        connection = self._work.connection
        digest = None if line.digest is None else bytes.fromhex(line.digest)
        table = messages if isinstance(line, MessageLine) else tool_usages
        row = {column.name: given.get(column.name) for column in table.c if column.name != "key"}
        row |= {"session_key": self.key, "digest": digest}
        self._added[line.type] += 1
        if isinstance(line, ToolUsageLine):
            connection.execute(_INSERT_TOOL_USAGE, row)
            digests = [sha256 for sha256 in digests_of(line.result) if self._is_kept(sha256, given_blobs)]
            blobs.refer_to(connection, self.key, line.seq, digests)
            return
        for part in line.parts or ():
            if isinstance(part, BlobReferencePart) and not self._is_kept(part.sha256, given_blobs):
                raise Invalid(f"entry {line.seq} refers to a blob that does not stand before it in the archive.")
        connection.execute(_INSERT_MESSAGE, row)
        blobs.refer(self._work, self.key, line.seq, line.parts or ())
        refer_to_calls(connection, self.key, line.seq, line.parts or ())

    def _is_kept(self, sha256: str, given_blobs: Mapping[str, GivenBlob]) -> bool:
        """Keep a blob that an entry refers to, and tell whether it may."""
        if sha256 in given_blobs:
            blobs.keep_bytes(self._work.connection, *given_blobs[sha256])
            return True
        # Who only knows the digest of what somebody else has stored is not shown it.
        return blobs.is_of_user(self._work.connection, self._user_id, sha256)

    def _take_record(self, line: SourceRecordLine, restored: Restored) -> None:
        if self._last_record is None:
            self._last_record = source_records.last_number(self._work.connection, self.key)
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
