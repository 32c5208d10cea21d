"""The command that shows what answers cost and which tools were called."""

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any, Literal

import typer

from models.errors import Invalid
from models.ids import SessionId
from models.inputs import TimeRange
from models.total_shapes import TokenSummaryDict, TokenTotalDict, ToolSummaryDict, ToolTotalDict
from server.command_line.local import as_local_user
from server.command_line.sessions import AsJson
from server.command_line.terminal import in_one_line, local_time, say, say_json
from server.record import Caller

_PIPED_WIDTH = 1_000
_NAME_WIDTH = 60
_LEAST_NAME_WIDTH = 12

Row = tuple[str, ...]


def usage(
    by: Annotated[Literal["model", "tool", "day", "session"], typer.Option(help="What the totals are of.")] = "model",
    session: Annotated[str | None, typer.Option(help="Only this session, with what it inherits.")] = None,
    since: Annotated[str | None, typer.Option(help="From this day or time on, such as 2026-01-31.")] = None,
    until: Annotated[str | None, typer.Option(help="Before this day or time.")] = None,
    utc_offset: Annotated[
        int, typer.Option(min=-720, max=840, help="Minutes that your midnight is ahead of that of UTC.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Sum up the tokens that answers cost, by model, day or session, or the calls of each tool."""
    zone = timezone(timedelta(minutes=utc_offset))
    times = TimeRange(since=_moment("since", since, zone), until=_moment("until", until, zone))
    session_id = None if session is None else SessionId(session)

    async def tokens(caller: Caller) -> TokenSummaryDict:
        group = "model" if by == "tool" else by
        return await caller.service.summarize_token_usage(caller.user_id, session_id, group, times, utc_offset)

    async def tools(caller: Caller) -> ToolSummaryDict:
        return await caller.service.summarize_tool_usage(caller.user_id, session_id, times=times)

    if by == "tool":
        calls = as_local_user(tools)
        found: Any = calls
        heading: Row = ("tool", *_TOOL_HEADING)
        rows = [_tool_row(tool) for tool in calls["tools"]]
        total: Row = ("all", str(calls["calls"]), str(calls["errors"]), str(calls["unknown"]), "", "", "", "")
        left_out = calls["left_out"]
    else:
        found = costs = as_local_user(tokens)
        counts = _COUNTS | {name: title for name, title in _RARER_COUNTS.items() if costs[name]}
        heading = (by, *counts.values())
        rows = [(_name(each["name"] or "unknown"), *_numbers(each, counts)) for each in costs["totals"]]
        total = ("all", *_numbers(costs, counts))
        left_out = costs["left_out"]
    if as_json:
        say_json(found)
    elif not rows:
        say("nothing counted yet" if since is until is None else "nothing counted in that time")
    else:
        _print_table(heading, [*rows, total])
        if left_out:
            say(f"{left_out} more in the last line")


_Count = Literal[
    "messages",
    "without_figures",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
]
_COUNTS: dict[_Count, str] = {
    "messages": "messages",
    "without_figures": "without figures",
    "input_tokens": "input tokens",
    "output_tokens": "output tokens",
}
_RARER_COUNTS: dict[_Count, str] = {
    "cache_read_tokens": "cache read",
    "cache_write_tokens": "cache written",
    "reasoning_tokens": "reasoning",
}
"""Counts that have a column where there are any."""
_TOOL_HEADING = ("calls", "errors", "no end", "total ms", "p50 ms", "p95 ms", "last used")


def _moment(name: str, text: str | None, zone: timezone) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Invalid(f"{name} is no day or time: write it like 2026-01-31 or 2026-01-31T12:00:00Z.") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)


def _numbers(of: TokenSummaryDict | TokenTotalDict, counts: Iterable[_Count]) -> Row:
    return tuple(f"{of[name]:,}" for name in counts)


def _tool_row(total: ToolTotalDict) -> Row:
    server = total["server_name"]
    durations = (total["total_duration_ms"], total["p50_duration_ms"], total["p95_duration_ms"])
    return (
        _name(total["tool_name"] if server is None else f"{server}: {total['tool_name']}"),
        *(str(count) for count in (total["calls"], total["errors"], total["unknown"])),
        *("" if duration is None else f"{duration:,.0f}" for duration in durations),
        local_time(total["last_used_at"]),
    )


def _name(text: str) -> str:
    """Return stored text as it may stand in one line of a terminal."""
    line = in_one_line(text)
    return line if len(line) <= _NAME_WIDTH else f"{line[: _NAME_WIDTH - 1]}…"


def _print_table(heading: Row, rows: list[Row]) -> None:
    """Print a table; where a terminal is too narrow for it titles take two lines and names are cut, numbers never."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    cells = list(zip(*rows, strict=True))
    widths = [max(map(cell_len, (title, *column))) for title, column in zip(heading, cells, strict=True)]
    gaps = 2 * (len(widths) - 1)
    if sum(widths) + gaps > console.width:
        widths[1:] = [max(map(cell_len, (*heading[n].split(), *cells[n]))) for n in range(1, len(widths))]
        room = console.width - sum(widths[1:]) - gaps
        # An id that is cut is none.
        least = widths[0] if heading[0] == "session" else _LEAST_NAME_WIDTH
        widths[0] = min(widths[0], max(room, least))
        console.width = max(console.width, sum(widths) + gaps)
    table = Table(box=None, pad_edge=False)
    for number, (title, width) in enumerate(zip(heading, widths, strict=True)):
        table.add_column(title, no_wrap=not number, justify="right" if number else "left", width=width)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
