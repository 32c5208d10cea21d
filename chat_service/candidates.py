"""Candidates: the newest entries that the index of full text finds, and which of them fit what it does not know.

FTS5 is never asked for the newest first. It would have to find the end of each word's rows, and once anything was
deleted it walks all of them for that; and where the rows of two words lie apart it steps back row by row
(docs/decisions/full-text.md). So rows are read in their own order: all, where they are few, else those of a window of
the newest keys that is wide enough to hold as many as are wanted, and not many more.
"""

from math import isqrt
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Connection,
    Table,
    Text,
    bindparam,
    func,
    literal,
    not_,
    null,
    or_,
    select,
    true,
    type_coerce,
    union_all,
)

from chat_service.moments import happened_at
from chat_service.users import USER_KEY
from models import full_text
from models.prepared import Prepared
from models.tables import chat_sessions, messages, tool_usages

BLOCK = 100
"""So many candidates of each kind are ranked together."""

_FEW = 150
"""Where all rows are fewer, they are read whole."""

_RANKED_CHARACTERS = 4_096


class Reach(NamedTuple):
    """How many rows are looked at, at most and at least; the first window's keys, and how many rows are too many."""

    rows: int
    enough: int
    width: int
    limit: int


PLAIN = Reach(rows=BLOCK + 1, enough=BLOCK + 1, width=200, limit=1_000)
NARROWED = Reach(rows=20_000, enough=10_000, width=200, limit=40_000)
"""For what the index does not know, which is judged row by row."""


class Candidate(NamedTuple):
    """An entry that fits, with the beginnings of its texts."""

    entries: Table
    key: int
    moment: int
    text: str


class Candidates(NamedTuple):
    """The newest that fit, one more than a block at most.

    They lie before `edge`, which gives the same ones again whatever is appended; those before `next_edge` were not
    looked at, which is 0 where there are none.
    """

    fitting: list[Candidate]
    edge: int
    next_edge: int


def _ranked_text(entries: Table) -> Any:
    columns = (
        [entries.c.content, entries.c.parts]
        if entries is messages
        else [entries.c.tool_name, entries.c.server_name, entries.c.arguments, entries.c.result, entries.c.error]
    )
    text: Any = literal("")
    for each in columns:
        beginning = func.substr(type_coerce(each, Text), 1, _RANKED_CHARACTERS)
        text = text.concat(func.coalesce(beginning, "")).concat(" ")
    return text


def _number(name: str) -> Any:
    return bindparam(name, type_=BigInteger)


def _newest(entries: Table) -> Prepared:
    """Return the statement for the newest rows: how many, from where to where, and which of them fit.

    Its first column tells whether they are few, so that these are all, and its second how many the window holds.
    """
    index = full_text.index_of(entries.name)
    key = index.c.rowid
    found = select(key.label("key")).where(full_text.matches(index), key < bindparam("edge")).order_by(key)
    few = found.limit(_number("few")).cte("few")
    are_all = select(func.count() < _number("few")).select_from(few).scalar_subquery()
    window = found.where(not_(are_all), key >= bindparam("low")).limit(_number("most")).cte("within")
    either = union_all(select(few.c.key).where(are_all), select(window.c.key)).subquery("either")
    scanned = select(either.c.key).order_by(either.c.key.desc()).limit(_number("scan")).cte("scanned")
    keys = scanned.c.key
    totals = (
        select(
            are_all.label("are_all"),
            select(func.count()).select_from(window).scalar_subquery().label("held"),
            func.count().label("scanned"),
            func.min(keys).label("lowest"),
        )
        .select_from(scanned)
        .subquery("total")
    )
    segment = func.json_each(bindparam("segments")).table_valued("value")
    inside = select(1).where(
        entries.c.session_key == func.json_extract(segment.c.value, "$[0]"),
        entries.c.seq > func.json_extract(segment.c.value, "$[1]"),
        entries.c.seq <= func.json_extract(segment.c.value, "$[2]"),
    )
    # Asked of each candidate: joined, the owner's sessions would be the way in, and all their entries be walked.
    owned = select(1).where(chat_sessions.c.key == entries.c.session_key, chat_sessions.c.user_key == USER_KEY)
    moment = happened_at(entries)
    fitting = (
        select(entries.c.key, moment.label("moment"), _ranked_text(entries).label("text"))
        .join(scanned, keys == entries.c.key)
        .where(
            owned.exists(),
            moment.between(_number("first"), _number("last")),
            or_(bindparam("segments").is_(null()), inside.exists()),
        )
        # A sum has no index, else all entries would be walked in the order of their keys.
        .order_by((keys + 0).desc())
        .limit(BLOCK + 1)
        .subquery("fitting")
    )
    return Prepared(select(totals, fitting).select_from(totals.outerjoin(fitting, true())))


_NEWEST = {entries.name: _newest(entries) for entries in (messages, tool_usages)}


def find_newest(
    connection: Connection, entries: Table, edge: int, reach: Reach, parameters: dict[str, Any]
) -> Candidates:
    """Return the newest candidates before a key, below which everything is that is indexed.

    The parameters are `wanted`, an expression of the index; `user_id`; `first` and `last`, the microseconds when an
    entry may have happened; and `segments`, where these are to be kept to.
    """
    parameters = parameters | {"edge": edge, "few": _FEW, "most": reach.limit, "scan": reach.rows}
    narrow, wide, width = 0, 0, reach.width
    while True:
        rows = _NEWEST[entries.name].rows(connection, parameters | {"low": edge - width})
        are_all, held, scanned, lowest = rows[0][:4]
        fitting = [Candidate(entries, *row[4:]) for row in rows if row[4] is not None]
        are_all = are_all or (width >= edge and held < reach.limit)
        if are_all or (held < reach.limit and (held >= reach.enough or len(fitting) > BLOCK)):
            fitting.sort(key=lambda each: -each.key)
            unseen = 0 if are_all else edge - width
            return Candidates(fitting, edge, lowest if scanned == reach.rows else unseen)
        narrow, wide = (narrow, width) if held == reach.limit else (width, wide)
        if wide:
            # Between a window that held too few rows and one that held too many.
            width = isqrt(narrow * wide)
        else:
            # As wide as is right if the rows are everywhere as dense as here.
            width = min(edge, width * isqrt(reach.enough * reach.limit) // held) if held else edge
