"""The shapes of what is counted and summed up; like all that leaves (`models.shapes`), plain dicts that are JSON."""

from typing_extensions import TypedDict

from models.inputs import TokenGroup


class ToolCountDict(TypedDict):
    """How often a tool of a server was called, how often in error, and how long altogether."""

    tool_name: str
    server_name: str | None
    calls: int
    errors: int
    total_duration_ms: float


class ToolCountsDict(TypedDict):
    """Counts of tool usage, most used tool first; `left_out` counts the tools that did not fit."""

    calls: int
    errors: int
    tools: list[ToolCountDict]
    left_out: int


class ToolTotalDict(TypedDict):
    """How often a tool of a server was called, how often in vain, and how long it took.

    `unknown` counts the calls whose end nobody saw. The median and the 95th percentile (nearest rank) are those of the
    calls whose duration is known, None where there is none.
    """

    tool_name: str
    server_name: str | None
    calls: int
    errors: int
    unknown: int
    total_duration_ms: float
    p50_duration_ms: float | None
    p95_duration_ms: float | None
    last_used_at: str


class ToolSummaryDict(TypedDict):
    """Totals of tool usage, most used tool first; `left_out` counts the tools that did not fit."""

    calls: int
    errors: int
    unknown: int
    tools: list[ToolTotalDict]
    left_out: int


class TokenTotalDict(TypedDict):
    """What the answers of a model, of a day or in a session cost; of `without_figures` it is not known.

    `name` is the model, None where it is not known, the day as 2026-01-31, or the session's id. Whether a count holds
    another is said by `Usage`; one that no provider gave is 0.
    """

    name: str | None
    messages: int
    without_figures: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int


class TokenSummaryDict(TypedDict):
    """Totals of tokens, the largest first, or the newest day; `left_out` counts the groups that did not fit."""

    by: TokenGroup
    messages: int
    without_figures: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    totals: list[TokenTotalDict]
    left_out: int
