"""The record: users, chat sessions, messages, tool usage."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
KEY_GIVEN = sa.text("idempotency_key IS NOT NULL")
CALL_NAMED = sa.text("tool_call_id IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("key", KEY, nullable=False),
        sa.Column("id", sa.LargeBinary(16), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("issuer", sa.Text(), nullable=True),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("display_name", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("last_seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_users")),
        sa.UniqueConstraint("id", name=op.f("uq_users_id")),
        sa.UniqueConstraint("issuer", "subject", name=op.f("uq_users_issuer_subject")),
        sa.UniqueConstraint("username", name=op.f("uq_users_username")),
    )
    op.create_table(
        "chat_sessions",
        sa.Column("key", KEY, nullable=False),
        sa.Column("id", sa.LargeBinary(16), nullable=False),
        sa.Column("user_key", KEY, nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("client", sa.Text(), nullable=True),
        sa.Column("last_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("message_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("tool_usage_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("last_append_at", sa.BigInteger(), nullable=True),
        sa.Column("forked_from_key", KEY, nullable=True),
        sa.Column("forked_from_seq", sa.BigInteger(), nullable=True),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("source_id", sa.Text(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("digest", sa.LargeBinary(16), nullable=True),
        sa.Column("session_data", sa.Text(), nullable=True),
        sa.CheckConstraint("status IN ('active', 'archived')", name=op.f("ck_chat_sessions_status")),
        sa.ForeignKeyConstraint(
            ["forked_from_key"], ["chat_sessions.key"], name=op.f("fk_chat_sessions_forked_from_key")
        ),
        sa.ForeignKeyConstraint(
            ["user_key"], ["users.key"], name=op.f("fk_chat_sessions_user_key"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_chat_sessions")),
        sa.UniqueConstraint("id", name=op.f("uq_chat_sessions_id")),
        sa.UniqueConstraint("user_key", "idempotency_key", name=op.f("uq_chat_sessions_user_key_idempotency_key")),
        sa.UniqueConstraint("user_key", "source", "source_id", name=op.f("uq_chat_sessions_user_key_source_source_id")),
    )
    op.create_index(op.f("ix_chat_sessions_forked_from_key"), "chat_sessions", ["forked_from_key"], unique=False)
    op.create_index(op.f("ix_chat_sessions_user_key"), "chat_sessions", ["user_key"], unique=False)
    op.create_index(op.f("ix_chat_sessions_user_key_status"), "chat_sessions", ["user_key", "status"], unique=False)
    op.create_table(
        "messages",
        sa.Column("key", KEY, nullable=False),
        sa.Column("session_key", KEY, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("usage", sa.Text(), nullable=True),
        sa.Column("token_count", sa.BigInteger(), nullable=True),
        sa.Column("replaces_seq", sa.BigInteger(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("digest", sa.LargeBinary(16), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("message_metadata", sa.Text(), nullable=True),
        sa.Column("parts", sa.Text(), nullable=True),
        sa.Column("content", sa.Text(), nullable=False),
        sa.CheckConstraint("author IN ('user', 'agent', 'import', 'proxy')", name=op.f("ck_messages_author")),
        sa.CheckConstraint("kind IN ('message', 'summary', 'pin', 'replacement')", name=op.f("ck_messages_kind")),
        sa.CheckConstraint("role IN ('system', 'user', 'assistant', 'tool')", name=op.f("ck_messages_role")),
        sa.ForeignKeyConstraint(
            ["session_key"], ["chat_sessions.key"], name=op.f("fk_messages_session_key"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_messages")),
        sa.UniqueConstraint("session_key", "seq", name=op.f("uq_messages_session_key_seq")),
    )
    op.create_index(
        op.f("ix_messages_session_key_idempotency_key"),
        "messages",
        ["session_key", "idempotency_key"],
        unique=True,
        sqlite_where=KEY_GIVEN,
    )
    op.create_table(
        "tool_call_references",
        sa.Column("session_key", KEY, nullable=False),
        sa.Column("tool_call_id", sa.Text(), nullable=False),
        sa.Column("message_seq", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_key"], ["chat_sessions.key"], name=op.f("fk_tool_call_references_session_key"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("session_key", "tool_call_id", "message_seq", name=op.f("pk_tool_call_references")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "tool_usages",
        sa.Column("key", KEY, nullable=False),
        sa.Column("session_key", KEY, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("message_seq", sa.BigInteger(), nullable=True),
        sa.Column("tool_call_id", sa.Text(), nullable=True),
        sa.Column("server_name", sa.Text(), nullable=True),
        sa.Column("tool_name", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("duration_ms", sa.Float(), nullable=True),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("digest", sa.LargeBinary(16), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("arguments", sa.Text(), nullable=False),
        sa.Column("result", sa.Text(), nullable=True),
        sa.CheckConstraint("origin IN ('user', 'agent', 'import', 'proxy')", name=op.f("ck_tool_usages_origin")),
        sa.CheckConstraint(
            "status IN ('success', 'error', 'cancelled', 'unknown')", name=op.f("ck_tool_usages_status")
        ),
        sa.ForeignKeyConstraint(
            ["session_key"], ["chat_sessions.key"], name=op.f("fk_tool_usages_session_key"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_tool_usages")),
        sa.UniqueConstraint("session_key", "seq", name=op.f("uq_tool_usages_session_key_seq")),
    )
    op.create_index(
        op.f("ix_tool_usages_session_key_idempotency_key"),
        "tool_usages",
        ["session_key", "idempotency_key"],
        unique=True,
        sqlite_where=KEY_GIVEN,
    )
    op.create_index(
        op.f("ix_tool_usages_session_key_tool_call_id"),
        "tool_usages",
        ["session_key", "tool_call_id"],
        unique=False,
        sqlite_where=CALL_NAMED,
    )
