"""Erasure: the audit log with its receipts, deletions whose bytes are not overwritten yet, and tombstones."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("users", sa.Column("erasure", sa.BigInteger(), nullable=True))
    op.create_table(
        "audit_log",
        sa.Column("key", KEY, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("user_key", KEY, nullable=True),
        sa.Column("salt", sa.LargeBinary(16), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("chain", sa.LargeBinary(32), nullable=False),
        sa.CheckConstraint(
            "action = 'session_deleted' OR action = 'user_deleted' OR action = 'erased'",
            name=op.f("ck_audit_log_action"),
        ),
        sa.ForeignKeyConstraint(["user_key"], ["users.key"], name=op.f("fk_audit_log_user_key")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_audit_log")),
    )
    op.create_index(op.f("ix_audit_log_user_key"), "audit_log", ["user_key"], unique=False)
    op.create_table(
        "erasures",
        sa.Column("receipt", KEY, nullable=False),
        sa.Column("scope", sa.LargeBinary(16), nullable=False),
        sa.Column("blobs", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("source_records", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(["receipt"], ["audit_log.key"], name=op.f("fk_erasures_receipt")),
        sa.PrimaryKeyConstraint("receipt", name=op.f("pk_erasures")),
    )
    op.create_table(
        "tombstones",
        sa.Column("digest", sa.LargeBinary(16), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_tombstones")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "salts",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("salt", sa.LargeBinary(32), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_salts")),
        sqlite_with_rowid=False,
    )
