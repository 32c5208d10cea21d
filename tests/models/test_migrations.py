"""Migrations: a database of an earlier version keeps every row, and works as a new one does."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from chat_service.service import ChatService
from models import full_text, migrate
from models.database import Database
from models.ids import SessionId, UserId
from models.sqlite import choose_library
from models.tables import APPLICATION_ID, SCHEMA_VERSION
from tests.conftest import url_of
from tests.models.test_indexing import check_words
from tests.support import done, new_session, said

pytestmark = pytest.mark.anyio

USER_ID = "01a1fc1f-9aeb-7cd6-a61c-f8f3462d9751"
SESSION_ID = "01a1fc1f-9aeb-7cd6-a61c-f8f3462d9752"

ROWS_OF_VERSION_1 = (
    "INSERT INTO users (key, id, username, created_at, last_seen_at) "
    "VALUES (1, x'01a1fc1f9aeb7cd6a61cf8f3462d9751', 'ada', 0, 0)",
    "INSERT INTO chat_sessions "
    "(key, id, user_key, title, status, last_seq, message_count, tool_usage_count, created_at) "
    "VALUES (1, x'01a1fc1f9aeb7cd6a61cf8f3462d9752', 1, 'Old', 'active', 2, 1, 1, 0)",
    "INSERT INTO messages (session_key, seq, kind, role, author, created_at, content) "
    "VALUES (1, 1, 'message', 'user', 'agent', 0, 'hello')",
    "INSERT INTO tool_usages (session_key, seq, tool_name, status, origin, created_at, arguments) "
    "VALUES (1, 2, 'read', 'success', 'agent', 0, '{}')",
    "INSERT INTO tool_call_references VALUES (1, 'call', 1)",
)

_OWNER_OF_VERSION_10 = "'u1 s' || session_key"
WORDS_OF_VERSION_10 = (
    ("message_search", "messages", f"{_OWNER_OF_VERSION_10} || ' r' || role, '', content, ''"),
    (
        "tool_usage_search",
        "tool_usages",
        f"{_OWNER_OF_VERSION_10}, tool_name || ' {full_text.BARRIER} ', arguments, ''",
    ),
)


def make(path: Path, version: int, *rows: str) -> None:
    """Create a file as a server of that version left it."""
    engine = create_engine(f"sqlite:///{path}", module=choose_library(), poolclass=NullPool)
    with engine.begin() as connection:
        full_text.register(connection.connection.dbapi_connection)
        migrate.upgrade(connection, f"{version:04d}")
        connection.execute(text(f"PRAGMA application_id={APPLICATION_ID:d}"))
        connection.execute(text(f"PRAGMA user_version={version:d}"))
        for row in rows:
            connection.execute(text(row))
    engine.dispose()


def rows_of(path: Path) -> dict[str, list[Any]]:
    connection = choose_library().connect(str(path))
    tables = ("users", "chat_sessions", "messages", "tool_usages", "tool_call_references")
    found = {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}  # noqa: S608
    connection.close()
    return found


def check_kept(before: dict[str, list[Any]], after: dict[str, list[Any]]) -> None:
    """Fail unless every row is there as it was, and columns that it did not have are empty."""
    for table, rows in after.items():
        for row, old in zip(rows, before[table], strict=True):
            assert row[: len(old)] == old
            assert set(row[len(old) :]) <= {None}


async def test_a_database_of_version_1_keeps_every_row_and_can_be_forked_and_deleted(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    make(path, 1, *ROWS_OF_VERSION_1)
    before = rows_of(path)
    async with Database(url_of(path)) as database:
        assert (await database.health())["schema_version"] == SCHEMA_VERSION
        check_kept(before, rows_of(path))
        service = ChatService(database)
        user_id, session_id = UserId(USER_ID), SessionId(SESSION_ID)
        fork = await service.fork_session(user_id, session_id)
        await service.add_message(user_id, SessionId(fork["id"]), said("more"))
        await service.delete_session(user_id, session_id)
        history = await service.get_session_history(user_id, SessionId(fork["id"]))
        assert [entry["seq"] for entry in history["entries"]] == [1, 2, 3]


async def test_a_database_of_version_10_keeps_every_row_and_forgets_the_words_of_what_was_moved(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    indexed = [
        f"INSERT INTO {index} (rowid, owner, name, text, pieces) SELECT key, {words} FROM {entries} AS entry"  # noqa: S608
        for index, entries, words in WORDS_OF_VERSION_10
    ]
    progress = "UPDATE search_progress SET indexed_key = 1"
    make(path, 10, *ROWS_OF_VERSION_1, *indexed, progress)
    before = rows_of(path)
    async with Database(url_of(path)) as database:
        check_kept(before, rows_of(path))
        await database.write(check_words)
        service = ChatService(database)
        user_id, session_id = UserId(USER_ID), SessionId(SESSION_ID)
        target_id = await new_session(service, user_id)
        await service.merge_sessions(user_id, session_id, target_id)
        assert len((await service.search_history(user_id, f"hello session:{target_id}"))["hits"]) == 1
        await database.write(check_words)
        await service.delete_session(user_id, target_id)
        await database.write(check_words)


async def test_a_database_of_version_9_keeps_every_row_and_finds_its_calls_by_time(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    make(path, 9, *ROWS_OF_VERSION_1)
    make_timed = choose_library().connect(str(path), isolation_level=None)
    make_timed.execute("UPDATE tool_usages SET started_at = 1772359202000000, origin = 'import'")
    make_timed.close()
    before = rows_of(path)
    async with Database(url_of(path)) as database:
        assert (await database.health())["schema_version"] == SCHEMA_VERSION
        check_kept(before, rows_of(path))
        usage = done("read", arguments={}, origin="proxy", started_at="2026-03-01T10:00:02Z")
        joined = await ChatService(database).add_tool_usage(UserId(USER_ID), SessionId(SESSION_ID), usage)
        assert (joined["seq"], joined["origin"]) == (2, "proxy")


async def test_a_database_of_version_8_finishes_what_it_was_deleting_and_has_an_audit_log(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    nobody = (
        "INSERT INTO users (key, id, username, created_at, last_seen_at, deleted_at) "
        "VALUES (2, x'01a1fc1f9aeb7cd6a61cf8f3462d9753', 'deleted x', 0, 0, 1)",
        "INSERT INTO chat_sessions (key, id, user_key, title, status, created_at, source, source_id) "
        "VALUES (2, x'01a1fc1f9aeb7cd6a61cf8f3462d9754', 2, 'Left', 'active', 0, 'codex', 'a')",
    )
    make(path, 8, *ROWS_OF_VERSION_1, *nobody)
    before = rows_of(path)
    async with Database(url_of(path)) as database:
        check_kept(before, rows_of(path))
        service = ChatService(database)
        user_id, session_id = UserId(USER_ID), SessionId(SESSION_ID)
        assert await service.finish_deletions()
        assert len(rows_of(path)["chat_sessions"]) == 1
        assert (await service.get_audit_log(user_id))["entries"] == []
        await service.delete_session(user_id, session_id)
        assert await service.finish_deletions()
        assert len((await service.get_audit_log(user_id))["entries"]) == 2
        assert (await service.verify_audit_log())["broken_at"] is None
