"""Tokens: what the answers of models cost, by model, by day or by session.

A message whose provider gave no figures is counted as such: it adds nothing, and is never taken for one that cost
nothing.
"""

from collections.abc import Sequence
from datetime import date
from typing import Any, get_args

from sqlalchemy import BigInteger, ColumnElement, Connection, Text, case, func, select, type_coerce
from typing_extensions import TypedDict

from chat_service.totals import MICROSECONDS, entries_of, in_time, said_at
from chat_service.users import get_user_key
from models.errors import Invalid
from models.ids import SessionId, UserId
from models.inputs import TimeRange, TokenGroup
from models.shapes import TokenSummaryDict, TokenTotalDict
from models.tables import messages

MAX_TOTALS = 400
"""So many groups are summarized one by one, more than a year of days; the rest are counted."""

_DAY = 86_400 * MICROSECONDS
_EPOCH = date(1970, 1, 1).toordinal()
_HALF = 2**32
"""Counts are added in halves: a sum of numbers up to 2 to the power of 53 need not fit SQLite's integers."""


class _Figures(TypedDict):
    messages: int
    without_figures: int
    input_tokens: int
    output_tokens: int


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
    moment = said_at()
    group = {"model": messages.c.model, "day": _day_of(moment, utc_offset_minutes), "session": session}[by]
    usage = type_coerce(messages.c.usage, Text)
    counts = {
        name: func.json_extract(usage, f"$.{name}", type_=BigInteger) for name in ("input_tokens", "output_tokens")
    }
    has_no_figures = func.coalesce(*counts.values()).is_(None)
    sums = [
        func.coalesce(func.sum(half), 0).label(f"{name}_{number}")
        for name, count in counts.items()
        for number, half in enumerate((count // _HALF, count % _HALF))
    ]
    counted = (messages.c.role == "assistant") | messages.c.usage.is_not(None)
    groups = (
        found.where(counted, *in_time(moment, times))
        .with_only_columns(
            group.label("name"),
            func.count().label("messages"),
            func.sum(case((has_no_figures, 1), else_=0)).label("without_figures"),
            *sums,
        )
        .group_by("name")
        .subquery()
    )
    each = list(groups.c)[1:]
    # The sums over all groups come with each row, so that the messages are read once.
    page = select(*groups.c, func.count().over(), *(func.sum(column).over() for column in each))
    size = (groups.c.input_tokens_0 + groups.c.output_tokens_0).desc()
    size_within = (groups.c.input_tokens_1 + groups.c.output_tokens_1).desc()
    order = [groups.c.name.desc()] if by == "day" else [size, size_within, groups.c.messages.desc(), groups.c.name]
    rows = connection.execute(page.order_by(*order).limit(MAX_TOTALS), parameters).fetchall()
    if not rows:
        if session_id is None:
            get_user_key(connection, user_id)
        return {"by": by, **_figures((0, 0, 0, 0, 0, 0)), "totals": [], "left_out": 0}
    width = len(each)
    totals: list[TokenTotalDict] = [{"name": _name_of(by, row[0]), **_figures(row[1 : width + 1])} for row in rows]
    left_out = rows[0][width + 1] - len(rows)
    return {"by": by, **_figures(rows[0][width + 2 :]), "totals": totals, "left_out": left_out}


def _day_of(moment: ColumnElement[int], offset_minutes: int) -> ColumnElement[int]:
    """Return the number of the day since 1970, rounded down also before it, within the years that have names."""
    local = moment + offset_minutes * 60 * MICROSECONDS
    day = (local - (local % _DAY + _DAY) % _DAY) // _DAY
    return func.min(func.max(day, date.min.toordinal() - _EPOCH), date.max.toordinal() - _EPOCH)


def _name_of(by: TokenGroup, name: Any) -> str | None:
    return date.fromordinal(_EPOCH + name).isoformat() if by == "day" else name


def _figures(counts: Sequence[int]) -> _Figures:
    number, without, input_high, input_low, output_high, output_low = counts
    return {
        "messages": number,
        "without_figures": without,
        "input_tokens": input_high * _HALF + input_low,
        "output_tokens": output_high * _HALF + output_low,
    }
