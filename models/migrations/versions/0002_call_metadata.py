"""What is known of a tool call besides itself: the client that made it, its trace.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column; it is empty in the rows that there are."""
    op.add_column("tool_usages", sa.Column("call_metadata", sa.Text(), nullable=True))
