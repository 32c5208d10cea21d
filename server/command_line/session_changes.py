"""Commands that change a session: rename, archive, reopen, fork, merge, delete."""

from typing import Annotated

import typer

from models.ids import SessionId
from models.inputs import SessionChanges
from models.shapes import DeletedDict, SessionDict
from server.command_line.local import as_local_user
from server.command_line.terminal import complain, in_one_line, say
from server.record import Caller

NOT_OVERWRITTEN = (
    "it is deleted, and not overwritten on the disk yet, as another program is in the way: the server goes on with that"
)

SessionIdArgument = Annotated[str, typer.Argument(help="The session's id, as `sessions` lists it.")]


def rename(session_id: SessionIdArgument, title: Annotated[str, typer.Argument(help="The new title.")]) -> None:
    """Give a session another title."""
    _change(session_id, SessionChanges(title=title))


def archive(session_id: SessionIdArgument) -> None:
    """Close a session for appends; it stays readable."""
    _change(session_id, SessionChanges(status="archived"))


def reopen(session_id: SessionIdArgument) -> None:
    """Open an archived session for appends again."""
    _change(session_id, SessionChanges(status="active"))


def fork(
    session_id: SessionIdArgument,
    at_seq: Annotated[int | None, typer.Option(min=0, help="The last entry to keep; all of them if not given.")] = None,
    title: Annotated[str | None, typer.Option(help="The fork's title; the same if not given.")] = None,
) -> None:
    """Start a session that has another one's entries up to a point, and goes on from there."""

    async def forked(caller: Caller) -> SessionDict:
        return await caller.service.fork_session(caller.user_id, SessionId(session_id), at_seq, title)

    _print(as_local_user(forked))


def merge(
    source_id: Annotated[str, typer.Argument(help="The session whose entries move.")],
    target_id: Annotated[str, typer.Argument(help="The session that they are appended to.")],
) -> None:
    """Move all entries of a session to the end of another; the first stays, empty and archived."""

    async def merged(caller: Caller) -> SessionDict:
        return await caller.service.merge_sessions(caller.user_id, SessionId(source_id), SessionId(target_id))

    _print(as_local_user(merged))


def delete(
    session_id: SessionIdArgument,
    with_forks: Annotated[bool, typer.Option("--with-forks", help="Delete its forks as well.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
) -> None:
    """Delete a session with all its entries, for good."""

    async def found(caller: Caller) -> SessionDict:
        return await caller.service.get_session(caller.user_id, SessionId(session_id))

    if not yes:
        session = as_local_user(found)
        what = f"“{in_one_line(session['title'] or 'Untitled')}” with its {session['last_seq']} entries"
        typer.confirm(f"Delete {what}, for good?", abort=True)

    async def deleted(caller: Caller) -> DeletedDict:
        receipt = await caller.service.delete_session(caller.user_id, SessionId(session_id), with_forks=with_forks)
        if not await caller.service.finish_deletions():
            complain(NOT_OVERWRITTEN)
        return receipt

    print_receipt(as_local_user(deleted))


def print_receipt(receipt: DeletedDict) -> None:
    """Print what was deleted."""
    counts = f"{receipt['sessions']} sessions, {receipt['messages']} messages, {receipt['tool_usages']} tool calls"
    say(f"deleted {counts}; receipt {receipt['receipt']} in the audit log")


def _change(session_id: str, changes: SessionChanges) -> None:
    async def changed(caller: Caller) -> SessionDict:
        return await caller.service.update_session(caller.user_id, SessionId(session_id), changes)

    _print(as_local_user(changed))


def _print(session: SessionDict) -> None:
    title = in_one_line(session["title"] or "Untitled")
    say(f"{session['id']} {session['status']}, {session['last_seq']} entries: {title}")
