"""Indexing: brings the index of full text up to the newest entries, many at once.

A transaction that indexes one entry writes as much to FTS5's tables as one that indexes a hundred, and that is more
than the append itself. So entries are indexed in slices after their commit: by the writer in the quiet, once enough has
been written, and before a search (docs/decisions/full-text.md).
"""

from typing import Any, NamedTuple

from sqlalchemy import Connection, Text, bindparam, func, select, type_coerce, update

from models import full_text
from models.prepared import Prepared
from models.tables import messages, search_progress, tool_usages

_ENTRIES, _CHARACTERS = 500, 200_000
"""A slice: some twenty milliseconds of work where the words are as many and as various as people's are."""

_TEXTS = {
    messages: (messages.c.content, messages.c.parts),
    tool_usages: (tool_usages.c.arguments, tool_usages.c.result, tool_usages.c.error),
}


def _indexed(entries: str) -> Any:
    return select(search_progress.c.indexed_key).where(search_progress.c.entries == entries).scalar_subquery()


def _newest(key: Any) -> Any:
    return select(func.coalesce(func.max(key), 0)).scalar_subquery()


def _next(entries: Any) -> Prepared:
    lengths = (func.coalesce(func.length(type_coerce(text, Text)), 0) for text in _TEXTS[entries])
    size: Any = sum(lengths, start=entries.c.key * 0)
    of_entries = entries.c.key > _indexed(entries.name)
    return Prepared(select(entries.c.key, size).where(of_entries).order_by(entries.c.key).limit(_ENTRIES))


_PROGRESS = Prepared(
    select(*(value for each in _TEXTS for value in (func.coalesce(_indexed(each.name), 0), _newest(each.c.key))))
)
_NEXT = {entries.name: _next(entries) for entries in _TEXTS}
_ADD = full_text.add_statements()
_ADVANCE = Prepared(
    update(search_progress)
    .where(search_progress.c.entries == bindparam("of_entries"))
    .values(indexed_key=bindparam("last"))
)


class Slice(NamedTuple):
    """How many entries a slice had, and whether every entry is indexed after it."""

    entries: int
    is_last: bool


class Progress(NamedTuple):
    """Up to which keys the messages and the tool usages are indexed, and whether those are all of them."""

    messages: int
    tool_usages: int
    is_complete: bool


def read_progress(connection: Connection) -> Progress:
    """Return how far the index is."""
    ((message, newest_message, tool_usage, newest_tool_usage),) = _PROGRESS.rows(connection, {})
    return Progress(message, tool_usage, newest_message <= message and newest_tool_usage <= tool_usage)


def index_some(connection: Connection) -> Slice:
    """Index the next slice of messages, and of tool usages."""
    slices = [_index_some(connection, entries.name) for entries in _TEXTS]
    return Slice(sum(each.entries for each in slices), all(each.is_last for each in slices))


def _index_some(connection: Connection, entries: str) -> Slice:
    found = _NEXT[entries].rows(connection, {})
    if not found:
        return Slice(0, is_last=True)
    taken, characters = 0, 0
    for _, size in found:
        taken, characters = taken + 1, characters + size
        if characters >= _CHARACTERS:
            break
    first, last = found[0][0] - 1, found[taken - 1][0]
    connection.exec_driver_sql(_ADD[entries], (first, last))
    _ADVANCE.run(connection, {"of_entries": entries, "last": last})
    return Slice(taken, is_last=taken == len(found) < _ENTRIES)
