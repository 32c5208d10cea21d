"""Bringing a database to the newest schema, with Alembic; imported only when the schema is behind."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


def upgrade(connection: Connection, version: str = "head") -> None:
    """Run the migrations that are missing, inside the transaction that the caller has begun and will commit."""
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, version)


def newest_version() -> int:
    """Number of the newest migration on disk."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    return int(head or 0)
