"""Writing an archive: sessions whole, line by line, each as far as it went when its turn came.

A session is read in pages, each on a snapshot of its own, so that a large one holds nobody up. Entries are appended and
never change their place, so the pages are those of one timeline; what is appended meanwhile is left for the next
archive. A fork whose parent is being deleted is written with all that it still reads there, as its own.
"""

import base64
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, and_, bindparam, case, select

from chat_service import source_records
from chat_service.archive.lines import FORMAT, VERSION, without_nulls
from chat_service.lineage import LINEAGE, SESSION_KEY, Statements, inherited, known_here, window_of, within
from chat_service.service import ChatService
from chat_service.sessions import check_ids, not_found
from chat_service.users import USER_KEY
from models.ids import SessionId, UserId
from models.tables import blob_references, blobs, chat_sessions, messages, tool_usages
from models.tables import source_records as raw_records
from models.text import to_json

_PAGE = 50
_LINES = 200

_parents = chat_sessions.alias("parents")
_SESSION_NAMES = (
    "id", "title", "status", "client", "last_seq", "created_at", "last_append_at", "source", "source_id",
    "idempotency_key", "digest", "session_data", "merged_into",
)  # fmt: skip
_SESSION = (
    select(
        chat_sessions.c.key,
        _parents.c.id.label("parent_id"),
        chat_sessions.c.forked_from_seq,
        *(chat_sessions.c[name] for name in _SESSION_NAMES),
    )
    .outerjoin(
        _parents,
        and_(_parents.c.key == chat_sessions.c.forked_from_key, _parents.c.user_key == chat_sessions.c.user_key),
    )
    .where(chat_sessions.c.id == bindparam("session_id"), chat_sessions.c.user_key == USER_KEY)
)
_MESSAGE_NAMES = (
    "seq", "kind", "role", "author", "model", "usage", "token_count", "replaces_seq", "idempotency_key", "digest",
    "created_at", "message_metadata", "parts", "content",
)  # fmt: skip
_TOOL_USAGE_NAMES = (
    "seq", "message_seq", "tool_call_id", "server_name", "tool_name", "status", "started_at", "duration_ms", "origin",
    "idempotency_key", "digest", "created_at", "error", "arguments", "result", "token_count", "call_metadata",
)  # fmt: skip


def _of_entries(entries: Table, names: Sequence[str]) -> Statements:
    # An idempotency key is the session's own to which it was given.
    is_own = LINEAGE.c.session_key == SESSION_KEY
    changed: dict[str, Any] = {name: case((is_own, entries.c[name])) for name in ("idempotency_key", "digest")}
    if "message_seq" in entries.c:
        changed["message_seq"] = known_here(entries.c.message_seq)
    own = [entries.c[name] for name in names]
    return window_of(entries, own, [changed.get(column.name, column).label(column.name) for column in own])


_found = select(blob_references.c.message_seq, blobs.c.sha256, blobs.c.media_type, blobs.c.data).order_by(
    blob_references.c.message_seq, blobs.c.sha256
)
_of_blob = blobs.c.key == blob_references.c.blob_key
_BLOBS = Statements(
    _found.select_from(blob_references.join(blobs, _of_blob)).where(within(blob_references, "message_seq")),
    _found.select_from(inherited(blob_references, "message_seq").join(blobs, _of_blob)),
)
_ENTRIES = (
    ("message", _MESSAGE_NAMES, _of_entries(messages, _MESSAGE_NAMES)),
    ("tool_usage", _TOOL_USAGE_NAMES, _of_entries(tool_usages, _TOOL_USAGE_NAMES)),
)
_RECORDS = (
    select(*(raw_records.c[name] for name in ("number", "native_id", "kind", "seq", "moment", "data")))
    .where(within(raw_records, "number"))
    .order_by(raw_records.c.number)
)


class Page(NamedTuple):
    """Lines of an archive: a session's, and those of its entries after `after_seq`; `last_seq` is that of its last."""

    lines: list[dict[str, Any]]
    after_seq: int
    last_seq: int


class _Opened(NamedTuple):
    """A session as it is when its turn comes.

    Its own entries come after `first`; `through` where it reads what it inherits as its own.
    """

    key: int
    line: dict[str, Any]
    first: int
    last_record: int
    through: bool


async def archive_lines(service: ChatService, user_id: UserId, session_ids: Sequence[SessionId]) -> AsyncIterator[str]:
    """Write an archive of sessions in this order, line by line without their ends; raises NotFound.

    What a session was forked from stands before it, whether it is named or not.
    """
    yield to_json({"type": "archive", "format": FORMAT, "version": VERSION})
    for session_id in await _with_parents(service, user_id, session_ids):
        async for line in _session_lines(service, user_id, session_id):
            yield to_json(line)


