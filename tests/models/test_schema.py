"""The schema: what the migrations make is what the tables declare, and nothing is paid for it once it is there."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import ForeignKeyConstraint, Index, Table, create_engine, text
from sqlalchemy.schema import PrimaryKeyConstraint, UniqueConstraint

from chat_service.service import ChatService
from models import full_text, migrate
from models.database import Database
from models.ids import SessionId, UserId
from models.inputs import Lease, NewMessage, NewRun
from models.sqlite import choose_library
from models.tables import APPLICATION_ID, SCHEMA_VERSION, metadata
from tests.conftest import url_of
from tests.support import run_python

pytestmark = pytest.mark.anyio

TABLES = metadata.sorted_tables


def schema_of(path: Path) -> dict[str, str]:
    """Return the SQL of each table and index of a file, with the white space of one line."""
    connection = choose_library().connect(str(path))
    query = "SELECT name, sql FROM sqlite_master WHERE name <> 'alembic_version' AND sql IS NOT NULL"
    found = {
        name: " ".join(sql.split()).replace("( ", "(").replace(" )", ")") for name, sql in connection.execute(query)
    }
    connection.close()
    return found


def clauses(sql: str) -> tuple[list[str], list[str]]:
    """Take a statement apart into its columns with what frames them, and its constraints, whose order says nothing."""
    head, _, rest = sql.partition("(")
    body, _, tail = rest.rpartition(")")
    parts, depth, part = [], 0, ""
    for character in body:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append(part.strip())
            part = ""
        else:
            part += character
    parts.append(part.strip())
    constraints = sorted(part for part in parts if part.startswith("CONSTRAINT "))
    return [head, *(part for part in parts if part not in constraints), tail], constraints


async def test_a_migrated_file_has_the_declared_schema(tmp_path: Path) -> None:
    async with Database(url_of(tmp_path / "migrated.db")):
        pass
    engine = create_engine(f"sqlite:///{tmp_path / 'declared.db'}", module=choose_library())
    metadata.create_all(engine)
    engine.dispose()
    migrated, declared = schema_of(tmp_path / "migrated.db"), schema_of(tmp_path / "declared.db")
    assert set(migrated) == set(declared)
    assert len(declared) > len(TABLES)
    for name, sql in declared.items():
        assert clauses(migrated[name]) == clauses(sql)


async def test_a_migrated_file_tells_whose_it_is_and_which_version(database: Database) -> None:
    def marks(connection: Any) -> list[int]:
        names = ("application_id", "user_version", "foreign_keys", "secure_delete", "synchronous")
        return [connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in names]

    expected = [APPLICATION_ID, SCHEMA_VERSION, 1, 1, 2]
    assert await database.read(marks) == expected
    assert await database.write(marks) == expected


def test_the_schema_version_is_that_of_the_newest_migration() -> None:
    assert migrate.newest_version() == SCHEMA_VERSION


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_constraint_and_index_has_a_name(table: Table) -> None:
    named: list[Any] = [*table.constraints, *table.indexes]
    for item in named:
        assert item.name, item


async def test_every_constraint_in_the_file_has_a_name(database: Database) -> None:
    for name, sql in schema_of(database.path).items():
        if "_search" in name:
            continue  # The tables in which FTS5 keeps an index are its own, and our triggers have no constraints.
        for column in clauses(sql)[0][1:-1]:
            for constraint in ("PRIMARY KEY", "UNIQUE", "FOREIGN KEY", "CHECK", "REFERENCES"):
                assert constraint not in column


def leading_columns(table: Table) -> set[str]:
    """Name the columns that an index of any kind begins with."""
    indexed: list[Any] = [
        item for item in table.constraints if isinstance(item, (PrimaryKeyConstraint, UniqueConstraint))
    ]
    # A partial index does not hold every row.
    indexed += [index for index in table.indexes if index.dialect_options["sqlite"]["where"] is None]
    return {_first(item) for item in indexed}


def _first(item: Index | PrimaryKeyConstraint | UniqueConstraint) -> str:
    return next(column.name for column in item.columns)


# In one order, which each process that shares the tests out has to find: a table keeps its constraints in a set.
FOREIGN_KEYS = sorted(
    (each for table in TABLES for each in table.constraints if isinstance(each, ForeignKeyConstraint)),
    key=lambda constraint: str(constraint.name),
)


@pytest.mark.parametrize("foreign_key", FOREIGN_KEYS, ids=lambda constraint: str(constraint.name))
def test_every_foreign_key_leads_an_index(foreign_key: ForeignKeyConstraint) -> None:
    (column,) = foreign_key.columns
    assert column.name in leading_columns(foreign_key.table)


@pytest.mark.parametrize("foreign_key", FOREIGN_KEYS, ids=lambda constraint: str(constraint.name))
def test_what_belongs_to_a_row_is_deleted_with_it(foreign_key: ForeignKeyConstraint) -> None:
    # A fork is a session of its own and outlives the one that it was made from; a chain keeps each of its rows.
    outlives = foreign_key.column_keys == ["forked_from_key"] or foreign_key.table.name in ("audit_log", "erasures")
    assert foreign_key.ondelete == (None if outlives else "CASCADE")


async def test_a_current_file_is_opened_without_loading_the_migrations(database: Database, database_url: str) -> None:
    code = (
        "import asyncio, sys\n"
        "from models.database import Database\n"
        "async def main():\n"
        "    async with Database(sys.argv[1]) as database:\n"
        "        return (await database.health())['schema_version']\n"
        "print(asyncio.run(main()), [name for name in sys.modules if name.startswith(('alembic', 'mako', 'filelock'))])"
    )
    assert run_python(code, database_url) == f"{SCHEMA_VERSION} []"


async def test_a_file_of_the_first_version_is_upgraded_with_every_row_kept(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    old = file_of_version(path, 1)
    old.executescript(
        """
        INSERT INTO users (id, username, created_at, last_seen_at) VALUES (zeroblob(16), 'ada', 0, 0);
        INSERT INTO chat_sessions
            (id, user_key, status, last_seq, message_count, tool_usage_count, created_at)
            VALUES (zeroblob(16), 1, 'active', 2, 1, 1, 0);
        INSERT INTO messages (session_key, seq, kind, role, author, created_at, content)
            VALUES (1, 1, 'pin', 'user', 'user', 0, 'kept');
        INSERT INTO tool_usages (session_key, seq, tool_name, status, origin, created_at, arguments)
            VALUES (1, 2, 'read', 'success', 'agent', 0, '{}');
        """
    )
    old.commit()
    old.close()
    async with Database(url_of(path)) as database:
        service = ChatService(database)
        nobody = UserId("00000000-0000-0000-0000-000000000000")
        session_id = SessionId(nobody)
        message, usage = (await service.get_session_history(nobody, session_id))["entries"]
        assert (message["seq"], usage["seq"], message["token_count"], usage["token_count"]) == (1, 2, None, None)
        context = await service.get_context(nobody, session_id, 200)
        assert context["manifest"]["shown"] == [[1, 2]]
    assert schema_of(path) == schema_of(await _new_file(tmp_path / "new.db"))


async def test_a_file_without_runs_is_upgraded_with_every_row_kept(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    old = file_of_version(path, 6)
    old.executescript(
        """
        INSERT INTO users (id, username, created_at, last_seen_at) VALUES (zeroblob(16), 'ada', 0, 0);
        INSERT INTO chat_sessions
            (id, user_key, status, last_seq, message_count, tool_usage_count, created_at)
            VALUES (zeroblob(16), 1, 'active', 1, 1, 0, 0);
        INSERT INTO messages (session_key, seq, kind, role, author, created_at, content)
            VALUES (1, 1, 'message', 'user', 'user', 0, 'kept');
        """
    )
    old.commit()
    old.close()
    async with Database(url_of(path)) as database:
        service = ChatService(database)
        nobody = UserId("00000000-0000-0000-0000-000000000000")
        question = NewRun(
            message=NewMessage(role="user", content="why?"), session_id=SessionId(nobody), idempotency_key="k"
        )
        run = await service.begin_run(nobody, question, Lease(owner="tests", seconds=30))
        assert run["message_seq"] == 2
        history = await service.get_session_messages(nobody, SessionId(nobody))
        assert [message["content"] for message in history["messages"]] == ["kept", "why?"]
    assert schema_of(path) == schema_of(await _new_file(tmp_path / "new.db"))


def file_of_version(path: Path, version: int) -> Any:
    """Make a file as an earlier version left it, and return an open connection to it."""
    engine = create_engine(f"sqlite:///{path}", module=choose_library())
    with engine.begin() as connection:
        full_text.register(connection.connection.dbapi_connection)
        migrate.upgrade(connection, f"{version:04d}")
        connection.exec_driver_sql(f"PRAGMA user_version={version}")
        connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
    engine.dispose()
    opened = choose_library().connect(str(path))
    full_text.register(opened)
    return opened


async def _new_file(path: Path) -> Path:
    async with Database(url_of(path)):
        pass
    return path
