"""The databases that benchmarks run on: built once a run by raw SQL into the migrated schema, then copied.

Sixty-four sessions grow side by side, as they do in a record that many use, so the messages of one lie apart. Session
`long` has 10,000 messages, or half of all where there are fewer, `short` has 10; the others share what is left.
"""

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from benchmarks.scale import Scale
from models.ids import SessionId, UserId, new_id
from models.indexing import index_some
from models.sqlite import SqliteEngine, choose_library
from models.sqlite_file import prepare

USERNAME = "benchmark"
LENGTH = 400
SHORT = 10

_LONG = 10_000
_LANES = 64
_FEW_MESSAGES, _FEW_SESSIONS = 1_000, 10
_NOW = 1_767_225_600_000_000
_INSERT_USER = "INSERT INTO users (key, id, username, created_at, last_seen_at) VALUES (1, ?, ?, ?, ?)"
_INSERT_SESSION = """
    INSERT INTO chat_sessions (key, id, user_key, status, last_seq, message_count, created_at, last_append_at)
    VALUES (?, ?, 1, 'active', ?, ?, ?, ?)
"""
_INSERT_MESSAGE = """
    INSERT INTO messages (session_key, seq, kind, role, author, created_at, content)
    VALUES (?, ?, 'message', 'user', 'agent', ?, ?)
"""


@dataclass(frozen=True)
class Place:
    """A database file, the user whose record it is, and some of their sessions."""

    path: Path
    user_id: UserId
    long: SessionId
    short: SessionId
    others: tuple[SessionId, ...]

    @property
    def url(self) -> str:
        """The URL of the file."""
        return f"sqlite+aiosqlite:///{self.path}"

    @property
    def environment(self) -> dict[str, str]:
        """What a server needs in its environment to keep this record."""
        return {"MCP_CHAT_DATABASE_URL": self.url, "MCP_CHAT_USER": USERNAME}


class Databases:
    """Builds each kind of database when it is first asked for, and hands out a copy for each owner."""

    def __init__(self, folder: Path, scale: Scale) -> None:
        self._folder = folder
        self._scale = scale
        self._built: dict[int, Place] = {}
        self._copies: dict[tuple[int, str], Place] = {}

    def large(self, owner: str) -> Place:
        """Return the owner's copy of the large database, which has what the run's scale says."""
        return self._copy(self._scale.messages, self._scale.sessions, owner)

    def small(self, owner: str) -> Place:
        """Return the owner's copy of a database of 1,000 messages in 10 sessions."""
        return self._copy(_FEW_MESSAGES, _FEW_SESSIONS, owner)

    def _copy(self, messages: int, sessions: int, owner: str) -> Place:
        if messages not in self._built:
            self._built[messages] = _build(self._folder / f"built-{messages}.db", messages, sessions)
        if (messages, owner) not in self._copies:
            place = self._built[messages]
            copied = self._folder / f"{owner}-{messages}.db"
            shutil.copyfile(place.path, copied)
            _settle(copied)
            self._copies[messages, owner] = replace(place, path=copied)
        return self._copies[messages, owner]


def any_of(place: Place) -> list[SessionId]:
    """Return up to 2,000 sessions in no order, the same ones each time."""
    dice = random.Random(1)  # noqa: S311 - draws sessions, guards nothing
    return dice.sample(place.others, min(len(place.others), 2_000))


def text_of(number: int) -> str:
    """Return a text of 400 bytes; each number has its own."""
    return (f"Message {number}: " + "what was said is to be found again. " * LENGTH)[:LENGTH]


def index_all(path: Path) -> None:
    """Index what was inserted past the record, and empty the log."""
    engine = SqliteEngine(path, choose_library())
    with closing(engine.open_raw(1_000)) as raw:
        raw.execute("PRAGMA synchronous=OFF")
        connection = engine.over(raw)
        is_complete = False
        while not is_complete:
            raw.execute("BEGIN IMMEDIATE")
            is_complete = index_some(connection).is_last
            raw.execute("COMMIT")
        connection.detach()
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _settle(path: Path) -> None:
    # Written now, or the system would write it while commits are measured.
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _build(path: Path, messages: int, sessions: int) -> Place:
    library = choose_library()
    prepare(path, library)
    long = min(_LONG, messages // 2)
    share, more = divmod(messages - long - SHORT, sessions - 2)
    lengths = [long, SHORT, *(share + (index < more) for index in range(sessions - 2))]
    ids = [new_id() for _ in lengths]
    user_id = new_id()
    with closing(library.connect(path, isolation_level=None)) as raw:
        raw.execute("PRAGMA synchronous=OFF")
        raw.execute("PRAGMA cache_size=-200000")
        raw.execute("BEGIN")
        raw.execute(_INSERT_USER, (UUID(user_id).bytes, USERNAME, _NOW, _NOW))
        rows = zip(range(1, sessions + 1), ids, lengths, strict=True)
        raw.executemany(
            _INSERT_SESSION, ((key, UUID(each).bytes, length, length, _NOW, _NOW) for key, each, length in rows)
        )
        raw.executemany(_INSERT_MESSAGE, _messages(lengths))
        raw.execute("COMMIT")
    index_all(path)
    return Place(path, UserId(user_id), SessionId(ids[0]), SessionId(ids[1]), tuple(map(SessionId, ids[2:])))


def _messages(lengths: list[int]) -> Iterator[tuple[Any, ...]]:
    waiting = iter(enumerate(lengths, start=1))
    lanes = [(key, iter(range(1, length + 1))) for _, (key, length) in zip(range(_LANES), waiting, strict=False)]
    number = 0
    while lanes:
        for lane, (key, seqs) in enumerate(lanes):
            seq = next(seqs, None)
            if seq is not None:
                number += 1
                yield key, seq, _NOW + number, text_of(number)
                continue
            following = next(waiting, None)
            if following is None:
                del lanes[lane]
                break
            lanes[lane] = following[0], iter(range(1, following[1] + 1))
