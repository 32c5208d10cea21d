"""The command that relays a server and records its tool calls, as the command line lists it.

The words after it are read by `server.relay.options`, which imports nothing that the relayed server would wait for.
"""

import typer

RAW = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""How the command is declared: every word after its name is handed on."""


def record(context: typer.Context) -> None:
    """Relay an MCP server, `record -- COMMAND …` or `record --url URL`, and record each of its tool calls."""
    from server.relay.relay import main as relay

    relay(context.args)
