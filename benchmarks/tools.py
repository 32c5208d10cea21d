"""Each tool beside a tool that does nothing, over one connection each to our server and to one of the same SDK."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import count
from typing import Any

from benchmarks.databases import Databases, Place, text_of
from benchmarks.measure import Call, in_turn
from benchmarks.report import Cell, Report, Table, timings_table
from benchmarks.scale import Scale
from benchmarks.wire import BARE, HELLO, OURS, Wire, connected

Arguments = Callable[[], dict[str, Any]]

_FLOOR = "a tool that does nothing"


async def run(databases: Databases, scale: Scale) -> Report:
    """Measure every tool that the server lists."""
    place = databases.large("tools")
    async with AsyncExitStack() as stack:
        hello = await stack.enter_async_context(connected(HELLO))
        bare = await stack.enter_async_context(connected(BARE))
        ours = await stack.enter_async_context(connected(OURS, place.environment))
        takes: dict[str, Call] = {
            _FLOOR: lambda: hello.call("nothing", {}),
            "the same on the SDK's low-level server": lambda: bare.call("nothing", {}),
        }
        known = _arguments(place)
        listed = [tool["name"] for tool in (await ours.ask("tools/list", {}))["tools"]]
        takes |= {name: _call(ours, name, known[name]) for name in listed if name in known}
        timings = await in_turn(takes, scale.rounds, scale.calls)
    title = f"Each tool over MCP, stdio, in a database of {scale.messages:,} messages"
    table = timings_table(title, timings, dict.fromkeys(takes, _FLOOR))
    _add_unknown(table, [name for name in listed if name not in known])
    return Report([table])


def _arguments(place: Place) -> dict[str, Arguments]:
    """Return what each tool is called with; a tool that stands here and is not listed is not called."""
    session, numbers, doomed = place.others[0], count(), iter(place.others[::-1])
    in_session = {"session_id": session}
    return {
        "start_session": lambda: {"title": f"Session {next(numbers)}"},
        "list_sessions": dict,
        "get_active_session": dict,
        "update_session": lambda: {**in_session, "title": f"Title {next(numbers)}"},
        "fork_session": lambda: {**in_session, "at_seq": 10},
        "delete_session": lambda: {"session_id": next(doomed)},
        "add_messages": lambda: {**in_session, "messages": [{"role": "user", "content": text_of(next(numbers))}]},
        "log_tool_usage": lambda: {
            **in_session,
            "tool_name": "read_file",
            "arguments": {"path": f"file-{next(numbers)}.txt"},
            "result": {"text": text_of(0)},
        },
        "get_session_history": lambda: in_session,
        "get_context": lambda: {**in_session, "token_budget": 4_000},
        "search_history": lambda: {"query": "found again"},
        "list_tool_usage": lambda: in_session,
    }


def _call(wire: Wire, name: str, arguments: Arguments) -> Call:
    return lambda: wire.call(name, arguments())


def _add_unknown(table: Table, names: list[str]) -> None:
    nothing: list[Cell] = ["not measured", *[None for _ in table.columns[1:]]]
    table.rows.extend([name, *nothing] for name in names)
