"""Commands about the database file."""

import asyncio

import typer

from server.command_line.terminal import say
from server.settings import read_settings


def build() -> typer.Typer:
    """Return the group of commands."""
    group = typer.Typer(help="The database file: look at it, upgrade it.", no_args_is_help=True)
    group.command()(check)
    group.command()(upgrade)
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


def _print(report: object) -> None:
    for name, value in dict(report).items():  # type: ignore[call-overload]
        say(f"{name:<15} {value}")
