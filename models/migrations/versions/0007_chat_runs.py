"""Chat runs: an answer that is being made, leased by the process at work, so that a retry can tell it from a crash."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "chat_runs",
        sa.Column("key", KEY, nullable=False),
        sa.Column("id", sa.LargeBinary(16), nullable=False),
        sa.Column("user_key", KEY, nullable=False),
        sa.Column("session_key", KEY, nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(16), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("message_seq", sa.BigInteger(), nullable=False),
        sa.Column("lease_owner", sa.Text(), nullable=False),
        sa.Column("lease_expires_at", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("calls", sa.Text(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.CheckConstraint("state IN ('running', 'done', 'failed')", name=op.f("ck_chat_runs_state")),
        sa.ForeignKeyConstraint(
            ["session_key"], ["chat_sessions.key"], name=op.f("fk_chat_runs_session_key"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["user_key"], ["users.key"], name=op.f("fk_chat_runs_user_key"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_chat_runs")),
        sa.UniqueConstraint("id", name=op.f("uq_chat_runs_id")),
        sa.UniqueConstraint("user_key", "idempotency_key", name=op.f("uq_chat_runs_user_key_idempotency_key")),
    )
    op.create_index(op.f("ix_chat_runs_session_key_state"), "chat_runs", ["session_key", "state"], unique=False)
