"""Words of deleted entries: how those leave an index of full text that FTS5 leaves in it.

Since SQLite 3.42 FTS5 overwrites the words of what is deleted in the leaves of its index, where its option
`secure-delete` is set; but not in the table beside them that says with which word each leaf begins, as a word that is
gone does as well there. Those are replaced here by the word with which the leaf begins now. (sqlite.org/fts5.html,
"FTS5 Data Structures"; how a leaf is written stands in SQLite's ext/fts5/fts5_index.c.)

Before 3.42, words stay in the index until its segments are merged, which is done here in steps (sqlite.org/fts5.html,
"The 'merge' Command"): the whole index is written anew, others write in between.
"""

from typing import Any, NamedTuple

from sqlalchemy import Connection

PAGES_PER_STEP = 250
"""So many pages of an index are merged in one transaction, more or less."""

LEAVES_PER_STEP = 1_000
"""So many leaves of an index are looked at in one transaction."""

_INDEXES = ("message_search", "tool_usage_search")
_SINCE = (3, 42, 0)


class Place(NamedTuple):
    """How far the beginnings of leaves were looked at: the index, its segment, and the word."""

    index_name: str
    segment: int
    word: bytes


BEGINNING = Place(_INDEXES[0], -1, b"")


def replace_some(connection: Connection, after: Place) -> Place | None:
    """Replace words with which leaves began once, for a step; returns how far this went, or None at the end."""
    index = after.index_name
    # A leaf's number is doubled there, and its row in the other table has the segment's in front.
    select = (
        f"SELECT segid, term, pgno, block FROM {index}_idx LEFT JOIN {index}_data "  # noqa: S608
        "ON id = (segid << 37) + (pgno >> 1) WHERE (segid, term) > (?, ?) ORDER BY segid, term LIMIT ?"
    )
    replace = f"UPDATE {index}_idx SET term = ? WHERE segid = ? AND term = ? AND pgno = ?"  # noqa: S608
    remove = f"DELETE FROM {index}_idx WHERE segid = ? AND term = ? AND pgno = ?"  # noqa: S608
    found = connection.exec_driver_sql(select, (after.segment, after.word, LEAVES_PER_STEP)).fetchall()
    for segment, word, number, leaf in found:
        if leaf is None:
            # A merge that has begun has done with this leaf: whoever looks for it is led to the first that is left.
            connection.exec_driver_sql(remove, (segment, word, number))
            continue
        first = _first_word(leaf)
        if first is not None and not first.startswith(word):
            connection.exec_driver_sql(replace, (first, segment, word, number))
    if len(found) == LEAVES_PER_STEP:
        return Place(index, found[-1].segid, found[-1].term)
    following = _INDEXES[_INDEXES.index(index) + 1 :]
    return Place(following[0], *BEGINNING[1:]) if following else None


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


def _first_word(leaf: bytes) -> bytes | None:
    """Return the word with which a leaf begins, None where it has none."""
    # Two bytes say where the places of its words begin; the first of them is written whole, after its length.
    places = int.from_bytes(leaf[2:4], "big")
    if places >= len(leaf):
        return None
    at, _ = _varint(leaf, places)
    length, at = _varint(leaf, at)
    return leaf[at : at + length]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number that is written seven bits a byte, the highest first, and where it ends."""
    number = data[at] & 0x7F
    while data[at] & 0x80:
        at += 1
        number = number << 7 | data[at] & 0x7F
    return number, at + 1


def _changes(connection: Connection) -> int:
    return int(connection.exec_driver_sql("SELECT total_changes()").scalar_one())
