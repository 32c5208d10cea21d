"""Writing an archive: sessions whole, line by line, each as far as it went when its turn came.

A session is read in pages, each on a snapshot of its own, so that a large one holds nobody up. Entries are appended and
never change their place, so the pages are those of one timeline; what is appended meanwhile is left for the next
archive.
"""

import base64
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, Table, and_, bindparam, func, select

from chat_service import source_records
from chat_service.archive.lines import FORMAT, VERSION, without_nulls
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


def _window(table: Table, names: Sequence[str], number: str) -> Any:
    place = table.c[number]
    return (
        select(*(table.c[name] for name in names))
        .where(table.c.session_key == bindparam("session_key"), place > bindparam("low"), place <= bindparam("high"))
        .order_by(place)
    )


_MESSAGES = _window(messages, _MESSAGE_NAMES, "seq")
_TOOL_USAGES = _window(tool_usages, _TOOL_USAGE_NAMES, "seq")
_RECORDS = _window(raw_records, ("number", "native_id", "kind", "seq", "moment", "data"), "number")
_LAST_RECORD = select(func.coalesce(func.max(raw_records.c.number), 0)).where(
    raw_records.c.session_key == bindparam("session_key")
)
_BLOBS = (
    select(blob_references.c.message_seq, blobs.c.sha256, blobs.c.media_type, blobs.c.data)
    .join(blobs, blobs.c.key == blob_references.c.blob_key)
    .where(
        blob_references.c.session_key == bindparam("session_key"),
        blob_references.c.message_seq > bindparam("low"),
        blob_references.c.message_seq <= bindparam("high"),
    )
    .order_by(blob_references.c.message_seq, blobs.c.sha256)
)


async def archive_lines(service: ChatService, user_id: UserId, session_ids: Sequence[SessionId]) -> AsyncIterator[str]:
    """Write an archive of sessions in this order, line by line without their ends; raises NotFound.

    What a session was forked from stands before it, whether it is named or not.
    """
    yield to_json({"type": "archive", "format": FORMAT, "version": VERSION})
    written: set[str] = set()
    for session_id in await _with_parents(service, user_id, session_ids):
        async for line in _session_lines(service, user_id, session_id, written):
            yield to_json(line)


def page(
    connection: Connection, user_id: UserId, session_id: SessionId, after_seq: int
) -> tuple[list[dict[str, Any]], int]:
    """Return the line of a session, those of the entries after a seq, as many as one page has, and its last seq."""
    key, session, _ = _session_line(connection, user_id, session_id)
    last_seq: int = session["last_seq"]
    low = min(after_seq, last_seq)
    entries = stored_lines(connection, session_id, key, low, min(low + _PAGE, last_seq))
    return [session, *entries], last_seq


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


async def _session_lines(
    service: ChatService, user_id: UserId, session_id: SessionId, written: set[str]
) -> AsyncIterator[dict[str, Any]]:
    key, session, last_record = await service.snapshot(
        lambda connection: _session_line(connection, user_id, session_id)
    )
    yield session
    first = session.get("forked_from", {}).get("seq", 0)
    entries = 0
    for low in range(first, session["last_seq"], _PAGE):
        where = {"session_key": key, "low": low, "high": min(low + _PAGE, session["last_seq"])}
        for line in await service.snapshot(partial(_entry_lines, session_id=session_id, where=where)):
            if line["type"] != "blob":
                entries += 1
            elif line["sha256"] in written:
                continue
            else:
                written.add(line["sha256"])
            yield line
    for low in range(0, last_record, _LINES):
        where = {"session_key": key, "low": low, "high": min(low + _LINES, last_record)}
        for line in await service.snapshot(partial(_raw_lines, session_id=session_id, where=where)):
            yield line
    yield {"type": "session_end", "session_id": session_id, "entries": entries, "source_records": last_record}


def _session_line(connection: Connection, user_id: UserId, session_id: SessionId) -> tuple[int, dict[str, Any], int]:
    row = connection.execute(_SESSION, check_ids(user_id, session_id)).mappings().one_or_none()
    if row is None:
        raise not_found()
    line = {"type": "session", **{name: row[name] for name in _SESSION_NAMES}}
    line["digest"] = _hex(row["digest"])
    if row["parent_id"] is not None:
        line["forked_from"] = {"session_id": row["parent_id"], "seq": row["forked_from_seq"]}
    last_record = connection.execute(_LAST_RECORD, {"session_key": row["key"]}).scalar_one()
    return row["key"], without_nulls(line), last_record


def _entry_lines(connection: Connection, session_id: SessionId, where: dict[str, int]) -> list[dict[str, Any]]:
    lines: list[tuple[int, int, dict[str, Any]]] = []
    for row in connection.execute(_BLOBS, where):
        content = base64.b64encode(row.data).decode()
        blob = {"type": "blob", "sha256": row.sha256.hex(), "media_type": row.media_type, "content": content}
        lines.append((row.message_seq, 0, without_nulls(blob)))
    for kind, query in (("message", _MESSAGES), ("tool_usage", _TOOL_USAGES)):
        rows = connection.execute(query, where).mappings()
        lines += [(entry["seq"], 1, entry_line(kind, session_id, dict(entry))) for entry in rows]
    return [line for _, _, line in sorted(lines, key=lambda each: each[:2])]


def entry_line(kind: str, session_id: SessionId, row: dict[str, Any]) -> dict[str, Any]:
    """Return the line of an entry."""
    return without_nulls({"type": kind, "session_id": session_id, **row, "digest": _hex(row["digest"])})


def stored_lines(
    connection: Connection, session_id: SessionId, session_key: int, low: int, high: int
) -> list[dict[str, Any]]:
    """Return the lines of the entries that a session has after a seq and up to another one, without blobs."""
    where = {"session_key": session_key, "low": low, "high": high}
    return [line for line in _entry_lines(connection, session_id, where) if line["type"] != "blob"]


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
