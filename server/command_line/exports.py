"""The command that exports sessions: as an archive that can be imported again, or to be read by people."""

import os
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from models.errors import Conflict, Invalid
from models.ids import SessionId
from models.inputs import ContextShape
from models.text import to_json
from server.command_line.local import as_local_user
from server.command_line.terminal import complain, say
from server.record import Caller

Shape = Literal["jsonl", "markdown", "html", "openai", "openai-responses", "anthropic"]
_OF_PROVIDERS: dict[str, ContextShape] = {
    "openai": "openai_chat",
    "openai-responses": "openai_responses",
    "anthropic": "anthropic",
}


def export(
    session_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[SESSION_ID...]", help="The sessions, as `sessions` lists them.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All your sessions, the first created first.")] = False,
    shape: Annotated[
        Shape,
        typer.Option(
            "--format",
            help="jsonl, which can be imported again; markdown or html, to be read; or as a provider takes it, "
            "a session a line.",
        ),
    ] = "jsonl",
    output: Annotated[Path | None, typer.Option(help="The file to write; it must not exist.")] = None,
) -> None:
    """Export sessions whole, to a file or to the standard output."""
    if everything == bool(session_ids):
        raise Invalid("Name the sessions to export, or give --all.")

    async def run(caller: Caller) -> None:
        chosen = await _all_ids(caller) if everything else [SessionId(each) for each in session_ids or ()]
        if not everything:
            # Before anything is printed, which nobody can take back.
            for session_id in chosen:
                await caller.service.get_session(caller.user_id, session_id)
        pieces = _pieces(caller, chosen, shape)
        if output is None:
            await _print(pieces)
            return
        await _write(output, pieces)
        complain(f"written to {output}, for you alone to read")

    as_local_user(run)


async def _all_ids(caller: Caller) -> list[SessionId]:
    ids: list[SessionId] = []
    cursor: str | None = None
    while True:
        page = await caller.service.get_user_sessions(caller.user_id, limit=500, cursor=cursor)
        ids += [SessionId(session["id"]) for session in page["sessions"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return ids[::-1]


async def _pieces(caller: Caller, session_ids: list[SessionId], shape: Shape) -> AsyncIterator[str]:
    if shape == "jsonl":
        from chat_service.archive.write import archive_lines

        async for line in archive_lines(caller.service, caller.user_id, session_ids):
            yield line + "\n"
        return
    if shape in _OF_PROVIDERS:
        from chat_service.whole import render_whole

        for session_id in session_ids:
            room = partial(render_whole, user_id=caller.user_id, session_id=session_id, shape=_OF_PROVIDERS[shape])
            yield to_json(await caller.service.snapshot(room)) + "\n"
        return
    if shape == "markdown":
        from server.export.markdown import write_markdown as write
    else:
        from server.export.html import write_html as write
    async for piece in write(caller.service, caller.user_id, session_ids):
        yield piece


async def _print(pieces: AsyncIterator[str]) -> None:
    is_terminal = sys.stdout.isatty()
    async for piece in pieces:
        if is_terminal:
            say(piece.removesuffix("\n"))
        else:
            sys.stdout.buffer.write(piece.encode())
    sys.stdout.flush()


async def _write(output: Path, pieces: AsyncIterator[str]) -> None:
    """Write a file for its owner alone; what could not be written to the end is taken away again."""
    try:
        number = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Conflict(f"{output} exists already: name a file that does not.") from None
    except OSError as error:
        raise Invalid(f"{output} cannot be written ({error.strerror}): name another file.") from None
    try:
        with os.fdopen(number, "w", encoding="utf-8", newline="\n") as file:
            async for piece in pieces:
                file.write(piece)
    except BaseException as error:
        _remove(output)
        if isinstance(error, OSError):
            raise Invalid(f"{output} cannot be written ({error.strerror}): make room, or name another file.") from None
        raise


def _remove(file: Path) -> None:
    file.unlink(missing_ok=True)
