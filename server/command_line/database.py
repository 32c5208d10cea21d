"""Commands about the database file."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.command_line.terminal import say
from server.settings import read_settings

if TYPE_CHECKING:
    from chat_service.upkeep import FileReport


def build() -> typer.Typer:
    """Return the group of commands."""
    group = typer.Typer(help="The database file: look at it, upgrade it, back it up.", no_args_is_help=True)
    for command in (check, upgrade, backup, restore):
        group.command()(command)
    return group


def check() -> None:
    """Look at the file without changing it; exit code 1 where something is to be done."""
    from chat_service import upkeep

    report = asyncio.run(upkeep.check(read_settings().database_url))
    _print(report)
    behind = report["exists"] and report["schema_version"] < report["newest_version"]
    if not report["exists"]:
        say("there is no file yet: the first client, or `db upgrade`, creates it")
    elif behind:
        say("the schema is behind: `mcp-chat-server db upgrade`")
    if behind or report["integrity"] != "ok":
        raise typer.Exit(1)


def upgrade() -> None:
    """Create the file, or bring it to the newest schema and to WAL where that is safe."""
    from chat_service import upkeep

    _print(asyncio.run(upkeep.upgrade(read_settings().database_url)))


def backup(
    file: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")],
) -> None:
    """Write a copy of the database, while clients go on using it."""
    from chat_service import upkeep

    with shown_progress("backing up") as progress:
        asyncio.run(upkeep.backup(read_settings().database_url, file.absolute(), progress))
    say(f"written to {file}, for you alone to read")


def restore(
    file: Annotated[Path, typer.Argument(help="The backup to take.")],
    replace: Annotated[bool, typer.Option("--replace", help="Keep aside the database that is there.")] = False,
) -> None:
    """Put a backup in the place of the database; what was there is kept aside."""
    from chat_service import upkeep

    with shown_progress("restoring") as progress:
        kept = asyncio.run(upkeep.restore(read_settings().database_url, file.absolute(), progress, replace=replace))
    say(f"restored from {file}" + ("" if kept is None else f"; what was there is kept in {kept}"))


def doctor() -> None:
    """Look the record over, from the file to the numbering of every session; exit code 1 where something is wrong."""
    from chat_service import doctor as the_doctor

    with shown_progress("checking sessions") as progress:
        findings = asyncio.run(the_doctor.examine(read_settings().database_url, progress))
    for finding in findings:
        say(f"{'PROBLEM' if finding['is_problem'] else 'ok':<8}{finding['check']:<12}{finding['what']}")
    if any(finding["is_problem"] for finding in findings):
        raise typer.Exit(1)


@contextmanager
def shown_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr, where that is a terminal, while work goes on."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _print(report: "FileReport") -> None:
    for name, value in report.items():
        say(f"{name:<15} {value}")
