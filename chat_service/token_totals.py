"""Tokens: what the answers of models cost, by model, by day or by session.

A message whose provider gave no figures is counted as such: it adds nothing, and is never taken for one that cost
nothing.
"""

from collections.abc import Sequence
from datetime import date
from typing import Any, get_args

from sqlalchemy import BigInteger, ColumnElement, Connection, FromClause, Text, case, func, select, type_coerce
from typing_extensions import TypedDict

from chat_service.moments import MICROSECONDS, happened_at
from chat_service.totals import entries_of, in_time
from chat_service.users import get_user_key
from models.errors import Invalid
from models.ids import SessionId, UserId
from models.inputs import TimeRange, TokenGroup, Usage
from models.tables import messages
from models.total_shapes import TokenSummaryDict, TokenTotalDict

MAX_TOTALS = 400
"""So many groups are summarized one by one, more than a year of days; the rest are counted."""

_DAY = 86_400 * MICROSECONDS
_EPOCH = date(1970, 1, 1).toordinal()
_HALF = 2**32
"""Counts are added in halves: a sum of numbers up to 2 to the power of 53 need not fit SQLite's integers."""
_COUNTS = tuple(Usage.model_fields)


class _Figures(TypedDict):
    messages: int
    without_figures: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int


_LEAST_OFFSET, _GREATEST_OFFSET = -12 * 60, 14 * 60


def summarize(
    connection: Connection,
    user_id: UserId,
    session_id: SessionId | None = None,
    by: TokenGroup = "model",
    times: TimeRange | None = None,
    utc_offset_minutes: int = 0,
) -> TokenSummaryDict:
    """Return the tokens that the answers of models cost: of one session, or of all the user's sessions.

    Counted are messages of assistants, and others that say what they cost. Raises Invalid and NotFound.
    """
    if by not in get_args(TokenGroup):
        raise Invalid(f"by must be one of {', '.join(get_args(TokenGroup))}.")
    if not _LEAST_OFFSET <= utc_offset_minutes <= _GREATEST_OFFSET:
        raise Invalid(f"utc_offset_minutes must be between {_LEAST_OFFSET} and {_GREATEST_OFFSET}.")
    found, session, parameters = entries_of(connection, messages, user_id, session_id)
    moment = happened_at(messages)
    group = {"model": messages.c.model, "day": _day_of(moment, utc_offset_minutes), "session": session}[by]
    usage = type_coerce(messages.c.usage, Text)
    counts = {name: func.json_extract(usage, f"$.{name}", type_=BigInteger) for name in _COUNTS}
    counted = (messages.c.role == "assistant") | messages.c.usage.is_not(None)
    columns = [group.label("name"), *(count.label(name) for name, count in counts.items())]
    # With a limit, SQLite reads each count once; without one, it would again at each mention below.
    answers = found.where(counted, *in_time(moment, times)).with_only_columns(*columns).limit(-1).subquery()
    has_no_figures = func.coalesce(*(answers.c[name] for name in _COUNTS)).is_(None)
    sums = [
        func.coalesce(func.sum(half), 0).label(f"{name}_{number}")
        for name in _COUNTS
        for number, half in enumerate((answers.c[name] // _HALF, answers.c[name] % _HALF))
    ]
    groups = (
        select(
            answers.c.name,
            func.count().label("messages"),
            func.sum(case((has_no_figures, 1), else_=0)).label("without_figures"),
            *sums,
        )
        .group_by(answers.c.name)
        .subquery()
    )
    each = list(groups.c)[1:]
    # The sums over all groups come with each row, so that the messages are read once.
    page = select(*groups.c, func.count().over(), *(func.sum(column).over() for column in each))
    order = [groups.c.name.desc()] if by == "day" else [_size(groups).desc(), groups.c.messages.desc(), groups.c.name]
    rows = connection.execute(page.order_by(*order).limit(MAX_TOTALS), parameters).fetchall()
    if not rows:
        if session_id is None:
            get_user_key(connection, user_id)
        return {"by": by, **_figures([0] * (2 + 2 * len(_COUNTS))), "totals": [], "left_out": 0}
    width = len(each)
    totals: list[TokenTotalDict] = [{"name": _name_of(by, row[0]), **_figures(row[1 : width + 1])} for row in rows]
    left_out = rows[0][width + 1] - len(rows)
    return {"by": by, **_figures(rows[0][width + 2 :]), "totals": totals, "left_out": left_out}


def _day_of(moment: ColumnElement[int], offset_minutes: int) -> ColumnElement[int]:
    """Return the number of the day since 1970, rounded down also before it, within the years that have names."""
    local = moment + offset_minutes * 60 * MICROSECONDS
    day = (local - (local % _DAY + _DAY) % _DAY) // _DAY
    return func.min(func.max(day, date.min.toordinal() - _EPOCH), date.max.toordinal() - _EPOCH)


def _size(groups: FromClause) -> ColumnElement[float]:
    """Return about how many tokens went to and fro: those of a cache are within the input tokens or beside them."""
    of = {name: groups.c[f"{name}_0"] * float(_HALF) + groups.c[f"{name}_1"] for name in _COUNTS}
    cached = of["cache_read_tokens"] + of["cache_write_tokens"]
    return func.max(of["input_tokens"], cached) + of["output_tokens"]


def _name_of(by: TokenGroup, name: Any) -> str | None:
    return date.fromordinal(_EPOCH + name).isoformat() if by == "day" else name


def _figures(counts: Sequence[int]) -> _Figures:
    number, without, *halves = counts
    sums = [high * _HALF + low for high, low in zip(halves[::2], halves[1::2], strict=True)]
    given, written, cache_read, cache_written, reasoning = sums
    return {
        "messages": number,
        "without_figures": without,
        "input_tokens": given,
        "output_tokens": written,
        "cache_read_tokens": cache_read,
        "cache_write_tokens": cache_written,
        "reasoning_tokens": reasoning,
    }
