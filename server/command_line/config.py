"""The command that prints what a client needs to start this installation, and wraps the servers that it has."""

import difflib
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from models.errors import Invalid
from server.command_line import wrap as wrapping
from server.command_line.commented_json import NotJson, parse
from server.command_line.files import read_text, replace_text
from server.command_line.rewriting import rewritten
from server.command_line.terminal import complain, say
from server.settings import PREFIX, Settings

SERVER_NAME = "chat"


def config(
    client: Annotated[str | None, typer.Argument(help="claude-code, claude-desktop, codex, cursor or vscode.")] = None,
    wrap: Annotated[
        Path | None, typer.Option(help="A client's file: record the tool calls of the servers in it.")
    ] = None,
    unwrap: Annotated[Path | None, typer.Option(help="A client's file: record them no longer.")] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Change the file, and keep what it was beside it; else only show.")
    ] = False,
) -> None:
    """Print the snippet that a client needs, with the path of this installation, or wrap its servers in `record`."""
    if [client, wrap, unwrap].count(None) != 2:
        raise typer.BadParameter(f"give a client ({', '.join(_SNIPPETS)}), or --wrap FILE, or --unwrap FILE")
    if wrap is not None:
        settings = settings_in(os.environ)
        _change(wrap, lambda document: wrapping.wrap(document, server_command(), settings), write=write)
    elif unwrap is not None:
        _change(unwrap, wrapping.unwrap, write=write)
    else:
        _print_snippet(str(client))


def _print_snippet(client: str) -> None:
    if client not in _SNIPPETS:
        raise typer.BadParameter(f"is one of {', '.join(_SNIPPETS)}", param_hint="client")
    write, place = _SNIPPETS[client]
    complain(place)
    sys.stdout.write(write(server_command(), settings_in(os.environ)) + "\n")


def _change(path: Path, change: Callable[[Any], Any], *, write: bool) -> None:
    before = read_text(path)
    try:
        document = parse(before)
    except NotJson as error:
        raise Invalid(f"{path} is not JSON (line {error.line}).") from None
    if not wrapping.count(document.root.value):
        raise Invalid(f"{path} names no servers: it has neither mcpServers nor servers.")
    after = rewritten(document, change(document.root.value))
    if after == before:
        complain("nothing is to be changed")
        return
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), str(path), str(path), n=2, lineterm="")
    for line in lines:
        say(line)
    if write:
        complain(f"written; what it was is kept in {replace_text(path, after)}")
    else:
        complain("nothing is written yet: --write does it")


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
    # Its --env takes all words up to the next option, so that stands between it and the name.
    return shlex.join(["claude", "mcp", "add", *_given(settings), "--scope", "user", SERVER_NAME, "--", *command])


def _codex(command: list[str], settings: dict[str, str]) -> str:
    return shlex.join(["codex", "mcp", "add", SERVER_NAME, *_given(settings), "--", *command])


def _given(settings: dict[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in ("--env", f"{name}={value}")]


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
    "codex": (_codex, "run this command:"),
    "cursor": (_mcp_servers, "merge this into ~/.cursor/mcp.json:"),
    "vscode": (_vscode, "merge this into .vscode/mcp.json:"),
}
