"""Cheaper appends: full text is indexed after the commit, many entries at once, and checks are written as ORs.

SQLite builds a table of the values of an IN at each insert. A check cannot be altered but in the schema's own text, as
sqlite.org/lang_altertable.html describes; an SQLite that is built to protect that text keeps the checks as they were.
"""

import re
from contextlib import suppress

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

OWNER = (
    "coalesce('u' || (SELECT coalesce(indexed_for, user_key) FROM chat_sessions WHERE key = {0}.session_key), '')"
    " || ' s' || {0}.session_key"
)
MESSAGE = (
    OWNER + " || ' r' || {0}.role, '', message_words({0}.content, {0}.parts), message_pieces({0}.content, {0}.parts)"
)
TOOL_USAGE = (
    OWNER + ", tool_name_words({0}.tool_name, {0}.server_name), tool_words({0}.arguments, {0}.result, {0}.error), "
    "tool_pieces({0}.tool_name, {0}.server_name, {0}.arguments, {0}.result, {0}.error)"
)
INDEXES = (
    ("message_search", "messages", "session_key, role, content, parts", MESSAGE),
    ("tool_usage_search", "tool_usages", "session_key, tool_name, server_name, arguments, result, error", TOOL_USAGE),
)


CHECK = re.compile(r"CHECK \((\w+) IN \(([^)]*)\)\)")


def upgrade() -> None:
    index_later()
    with suppress(sa.exc.DatabaseError):
        write_checks_as_ors()


def write_checks_as_ors() -> None:
    connection = op.get_bind()
    found = connection.exec_driver_sql(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND sql LIKE '%CHECK%'"
    )
    written = [(CHECK.sub(as_ors, sql), name) for name, sql in found]
    (version,) = connection.exec_driver_sql("PRAGMA schema_version").one()
    connection.exec_driver_sql("PRAGMA writable_schema=ON")
    try:
        for each in written:
            connection.exec_driver_sql("UPDATE sqlite_schema SET sql = ? WHERE type = 'table' AND name = ?", each)
        # Every connection reads the schema anew.
        connection.exec_driver_sql(f"PRAGMA schema_version={version + 1}")
    finally:
        connection.exec_driver_sql("PRAGMA writable_schema=OFF")


def as_ors(check: re.Match[str]) -> str:
    column, values = check.groups()
    return "CHECK (" + " OR ".join(f"{column} = {value}" for value in values.split(", ")) + ")"


def index_later() -> None:
    op.create_table(
        "search_progress",
        sa.Column("entries", sa.Text(), nullable=False),
        sa.Column("indexed_key", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("entries", name=op.f("pk_search_progress")),
    )
    columns = "rowid, owner, name, text, pieces"
    for index, entries, indexed, words in INDEXES:
        newest = f"(SELECT coalesce(max(key), 0) FROM {entries})"
        op.execute(f"INSERT INTO search_progress (entries, indexed_key) VALUES ('{entries}', {newest})")
        for trigger in ("insert", "delete", "update"):
            op.execute(f"DROP TRIGGER {index}_{trigger}")
        add = f"INSERT INTO {index}({columns}) VALUES (new.key, {words.format('new')});"
        remove = f"INSERT INTO {index}({index}, {columns}) VALUES ('delete', old.key, {words.format('old')});"
        progress = f"(SELECT indexed_key FROM search_progress WHERE entries = '{entries}')"
        is_indexed = f"WHEN old.key <= {progress}"
        step_back = f"UPDATE search_progress SET indexed_key = {newest} WHERE entries = '{entries}';"
        op.execute(f"CREATE TRIGGER {index}_delete BEFORE DELETE ON {entries} {is_indexed} BEGIN {remove} END")
        op.execute(
            f"CREATE TRIGGER {index}_deleted AFTER DELETE ON {entries} WHEN {progress} > {newest} BEGIN {step_back} END"
        )
        op.execute(
            f"CREATE TRIGGER {index}_update AFTER UPDATE OF {indexed} ON {entries} {is_indexed} "
            f"BEGIN {remove} {add} END"
        )
