"""The command that imports transcripts of other clients, and archives of our own."""

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from models.ids import SessionId
from models.shapes import ImportDict
from server.command_line.database import shown_progress
from server.command_line.local import as_local_user
from server.command_line.terminal import complain, say, say_json
from server.record import Caller

if TYPE_CHECKING:
    from chat_service.import_paths import Importer
    from chat_service.imports import Report


def import_transcripts(
    format_name: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help="claude-code, codex, chatgpt, claude-ai, openai, anthropic, or jsonl: our own archive.",
        ),
    ],
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files, or folders to look for them in.")],
    into: Annotated[
        str | None, typer.Option(help="The session in which the conversation was recorded, to go on there.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on importing as the files grow, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.01, max=3600, help="Seconds between two looks, with --watch.")] = 2.0,
    bring_back: Annotated[
        bool, typer.Option("--bring-back", help="Import also what was deleted here, which stays out without it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Import transcripts, each record once; exit code 1 where something could not be read."""

    def importer(caller: Caller) -> "Importer":
        from chat_service.import_paths import Importer

        session_id = None if into is None else SessionId(into)
        return Importer(caller.service, caller.user_id, format_name, paths, session_id, brings_back=bring_back)

    if as_local_user(lambda caller: _import(importer(caller), as_json, interval if watch else None)):
        raise typer.Exit(1)


async def _import(importer: "Importer", as_json: bool, interval: float | None) -> bool:
    """Import, print what became of it, and tell whether there were problems."""
    problems = False

    def told(report: "Report") -> None:
        nonlocal problems
        problems = problems or bool(report.problems)
        _print(report.to_dict(), as_json)

    if interval is not None:
        await _watch(importer, told, interval)
        return problems
    with shown_progress("importing") as progress:
        report = await importer.import_all(progress)
    told(report)
    return problems


async def _watch(importer: "Importer", told: Callable[["Report"], None], interval: float) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
    except NotImplementedError:
        # Where a loop takes no signals, Ctrl-C ends it between two transactions, and what is stored is whole.
        complain("watching, until Ctrl-C")
    else:
        complain("watching; Ctrl-C ends it")
    await importer.watch(told, stop, interval)


def _print(told: ImportDict, as_json: bool) -> None:
    if as_json:
        say_json(told)
    else:
        for line in summary(told):
            say(line)
    # Who follows a watch through a pipe hears of it now.
    sys.stdout.flush()
    for problem in told["problems"]:
        complain(f"{problem['file']}: {problem['problem']}")


def summary(told: ImportDict) -> list[str]:
    """Say what became of an import, in lines whose numbers add up."""
    skipped = sum(each["records"] for each in told["skipped"])
    files = "1 file" if told["files"] == 1 else f"{told['files']} files"
    lines = [
        f"{told['records']} records in {files}: {sum(told['stored'].values())} stored, "
        f"{sum(told['already_there'].values())} already there, {skipped} skipped"
    ]
    lines += [f"  skipped {each['records']} {each['type']}: {each['reason']}" for each in told["skipped"]]
    lines += [f"  added {count} {what}" for what, count in told["added"].items()]
    lines += [f"  waiting for the next import: {count} {what}" for what, count in told["waiting"].items()]
    lines += [f"  not kept as it was: {count} {what}" for what, count in told["left_out"].items()]
    return lines
