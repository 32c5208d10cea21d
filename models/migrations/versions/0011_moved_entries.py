"""Moved entries: what goes to another session stays in the index as it is, under the session where it was."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

OWNER = (
    "coalesce('u' || (SELECT coalesce(indexed_for, user_key) FROM chat_sessions WHERE key = {0}.session_key), '')"
    " || ' s' || coalesce({0}.indexed_in, {0}.session_key)"
)
MESSAGE = (
    OWNER + " || ' r' || {0}.role, '', message_words({0}.content, {0}.parts), message_pieces({0}.content, {0}.parts)"
)
TOOL_USAGE = (
    OWNER + ", tool_name_words({0}.tool_name, {0}.server_name), tool_words({0}.arguments, {0}.result, {0}.error), "
    "tool_pieces({0}.tool_name, {0}.server_name, {0}.arguments, {0}.result, {0}.error)"
)
INDEXES = (
    ("message_search", "messages", ("role", "content", "parts"), MESSAGE),
    (
        "tool_usage_search",
        "tool_usages",
        ("tool_name", "server_name", "arguments", "result", "error"),
        TOOL_USAGE,
    ),
)


def upgrade() -> None:
    columns = "rowid, owner, name, text, pieces"
    for index, entries, indexed, words in INDEXES:
        op.add_column(entries, sa.Column("indexed_in", sa.BigInteger(), nullable=True))
        op.create_index(
            op.f(f"ix_{entries}_session_key_indexed_in"),
            entries,
            ["session_key", "indexed_in"],
            unique=False,
            sqlite_where=sa.text("indexed_in IS NOT NULL"),
        )
        for trigger in ("delete", "update"):
            op.execute(f"DROP TRIGGER {index}_{trigger}")
        add = f"INSERT INTO {index}({columns}) VALUES (new.key, {words.format('new')});"
        remove = f"INSERT INTO {index}({index}, {columns}) VALUES ('delete', old.key, {words.format('old')});"
        is_indexed = f"WHEN old.key <= (SELECT indexed_key FROM search_progress WHERE entries = '{entries}')"
        said_by = [OWNER, *("{0}." + each for each in indexed)]
        are_other = " OR ".join(f"{each.format('old')} IS NOT {each.format('new')}" for each in said_by)
        op.execute(f"CREATE TRIGGER {index}_delete BEFORE DELETE ON {entries} {is_indexed} BEGIN {remove} END")
        op.execute(
            f"CREATE TRIGGER {index}_update AFTER UPDATE OF session_key, indexed_in, {', '.join(indexed)} ON {entries} "
            f"{is_indexed} AND ({are_other}) BEGIN {remove} {add} END"
        )
