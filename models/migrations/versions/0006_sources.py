"""Where imported sessions came from: their records as they were, and what was attached to messages."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "blobs",
        sa.Column("key", KEY, nullable=False),
        sa.Column("sha256", sa.LargeBinary(32), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_blobs")),
        sa.UniqueConstraint("sha256", name=op.f("uq_blobs_sha256")),
    )
    op.create_table(
        "blob_references",
        sa.Column("session_key", KEY, nullable=False),
        sa.Column("message_seq", sa.BigInteger(), nullable=False),
        sa.Column("blob_key", KEY, nullable=False),
        sa.ForeignKeyConstraint(
            ["blob_key"], ["blobs.key"], name=op.f("fk_blob_references_blob_key"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["session_key"], ["chat_sessions.key"], name=op.f("fk_blob_references_session_key"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("session_key", "message_seq", "blob_key", name=op.f("pk_blob_references")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_blob_references_blob_key"), "blob_references", ["blob_key"], unique=False)
    op.create_table(
        "source_records",
        sa.Column("key", KEY, nullable=False),
        sa.Column("session_key", KEY, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("native_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(16), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("moment", sa.BigInteger(), nullable=True),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_key"], ["chat_sessions.key"], name=op.f("fk_source_records_session_key"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_source_records")),
        sa.UniqueConstraint("session_key", "native_id", name=op.f("uq_source_records_session_key_native_id")),
        sa.UniqueConstraint("session_key", "number", name=op.f("uq_source_records_session_key_number")),
    )
