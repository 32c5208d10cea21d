"""Deletion in steps, and sessions that were merged into another."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("users", sa.Column("deleted_at", sa.BigInteger(), nullable=True))
    op.create_index(
        op.f("ix_users_deleted_at"),
        "users",
        ["deleted_at"],
        unique=False,
        sqlite_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.add_column("chat_sessions", sa.Column("merged_into", sa.LargeBinary(16), nullable=True))
