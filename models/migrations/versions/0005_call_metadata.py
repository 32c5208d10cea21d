"""What is known of a tool call besides itself: the client that made it, its trace."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("tool_usages", sa.Column("call_metadata", sa.Text(), nullable=True))
