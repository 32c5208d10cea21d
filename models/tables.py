"""The schema: what is remembered, and under which names.

Rows inside refer to each other by integer keys; outside, sessions and users have a UUID in 16 bytes, and an entry is
named by its session and seq. An integer key of its own keeps the rows of a group commit together at the end of the
table: packing (session, seq) into the key, or a table without rowid, halved the rate of grouped appends
(docs/decisions).
"""

import json
from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    event,
    text,
)

from models import full_text
from models.errors import DAMAGED, Unavailable
from models.ids import from_microseconds, pack_id, to_microseconds, unpack_id
from models.text import to_json

SCHEMA_VERSION = 11
"""The number of the newest migration; in an SQLite file it stands in `PRAGMA user_version`."""

APPLICATION_ID = 0x4D435043
"""`PRAGMA application_id` of our SQLite files: "MCPC"."""


_Convert = Callable[[Any], Any]


def _reading(convert: _Convert) -> _Convert:
    def read(value: Any) -> Any:
        try:
            return None if value is None else convert(value)
        except (ValueError, TypeError, OverflowError, AttributeError, RecursionError):
            # It is none of what we store.
            raise Unavailable(DAMAGED) from None

    return read


def _writing(convert: _Convert) -> _Convert:
    return lambda value: None if value is None else convert(value)


class _Converted(TypeDecorator[Any]):
    """What is stored as another type than it has outside; NULL is None."""

    # The processors are given whole: through process_bind_param and process_result_value each value costs three calls.
    _write: _Convert
    _read: _Convert

    def bind_processor(self, dialect: Dialect) -> _Convert:
        """Return what makes the stored value."""
        return self._write

    def result_processor(self, dialect: Dialect, coltype: object) -> _Convert:
        """Return what makes the value outside; raises Unavailable where the stored one is none of ours."""
        return self._read


class PublicId(_Converted):
    """A UUID in 16 bytes, text in its usual form outside."""

    impl = LargeBinary(16)
    cache_ok = True
    # The driver looks for an adapter of bytes at each binding, which costs more than this copy.
    _write = staticmethod(_writing(lambda value: bytearray(pack_id(value))))
    _read = staticmethod(_reading(unpack_id))


class Timestamp(_Converted):
    """Microseconds since 1970, an RFC 3339 string outside."""

    impl = BigInteger
    cache_ok = True
    _write = staticmethod(_writing(to_microseconds))
    _read = staticmethod(_reading(from_microseconds))


class Json(_Converted):
    """A JSON value as text, so that it comes back as it was given.

    A column declared JSON has numeric affinity in SQLite: the value 12345678901234567890 would come back as a float.
    """

    impl = Text
    cache_ok = True
    _write = staticmethod(_writing(to_json))
    _read = staticmethod(_reading(json.loads))


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


def _key() -> Column[int]:
    # SQLite gives an integer primary key only to the type INTEGER by that name.
    return Column("key", BigInteger().with_variant(Integer, "sqlite"), primary_key=True)


def _one_of(column: str, *values: str) -> CheckConstraint:
    # Not IN: for more than two values SQLite builds a table of them at each insert, which costs half of the insert.
    return CheckConstraint(" OR ".join(f"{column} = {value!r}" for value in values), name=column)


users = Table(
    "users",
    metadata,
    _key(),
    Column("id", PublicId, nullable=False, unique=True),
    Column("username", Text, nullable=False, unique=True),
    Column("issuer", Text),
    Column("subject", Text),
    Column("email", Text),
    Column("display_name", Text),
    Column("created_at", Timestamp, nullable=False),
    Column("last_seen_at", Timestamp, nullable=False),
    # A user with this mark is nobody any more: what is still theirs is invisible, and about to be removed.
    Column("deleted_at", Timestamp),
    # The receipt of that deletion.
    Column("erasure", BigInteger),
    UniqueConstraint("issuer", "subject"),
)
Index(None, users.c.deleted_at, sqlite_where=users.c.deleted_at.is_not(None))

