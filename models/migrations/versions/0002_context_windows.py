"""Context windows: the tokens of tool usage, and pins, summaries and corrections that are found at once.

Tool usage from before has no token count; it is estimated from its length where it is read.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("tool_usages", sa.Column("token_count", sa.BigInteger(), nullable=True))
    op.create_index(
        op.f("ix_messages_session_key_kind_seq"),
        "messages",
        ["session_key", "kind", "seq"],
        unique=False,
        sqlite_where=sa.text("kind != 'message'"),
    )
    op.create_index(
        op.f("ix_messages_session_key_replaces_seq_seq"),
        "messages",
        ["session_key", "replaces_seq", "seq"],
        unique=False,
        sqlite_where=sa.text("replaces_seq IS NOT NULL"),
    )
