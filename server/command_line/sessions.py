"""Commands that look at sessions: list them, show one; those that change one are in `session_changes`."""

import sys
from collections.abc import AsyncIterator
from contextlib import nullcontext, suppress
from typing import Annotated, Any

import typer

from chat_service.limits import MAX_WAIT_SECONDS
from models.ids import SessionId
from models.inputs import SessionStatus
from models.shapes import HistoryDict, SessionDict, SessionPageDict
from models.text import to_json
from server.command_line import session_changes
from server.command_line.local import as_local_user
from server.command_line.terminal import in_one_line, local_time, printable, say, say_json
from server.export.reading import Entry, heading_of, outcome_of, parts_of, time_of
from server.record import Caller

_PAGE = 200
_CUT = 2_000
_INDENT = "    "
_HEADING = ("id", "status", "entries", "last entry")
_FACTS = "{:<36}  {:<8}  {:>7}  {:<16}"
_LEAST_TITLE = 24

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def build() -> typer.Typer:
    """Return the group of commands, which without a command lists."""
    group = typer.Typer()
    group.callback(invoke_without_command=True)(list_sessions)
    for command in (
        session_changes.rename,
        session_changes.archive,
        session_changes.reopen,
        session_changes.fork,
        session_changes.merge,
        session_changes.delete,
    ):
        group.command()(command)
    return group


def list_sessions(
    context: typer.Context,
    query: Annotated[str | None, typer.Option(help="Only titles that contain this.")] = None,
    status: Annotated[SessionStatus | None, typer.Option(help="Only active or only archived ones.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many at most.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="The cursor that the page before ended with.")] = None,
    as_json: AsJson = False,
) -> None:
    """List your sessions, newest first; the commands change one."""
    if context.invoked_subcommand is not None:
        return

    async def page(caller: Caller) -> SessionPageDict:
        return await caller.service.get_user_sessions(caller.user_id, query, status, limit, cursor)

    found = as_local_user(page)
    if as_json:
        say_json(found)
        return
    _print_table(found["sessions"])
    if found["next_cursor"]:
        say(f"more: mcp-chat-server sessions --limit {limit} --cursor {found['next_cursor']}")


def show(
    session_id: Annotated[str, typer.Argument(help="The session's id, as `sessions` lists it.")],
    after_seq: Annotated[int, typer.Option(min=0, help="Begin after this entry.")] = 0,
    last: Annotated[int | None, typer.Option(min=0, help="Begin with so many entries before the end.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is appended, by any client, until Ctrl-C.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Do not cut long texts.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a session from its beginning, or its last entries, one by one."""

    async def print_entries(caller: Caller) -> None:
        is_first, start = True, after_seq
        if last is not None:
            session = await caller.service.get_session(caller.user_id, SessionId(session_id))
            start = max(after_seq, session["last_seq"] - last)
        async for window in _windows(caller, SessionId(session_id), start, follow=follow):
            if is_first and not as_json:
                session = window["session"]
                title = in_one_line(session["title"] or "Untitled")
                say(f"{title} ({session['status']}, {session['last_seq']} entries)")
            is_first = False
            for entry in window["entries"]:
                if as_json:
                    say_json(entry)
                else:
                    _print_entry(entry, full=full)
            # Whoever follows sees it now, also through a pipe.
            sys.stdout.flush()

    with suppress(KeyboardInterrupt) if follow else nullcontext():
        as_local_user(print_entries)


async def _windows(caller: Caller, session_id: SessionId, seq: int, *, follow: bool) -> AsyncIterator[HistoryDict]:
    while True:
        window = await caller.service.get_session_history(caller.user_id, session_id, _PAGE, after_seq=seq)
        yield window
        seq = max(seq, window["after_seq"])
        while not window["newer"]:
            if not follow:
                return
            session = await caller.service.wait_for_entries(caller.user_id, session_id, seq, MAX_WAIT_SECONDS)
            if session["last_seq"] > seq:
                break


def _print_entry(entry: Entry, *, full: bool) -> None:
    if "message_type" in entry:
        lines = [_said(part) for part in parts_of(entry)]
    else:
        call = f"{entry['tool_name']} {to_json(entry['arguments'])}"
        lines = [call, *(_said(part) for _, parts in outcome_of(entry) for part in parts)]
    shown = printable("\n".join(lines)).rstrip()
    if not full and len(shown) > _CUT:
        shown = f"{shown[:_CUT]}\n… {len(shown) - _CUT} more characters, with --full"
    body = "\n".join(f"    {line}" for line in shown.split("\n"))
    say(f"\n{entry['seq']} {heading_of(entry)}, {local_time(time_of(entry))}\n{body}")


def _said(part: dict[str, Any]) -> str:
    match part["type"]:
        case "text" | "json":
            return str(part["content"])
        case "reasoning":
            return f"(thinks) {part['content']}"
        case "tool_call":
            return f"→ {part.get('name') or part['id']}"
        case "blob" | "blob_reference":
            size = part["size"] if "size" in part else len(part["content"].rstrip("=")) * 3 // 4
            return f"[{part.get('mime_type') or part['type']}, {size} bytes]"
        case kind:
            return f"[{kind} {part.get('uri') or part.get('file_id') or part.get('id') or ''}]"


def _print_table(sessions: list[SessionDict]) -> None:
    """Print a line for each session; in a terminal that is too narrow for it, the title on a line of its own."""
    from rich.cells import cell_len, set_cell_size
    from rich.console import Console

    if not sessions:
        say("no sessions yet: a client starts one with start_session, and `mcp-chat-server import` brings what it has")
        return
    console = Console()
    room = console.width - len(_FACTS.format(*_HEADING)) - 2 if console.is_terminal else sys.maxsize
    is_beside = room >= _LEAST_TITLE
    say(f"{_FACTS.format(*_HEADING)}  {'title' if is_beside else ''}".rstrip())
    for session in sessions:
        last = session["last_append_at"]
        when = "" if last is None else local_time(last)
        facts = _FACTS.format(session["id"], session["status"], session["last_seq"], when)
        title = in_one_line(session["title"] or "")
        longest = room if is_beside else console.width - len(_INDENT)
        if cell_len(title) > longest:
            title = set_cell_size(title, longest - 1).rstrip() + "…"
        if is_beside:
            say(f"{facts}  {title}".rstrip())
        else:
            say(f"{facts.rstrip()}\n{_INDENT}{title}".rstrip())
