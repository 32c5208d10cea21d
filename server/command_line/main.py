"""The command `mcp-chat-server` with arguments; every command reads the same settings as the server."""

import sys
from io import TextIOWrapper
from typing import Annotated

import typer
from pydantic import ValidationError

from models.errors import ChatError
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
from server.command_line.terminal import complain
from server.errors import explain_arguments

_COMMANDS = {
    "start_session or list_sessions gave": "`mcp-chat-server sessions` lists",
    "list_sessions shows": "`mcp-chat-server sessions` lists",
    "list_sessions gives it": "`mcp-chat-server sessions` lists it",
    "call again with the same idempotency_key to go on": "`mcp-chat-server chat --session` goes on there, and the same "
    "--idempotency-key with this question, if it had one",
    "call again with the same idempotency_key in a moment": "ask again with the same --idempotency-key in a moment",
    "set its status to active with update_session": "open it with `mcp-chat-server sessions reopen`",
}
"""What the service says for those who have tools, and what it is for those who have commands."""


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
    """Run the command that the arguments name; a refusal is one sentence on stderr and exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character shows another in its place.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        build()()
    except ChatError as error:
        complain(_with_commands(str(error)))
        raise SystemExit(1) from None
    except ValidationError as error:
        complain(explain_arguments(error))
        raise SystemExit(1) from None


def _with_commands(refusal: str) -> str:
    for tools, commands in _COMMANDS.items():
        refusal = refusal.replace(tools, commands)
    return refusal
