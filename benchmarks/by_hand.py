"""The floor: the same work written by hand on the driver, in the calling thread, as durable as ours."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from models.ids import SessionId
from models.sqlite import choose_library

_CLAIM = """
    UPDATE chat_sessions SET last_seq = last_seq + ?2, message_count = message_count + ?2, last_append_at = ?3
    WHERE id = ?1 RETURNING key, last_seq
"""
_INSERT = """
    INSERT INTO messages (session_key, seq, kind, role, author, created_at, content)
    VALUES (?, ?, 'message', 'user', 'agent', ?, ?)
"""
_COLUMNS = (
    *("seq", "kind", "role", "content", "parts", "message_metadata", "author", "model", "usage"),
    *("token_count", "replaces_seq", "created_at"),
)
_READ = f"SELECT {', '.join(_COLUMNS)} FROM messages WHERE session_key = (SELECT key FROM chat_sessions WHERE id = ?)"  # noqa: S608
_LAST = f"{_READ} ORDER BY seq DESC LIMIT ?"
_ALL = f"{_READ} ORDER BY seq"
_NOW = 1_767_225_600_000_000


class ByHand:
    """One connection of the driver that the record uses as well, with `synchronous=FULL` and nothing else set."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    async def append(self, session_id: SessionId, contents: Sequence[str]) -> None:
        """Append texts in one transaction."""
        raw = self._raw
        raw.execute("BEGIN IMMEDIATE")
        claimed = raw.execute(_CLAIM, (UUID(session_id).bytes, len(contents), _NOW))
        session_key, last_seq = claimed.fetchone()
        claimed.fetchall()
        first = last_seq - len(contents) + 1
        if len(contents) == 1:
            raw.execute(_INSERT, (session_key, first, _NOW, contents[0]))
        else:
            rows = [(session_key, seq, _NOW, content) for seq, content in enumerate(contents, start=first)]
            raw.executemany(_INSERT, rows)
        raw.execute("COMMIT")

    async def last(self, session_id: SessionId, count: int) -> list[dict[str, Any]]:
        """Return the last messages as dicts."""
        return _dicts(self._raw.execute(_LAST, (UUID(session_id).bytes, count)).fetchall())[::-1]

    async def all(self, session_id: SessionId) -> list[dict[str, Any]]:
        """Return all messages as dicts."""
        return _dicts(self._raw.execute(_ALL, (UUID(session_id).bytes,)).fetchall())


@contextmanager
def by_hand(path: Path) -> Iterator[ByHand]:
    """Open a connection to a database of ours."""
    raw = choose_library().connect(path, isolation_level=None)
    try:
        raw.execute("PRAGMA synchronous=FULL")
        yield ByHand(raw)
    finally:
        raw.close()


def _dicts(rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