chat_sessions = Table(
    "chat_sessions",
    metadata,
    _key(),
    Column("id", PublicId, nullable=False, unique=True),
    Column("user_key", ForeignKey("users.key", ondelete="CASCADE"), nullable=False),
    Column("title", Text),
    Column("status", Text, nullable=False),
    Column("client", Text),
    Column("last_seq", BigInteger, nullable=False, server_default=text("0")),
    Column("message_count", BigInteger, nullable=False, server_default=text("0")),
    Column("tool_usage_count", BigInteger, nullable=False, server_default=text("0")),
    Column("created_at", Timestamp, nullable=False),
    Column("last_append_at", Timestamp),
    # A fork needs what it reads through: without ondelete, no parent can be removed before its forks are cared for.
    Column("forked_from_key", ForeignKey("chat_sessions.key"), index=True),
    Column("forked_from_seq", BigInteger),
    Column("source", Text),
    Column("source_id", Text),
    Column("idempotency_key", Text),
    Column("digest", LargeBinary(16)),
    Column("session_data", Json),
    # The public id of the session that took this one's entries over; it may be gone since.
    Column("merged_into", PublicId),
    # The user under whom the entries are in the full-text index, where the session has been taken from them.
    Column("indexed_for", BigInteger),
    UniqueConstraint("user_key", "source", "source_id"),
    UniqueConstraint("user_key", "idempotency_key"),
    Index(None, "user_key"),
    Index(None, "user_key", "status"),
    _one_of("status", "active", "archived"),
)

