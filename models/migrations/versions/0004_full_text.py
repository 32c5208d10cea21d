"""Full text: an index beside messages and tool usage, kept by triggers, and filled with what is there."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

OPTIONS = """content='', columnsize=0, tokenize="unicode61 remove_diacritics 2 categories 'L* N* M* Co'\""""
MESSAGE = (
    "coalesce('u' || (SELECT coalesce(indexed_for, user_key) FROM chat_sessions WHERE key = {0}.session_key), '')"
    " || ' s' || {0}.session_key || ' r' || {0}.role, '', "
    "message_words({0}.content, {0}.parts), message_pieces({0}.content, {0}.parts)"
)
TOOL_USAGE = (
    "coalesce('u' || (SELECT coalesce(indexed_for, user_key) FROM chat_sessions WHERE key = {0}.session_key), '')"
    " || ' s' || {0}.session_key, tool_name_words({0}.tool_name, {0}.server_name), "
    "tool_words({0}.arguments, {0}.result, {0}.error), "
    "tool_pieces({0}.tool_name, {0}.server_name, {0}.arguments, {0}.result, {0}.error)"
)
INDEXES = (
    ("message_search", "messages", "session_key, role, content, parts", MESSAGE),
    (
        "tool_usage_search",
        "tool_usages",
        "session_key, tool_name, server_name, arguments, result, error",
        TOOL_USAGE,
    ),
)


def upgrade() -> None:
    library: Any = op.get_bind().dialect.dbapi
    op.add_column("chat_sessions", sa.Column("indexed_for", sa.BigInteger(), nullable=True))
    for index, entries, indexed, words in INDEXES:
        op.execute(f"CREATE VIRTUAL TABLE {index} USING fts5(owner, name, text, pieces, {OPTIONS})")
        # Merges in steps that an append does not notice.
        op.execute(f"INSERT INTO {index}({index}, rank) VALUES ('automerge', 8)")
        if library.sqlite_version_info >= (3, 42, 0):
            op.execute(f"INSERT INTO {index}({index}, rank) VALUES ('secure-delete', 1)")
        columns = "rowid, owner, name, text, pieces"
        op.execute(
            f"INSERT INTO {index}({columns}) "
            f"SELECT each.key, {words.format('each')} FROM {entries} AS each ORDER BY key"
        )
        add = f"INSERT INTO {index}({columns}) VALUES (new.key, {words.format('new')});"
        remove = f"INSERT INTO {index}({index}, {columns}) VALUES ('delete', old.key, {words.format('old')});"
        op.execute(f"CREATE TRIGGER {index}_insert AFTER INSERT ON {entries} BEGIN {add} END")
        op.execute(f"CREATE TRIGGER {index}_delete BEFORE DELETE ON {entries} BEGIN {remove} END")
        op.execute(f"CREATE TRIGGER {index}_update AFTER UPDATE OF {indexed} ON {entries} BEGIN {remove} {add} END")
    # Before the session goes, and not by the cascade after it: an entry's words name the session's owner.
    op.execute(
        "CREATE TRIGGER search_before_session BEFORE DELETE ON chat_sessions BEGIN "
        "DELETE FROM messages WHERE session_key = old.key; DELETE FROM tool_usages WHERE session_key = old.key; END"
    )
