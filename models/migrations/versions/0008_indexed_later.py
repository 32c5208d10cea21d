"""Full text is indexed after the commit, many entries at once: how far it has come, and triggers that look there."""

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


def upgrade() -> None:
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