# What may be long stands last in a row, so that the short columns are read without it.
messages = Table(
    "messages",
    metadata,
    _key(),
    Column("session_key", ForeignKey("chat_sessions.key", ondelete="CASCADE"), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("model", Text),
    Column("usage", Json),
    Column("token_count", BigInteger),
    Column("replaces_seq", BigInteger),
    Column("idempotency_key", Text),
    Column("digest", LargeBinary(16)),
    Column("created_at", Timestamp, nullable=False),
    Column("message_metadata", Json),
    Column("parts", Json),
    Column("content", Text, nullable=False),
    # The session under which it is in the index, where it was moved to another one: so it is not indexed again.
    Column("indexed_in", BigInteger),
    UniqueConstraint("session_key", "seq"),
    _one_of("kind", "message", "summary", "pin", "replacement"),
    _one_of("role", "system", "user", "assistant", "tool"),
    _one_of("author", "user", "agent", "import", "proxy"),
)

tool_usages = Table(
    "tool_usages",
    metadata,
    _key(),
    Column("session_key", ForeignKey("chat_sessions.key", ondelete="CASCADE"), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("message_seq", BigInteger),
    Column("tool_call_id", Text),
    Column("server_name", Text),
    Column("tool_name", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("started_at", Timestamp),
    Column("duration_ms", Float),
    Column("origin", Text, nullable=False),
    Column("idempotency_key", Text),
    Column("digest", LargeBinary(16)),
    Column("created_at", Timestamp, nullable=False),
    Column("error", Text),
    Column("arguments", Json, nullable=False),
    Column("result", Json),
    Column("token_count", BigInteger),
    Column("call_metadata", Json),
    Column("indexed_in", BigInteger),
    UniqueConstraint("session_key", "seq"),
    _one_of("status", "success", "error", "cancelled", "unknown"),
    _one_of("origin", "user", "agent", "import", "proxy"),
)

tool_call_references = Table(
    "tool_call_references",
    metadata,
    # Which message asked for a call, so that call record and message find each other whichever comes second. Provider
    # ids may repeat within a session, hence the seq in the key.
    Column("session_key", ForeignKey("chat_sessions.key", ondelete="CASCADE"), primary_key=True),
    Column("tool_call_id", Text, primary_key=True),
    Column("message_seq", BigInteger, primary_key=True),
    sqlite_with_rowid=False,
)

blobs = Table(
    "blobs",
    metadata,
    # What was attached to messages or given by tools, each content once however often that was.
    _key(),
    Column("sha256", LargeBinary(32), nullable=False, unique=True),
    Column("media_type", Text),
    Column("size", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

blob_references = Table(
    "blob_references",
    metadata,
    # Which entry refers to which blob, a message or a tool usage: a blob goes with its last reference.
    Column("session_key", ForeignKey("chat_sessions.key", ondelete="CASCADE"), primary_key=True),
    Column("message_seq", BigInteger, primary_key=True),
    Column("blob_key", ForeignKey("blobs.key", ondelete="CASCADE"), primary_key=True, index=True),
    sqlite_with_rowid=False,
)

source_records = Table(
    "source_records",
    metadata,
    # The records of an imported session as their client wrote them, compressed; `seq` is the last entry one became.
    _key(),
    Column("session_key", ForeignKey("chat_sessions.key", ondelete="CASCADE"), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("native_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("digest", LargeBinary(16), nullable=False),
    Column("seq", BigInteger),
    Column("moment", Timestamp),
    Column("data", LargeBinary, nullable=False),
    UniqueConstraint("session_key", "number"),
    UniqueConstraint("session_key", "native_id"),
)

chat_runs = Table(
    "chat_runs",
    metadata,
    # An answer that is being made. `calls` are those that the newest message of the run asked for.
    _key(),
    Column("id", PublicId, nullable=False, unique=True),
    Column("user_key", ForeignKey("users.key", ondelete="CASCADE"), nullable=False),
    Column("session_key", ForeignKey("chat_sessions.key", ondelete="CASCADE"), nullable=False),
    Column("idempotency_key", Text, nullable=False),
    Column("digest", LargeBinary(16), nullable=False),
    Column("state", Text, nullable=False),
    Column("message_seq", BigInteger, nullable=False),
    Column("lease_owner", Text, nullable=False),
    Column("lease_expires_at", Timestamp, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("calls", Json),
    Column("result", Json),
    UniqueConstraint("user_key", "idempotency_key"),
    Index(None, "session_key", "state"),
    _one_of("state", "running", "done", "failed"),
)

search_progress = Table(
    "search_progress",
    metadata,
    # Up to which key the messages, and the tool usages, are in the index of full text.
    Column("entries", Text, primary_key=True),
    Column("indexed_key", BigInteger, nullable=False),
)

audit_log = Table(
    "audit_log",
    metadata,
    # What was done, in a chain: `digest` is that of salt, user and detail, and `chain` goes over the row before, the
    # other fields and the digest. So detail, salt and user can be erased, and the chain still holds.
    _key(),
    Column("created_at", Timestamp, nullable=False),
    Column("action", Text, nullable=False),
    Column("user_key", ForeignKey("users.key")),
    Column("salt", LargeBinary(16)),
    Column("detail", Text),
    Column("digest", LargeBinary(32), nullable=False),
    Column("chain", LargeBinary(32), nullable=False),
    Index(None, "user_key"),
    _one_of("action", "session_deleted", "user_deleted", "erased"),
)

erasures = Table(
    "erasures",
    metadata,
    # Deletions whose bytes are not all overwritten yet, each with its receipt, a row of the audit log. `scope` stands
    # for the user in tombstones; the counts go into the log when it is finished.
    Column("receipt", ForeignKey("audit_log.key"), primary_key=True),
    Column("scope", LargeBinary(16), nullable=False),
    Column("blobs", BigInteger, nullable=False, server_default=text("0")),
    Column("source_records", BigInteger, nullable=False, server_default=text("0")),
)

tombstones = Table(
    "tombstones",
    metadata,
    # Keyed digests of what was deleted here, so that an import does not bring it back.
    Column("digest", LargeBinary(16), primary_key=True),
    sqlite_with_rowid=False,
)

salts = Table(
    "salts",
    metadata,
    # Random bytes of this database alone; what they are for stands in `name`.
    Column("name", Text, primary_key=True),
    Column("salt", LargeBinary(32), nullable=False),
    sqlite_with_rowid=False,
)

# Partial indexes: an entry without a key costs nothing. Naming PostgreSQL's option here as well would import its
# dialect, a tenth of a second of every start.
for _entries in (messages, tool_usages):
    _given = _entries.c.idempotency_key.is_not(None)
    Index(None, _entries.c.session_key, _entries.c.idempotency_key, unique=True, sqlite_where=_given)
    _moved = _entries.c.indexed_in.is_not(None)
    Index(None, _entries.c.session_key, _entries.c.indexed_in, sqlite_where=_moved)
Index(None, messages.c.session_key, messages.c.kind, messages.c.seq, sqlite_where=messages.c.kind != "message")
Index(
    None, messages.c.session_key, messages.c.replaces_seq, messages.c.seq,
    sqlite_where=messages.c.replaces_seq.is_not(None),
)  # fmt: skip
_named = tool_usages.c.tool_call_id.is_not(None)
Index(None, tool_usages.c.session_key, tool_usages.c.tool_call_id, sqlite_where=_named)
_timed = tool_usages.c.started_at.is_not(None)
Index(None, tool_usages.c.session_key, tool_usages.c.origin, tool_usages.c.started_at, sqlite_where=_timed)


@event.listens_for(metadata, "after_create")
def _create_full_text(_: MetaData, connection: Connection, **__: Any) -> None:
    library: Any = connection.dialect.dbapi
    for statement in full_text.create_statements(library.sqlite_version_info):
        connection.exec_driver_sql(statement)