def page(connection: Connection, user_id: UserId, session_id: SessionId, after_seq: int) -> Page:
    """Return the line of a session, and those of its own entries after a seq, as many as one page has."""
    session = _open(connection, user_id, session_id)
    last_seq: int = session.line["last_seq"]
    low = min(max(after_seq, session.first), last_seq)
    high = min(low + _PAGE, last_seq)
    entries = stored_lines(connection, session_id, session.key, low, high, through=session.through)
    return Page([session.line, *entries], low, last_seq)


async def _with_parents(service: ChatService, user_id: UserId, session_ids: Sequence[SessionId]) -> list[SessionId]:
    ordered: dict[SessionId, None] = {}
    for session_id in session_ids:
        lineage: list[SessionId] = []
        next_id: str | None = session_id
        while next_id is not None and next_id not in ordered:
            lineage.append(SessionId(next_id))
            next_id = (await service.get_session(user_id, lineage[-1]))["forked_from"]
        ordered |= dict.fromkeys(reversed(lineage))
    return [*ordered]


async def _session_lines(service: ChatService, user_id: UserId, session_id: SessionId) -> AsyncIterator[dict[str, Any]]:
    session = await service.snapshot(lambda connection: _open(connection, user_id, session_id))
    yield session.line
    last, entries = session.line["last_seq"], 0
    # Once in each session, since another one that has it may be left out where the archive is restored.
    written: set[str] = set()
    for low in range(session.first, last, _PAGE):
        where = {"session_key": session.key, "low": low, "high": min(low + _PAGE, last)}
        lines = partial(_entry_lines, session_id=session_id, where=where, through=session.through)
        for line in await service.snapshot(lines):
            if line["type"] != "blob":
                entries += 1
            elif line["sha256"] in written:
                continue
            else:
                written.add(line["sha256"])
            yield line
    for low in range(0, session.last_record, _LINES):
        where = {"session_key": session.key, "low": low, "high": min(low + _LINES, session.last_record)}
        for line in await service.snapshot(partial(_raw_lines, session_id=session_id, where=where)):
            yield line
    yield {"type": "session_end", "session_id": session_id, "entries": entries, "source_records": session.last_record}


def _open(connection: Connection, user_id: UserId, session_id: SessionId) -> _Opened:
    row = connection.execute(_SESSION, check_ids(user_id, session_id)).mappings().one_or_none()
    if row is None:
        raise not_found()
    line = {"type": "session", **{name: row[name] for name in _SESSION_NAMES}}
    line["digest"] = _hex(row["digest"])
    first = 0
    if row["parent_id"] is not None:
        first = row["forked_from_seq"]
        line["forked_from"] = {"session_id": row["parent_id"], "seq": first}
    last_record = source_records.last_number(connection, row["key"])
    is_left = row["parent_id"] is None and row["forked_from_seq"] is not None
    return _Opened(row["key"], without_nulls(line), first, last_record, through=is_left)


def _entry_lines(
    connection: Connection, session_id: SessionId, where: dict[str, int], *, through: bool = False
) -> list[dict[str, Any]]:
    def rows(statements: Statements) -> list[list[Any]]:
        return (statements.through if through else statements.own).rows(connection, where)

    lines: list[tuple[int, int, dict[str, Any]]] = []
    for seq, sha256, media_type, data in rows(_BLOBS):
        content = base64.b64encode(data).decode()
        blob = {"type": "blob", "sha256": sha256.hex(), "media_type": media_type, "content": content}
        lines.append((seq, 0, without_nulls(blob)))
    for kind, names, statements in _ENTRIES:
        entries = (dict(zip(names, row, strict=True)) for row in rows(statements))
        lines += [(entry["seq"], 1, _entry_line(kind, session_id, entry)) for entry in entries]
    return [line for _, _, line in sorted(lines, key=lambda each: each[:2])]


def _entry_line(kind: str, session_id: SessionId, row: dict[str, Any]) -> dict[str, Any]:
    """Return the line of an entry."""
    return without_nulls({"type": kind, "session_id": session_id, **row, "digest": _hex(row["digest"])})


def stored_lines(
    connection: Connection, session_id: SessionId, session_key: int, low: int, high: int, *, through: bool = False
) -> list[dict[str, Any]]:
    """Return the lines of the entries that a session has after a seq and up to another one, without blobs."""
    where = {"session_key": session_key, "low": low, "high": high}
    lines = _entry_lines(connection, session_id, where, through=through)
    return [line for line in lines if line["type"] != "blob"]


def _raw_lines(connection: Connection, session_id: SessionId, where: dict[str, int]) -> list[dict[str, Any]]:
    return [
        without_nulls(
            {
                "type": "source_record",
                "session_id": session_id,
                **{name: row[name] for name in ("number", "native_id", "kind", "seq", "moment")},
                "content": source_records.unpack(row["data"]),
            }
        )
        for row in connection.execute(_RECORDS, where).mappings()
    ]


def _hex(digest: bytes | None) -> str | None:
    return None if digest is None else digest.hex()
