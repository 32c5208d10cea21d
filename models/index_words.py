"""Words of deleted entries: how they leave an index of full text that does not overwrite them by itself.

FTS5 overwrites the words of what is deleted since SQLite 3.42, where its option `secure-delete` is set. Before, they
stay in the index until its segments are merged, which is done here in steps (sqlite.org/fts5.html, "The 'merge'
Command"): the whole index is written anew, others write in between.
"""

from typing import Any

from sqlalchemy import Connection

PAGES_PER_STEP = 250
"""So many pages of an index are merged in one transaction, more or less."""

_INDEXES = ("message_search", "tool_usage_search")
_SINCE = (3, 42, 0)


def merge_some(connection: Connection, *, is_first: bool) -> bool:
    """Merge the indexes for a step, where words of deleted entries may stand in them; tells whether there is more."""
    keeping = [index for index in _INDEXES if not _overwrites(connection, index)]
    # Each of them a step further, whatever is left of the others.
    left = [_merge(connection, index, is_first) for index in keeping]
    return any(left)


def finish(connection: Connection) -> None:
    """Let indexes that are merged overwrite words by themselves from now on, where this SQLite can."""
    library: Any = connection.dialect.dbapi
    for index in _INDEXES:
        if library.sqlite_version_info >= _SINCE and not _overwrites(connection, index):
            connection.exec_driver_sql(f"INSERT INTO {index}({index}, rank) VALUES ('secure-delete', 1)")  # noqa: S608


def _overwrites(connection: Connection, index: str) -> bool:
    option = f"SELECT v FROM {index}_config WHERE k = 'secure-delete'"  # noqa: S608
    return connection.exec_driver_sql(option).scalar() == 1


def _merge(connection: Connection, index: str, is_first: bool) -> bool:
    before = _changes(connection)
    # A negative number lets all segments be merged into one; those that follow go on with that.
    pages = -PAGES_PER_STEP if is_first else PAGES_PER_STEP
    connection.exec_driver_sql(f"INSERT INTO {index}({index}, rank) VALUES ('merge', {pages:d})")  # noqa: S608
    # The statement itself counts as one change.
    return _changes(connection) - before > 1


def _changes(connection: Connection) -> int:
    return int(connection.exec_driver_sql("SELECT total_changes()").scalar_one())
