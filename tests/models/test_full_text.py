"""The index of a file that is older than it: filled when the file is opened, and kept from then on."""

from contextlib import closing
from pathlib import Path

import pytest
from alembic import command

from chat_service.service import ChatService
from models import full_text, migrate
from models.database import Database
from models.ids import SessionId, UserId
from models.inputs import NewUser
from models.sqlite import SqliteEngine, choose_library
from models.sqlite_file import create_private
from models.tables import APPLICATION_ID
from tests.conftest import url_of
from tests.support import said

pytestmark = pytest.mark.anyio

OLD_ROWS = (
    "INSERT INTO users (key, id, username, created_at, last_seen_at) VALUES (5, zeroblob(16), 'ada', 0, 0)",
    "INSERT INTO chat_sessions (key, id, user_key, title, status, last_seq, message_count, tool_usage_count,"
    " created_at) VALUES (9, zeroblob(16), 5, 'Old', 'active', 3, 2, 1, 0)",
    "INSERT INTO messages (session_key, seq, kind, role, author, created_at, content, parts) VALUES"
    " (9, 1, 'message', 'user', 'user', 0, 'an ancient orchid, 蘭', NULL),"
    """ (9, 2, 'message', 'assistant', 'agent', 0, '', '[{"type":"text","content":"orchid getOldName"}]')""",
    "INSERT INTO tool_usages (session_key, seq, tool_name, status, origin, created_at, arguments, result)"
    """ VALUES (9, 3, 'dig', 'success', 'agent', 0, '{"what":"orchid"}', NULL)""",
)


def make_old(path: Path) -> None:
    """Make a file of the version before the index, with a session in it."""
    create_private(path)
    engine = SqliteEngine(path, choose_library())
    with closing(engine.open_raw(1_000)) as raw:
        connection = engine.over(raw)
        raw.execute("BEGIN IMMEDIATE")
        with connection.begin():
            config = migrate._config()
            config.attributes["connection"] = connection
            command.upgrade(config, "0001")
            raw.execute(f"PRAGMA application_id={APPLICATION_ID:d}")
            raw.execute("PRAGMA user_version=1")
            for statement in OLD_ROWS:
                raw.execute(statement)
        connection.detach()


async def test_a_database_of_the_version_before_is_searchable_and_keeps_its_rows(tmp_path: Path) -> None:
    make_old(tmp_path / "chat.db")
    async with Database(url_of(tmp_path / "chat.db")) as database:
        service = ChatService(database)
        user_id = UserId((await service.get_or_create_user(NewUser(username="ada")))["id"])
        for query, seqs in (("orchid", [1, 2, 3]), ("蘭", [1]), ("old", [2]), ("tool:dig", [3]), ("role:user", [1])):
            hits = (await service.search_history(user_id, query))["hits"]
            assert sorted(hit["seq"] for hit in hits) == seqs, query
        (session,) = (await service.get_user_sessions(user_id))["sessions"]
        session_id = SessionId(session["id"])
        history = await service.get_session_history(user_id, session_id)
        assert [entry["seq"] for entry in history["entries"]] == [1, 2, 3]
        await service.add_message(user_id, session_id, said("another orchid"))
        assert len((await service.search_history(user_id, "orchid"))["hits"]) == 4
        await service.delete_user(user_id)
        blocks = "SELECT group_concat(quote(block)) FROM message_search_data"
        left = await database.read(lambda connection: str(connection.exec_driver_sql(blocks).scalar_one()))
        assert b"orchid".hex().upper() not in left


def test_words_that_stand_alone_and_parts_of_names_are_made_once_and_for_all() -> None:
    assert full_text.message_words("日本go ไทย", None).split() == ["日", "本", "go", "ไ", "ท", "ย"]
    names = full_text.message_pieces("getUserName, HTTPServer2go plain UPPER " + "aB" * 33, None)
    assert names.split() == ["get", "User", "Name", full_text.BARRIER, "HTTP", "Server2", "go"]
    assert full_text.tool_words('{"a":"x\\ny\\u0007"}', None, "z").split() == ['{"a":"x', "y", '"}', "z"]


def test_an_old_sqlite_gets_an_index_without_what_it_does_not_know() -> None:
    old, new = full_text.create_statements((3, 40, 1)), full_text.create_statements((3, 53, 4))
    assert [statement for statement in new if statement not in old] == [
        f"INSERT INTO {index}({index}, rank) VALUES ('secure-delete', 1)"  # noqa: S608
        for index in ("message_search", "tool_usage_search")
    ]
