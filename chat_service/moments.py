"""When an entry happened, in statements: in microseconds since 1970.

What is recorded as it happens is stored at that moment. An import comes later, so what it brings happened when its
source says so, and when it was stored only where the source says nothing that is a time.
"""

from sqlalchemy import BigInteger, ColumnElement, Table, Text, and_, case, cast, func, type_coerce

from models.tables import messages, tool_usages

MICROSECONDS = 1_000_000
_DATE = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T*"


def happened_at(entries: Table) -> ColumnElement[int]:
    """Return when an entry was said or called, or else when it was stored."""
    return func.coalesce(known_moment(entries), _plain(entries.c.created_at))


def known_moment(entries: Table) -> ColumnElement[int]:
    """Return when a call began, or a message was said by the source that it was imported from; null if not known."""
    if entries is tool_usages:
        return _plain(tool_usages.c.started_at)
    timestamp = func.json_extract(type_coerce(messages.c.message_metadata, Text), "$.timestamp")
    # Each function once, as SQLite runs it at each mention, and a search asks this of many thousand entries.
    since_1970 = func.nullif(func.max(cast(func.strftime("%s", timestamp), BigInteger), -1), -1, type_=BigInteger)
    is_date = and_(messages.c.author == "import", timestamp.op("GLOB")(_DATE))
    return case((is_date, since_1970 * MICROSECONDS))


def _plain(column: ColumnElement[int]) -> ColumnElement[int]:
    return type_coerce(column, BigInteger)
