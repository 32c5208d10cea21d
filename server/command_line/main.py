"""The command `mcp-chat-server` with arguments; every command reads the same settings as the server."""

import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from server.command_line import (
    audit,
    chat,
    config,
    database,
    demo,
    exports,
    imports,
    record,
    search,
    sessions,
    upstream,
    usage,
    users,
)
from server.command_line.ending import ending_as_it_should


def build() -> typer.Typer:
    """Return the command line."""
    app = typer.Typer(
        name="mcp-chat-server",
        help="The durable record of every conversation with a model. Without a command it serves MCP over stdio.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.command()(serve)
    app.command()(demo.demo)
    app.command("chat")(chat.chat)
    app.command("show")(sessions.show)
    app.command()(search.search)
    app.command("import")(imports.import_transcripts)
    app.command()(usage.usage)
    app.command("export")(exports.export)
    app.command("config")(config.config)
    app.command("record", context_settings=record.RAW)(record.record)
    app.command()(audit.audit)
    app.command()(database.doctor)
    app.add_typer(sessions.build(), name="sessions")
    app.command("upstream")(upstream.upstream)
    app.add_typer(users.build(), name="user")
    app.add_typer(database.build(), name="db")
    app.callback(invoke_without_command=True)(_top)
    return app


def serve() -> None:
    """Serve MCP over stdio, as the command without arguments does."""
    from server.transports.stdio import main as serve_stdio

    serve_stdio()


def _top(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        from server.app import server_version

        typer.echo(server_version())
        raise typer.Exit


def main() -> None:
    """Run the command that the arguments name."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character shows another in its place.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    with ending_as_it_should():
        build()()
