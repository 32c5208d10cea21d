"""Calls by the time when they started: a record of a proxy and an imported one of the same call find each other."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_index(
        op.f("ix_tool_usages_session_key_origin_started_at"),
        "tool_usages",
        ["session_key", "origin", "started_at"],
        unique=False,
        sqlite_where=sa.text("started_at IS NOT NULL"),
    )
