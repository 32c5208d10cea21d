"""The command that prints what a client needs to know in order to start this installation."""

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from server.command_line.terminal import complain
from server.settings import PREFIX, Settings

SERVER_NAME = "chat"


def config(
    client: Annotated[str, typer.Argument(help="claude-code, claude-desktop, cursor or vscode.")],
) -> None:
    """Print the snippet that a client needs, with the path of this installation."""
    if client not in _SNIPPETS:
        raise typer.BadParameter(f"is one of {', '.join(_SNIPPETS)}", param_hint="client")
    write, place = _SNIPPETS[client]
    complain(place)
    sys.stdout.write(write(server_command(), settings_in(os.environ)) + "\n")


def server_command() -> list[str]:
    """Return the command that starts this installation from anywhere."""
    # Not resolved: a virtual environment's python is a link, and finds its packages by the link's place.
    script = Path(sys.executable).absolute().with_name("mcp-chat-server")
    for candidate in (script, script.with_suffix(".exe")):
        if candidate.is_file():
            return [str(candidate)]
    root = Path(__file__).resolve().parents[2] / "mcp_chat_server.py"
    return [str(Path(sys.executable).absolute()), str(root)]


def settings_in(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that are made by environment variables now, so that the client passes them on."""
    variables = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    return {name: environment[name] for name in variables if name in environment}


def _claude_code(command: list[str], settings: dict[str, str]) -> str:
    given = [word for name, value in settings.items() for word in ("--env", f"{name}={value}")]
    return shlex.join(["claude", "mcp", "add", "--scope", "user", *given, SERVER_NAME, "--", *command])


def _mcp_servers(command: list[str], settings: dict[str, str]) -> str:
    return _to_json({"mcpServers": {SERVER_NAME: _entry(command, settings)}})


def _vscode(command: list[str], settings: dict[str, str]) -> str:
    return _to_json({"servers": {SERVER_NAME: {"type": "stdio", **_entry(command, settings)}}})


def _entry(command: list[str], settings: dict[str, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"command": command[0], "args": command[1:]}
    return {**entry, "env": settings} if settings else entry


def _to_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


_SNIPPETS: dict[str, tuple[Callable[[list[str], dict[str, str]], str], str]] = {
    "claude-code": (_claude_code, "run this command:"),
    "claude-desktop": (_mcp_servers, "merge this into claude_desktop_config.json (Settings, Developer, Edit Config):"),
    "cursor": (_mcp_servers, "merge this into ~/.cursor/mcp.json:"),
    "vscode": (_vscode, "merge this into .vscode/mcp.json:"),
}
