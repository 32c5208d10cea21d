"""Wraps the servers of a client's configuration in `record`, and unwraps them: pure, one document in and one out.

Known are the forms in which clients keep their servers: `mcpServers`, also by project, and `servers` as VS Code does.
"""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from server.settings import PREFIX

_HEADERS = f"{PREFIX}RECORD_HEADERS"
_OURS = ("mcp-chat-server", "mcp-chat-server.exe")
_SCRIPT = "mcp_chat_server.py"


def wrap(document: Any, command: Sequence[str], settings: Mapping[str, str]) -> Any:
    """Return the document with every server behind `command record`, our own and those that are wrapped left alone."""
    changed = copy.deepcopy(document)
    for group in _groups(changed):
        for name, entry in group.items():
            if _is_entry(entry) and _own_words(entry) is None:
                group[name] = _wrapped(entry, command, settings)
    return changed


def unwrap(document: Any) -> Any:
    """Return the document with every server as it was before it was wrapped."""
    changed = copy.deepcopy(document)
    for group in _groups(changed):
        for name, entry in group.items():
            words = _own_words(entry) if _is_entry(entry) else None
            if words is not None and words[:1] == ["record"]:
                group[name] = _unwrapped(entry, words[1:])
    return changed


def count(document: Any) -> int:
    """Count the servers that a document names."""
    return sum(len(group) for group in _groups(document))


def _groups(document: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(document, dict):
        return
    for name in ("mcpServers", "servers"):
        if isinstance(document.get(name), dict):
            yield document[name]
    if isinstance(document.get("mcp"), dict):
        yield from _groups(document["mcp"])
    projects = document.get("projects")
    for project in projects.values() if isinstance(projects, dict) else ():
        yield from _groups(project)


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("env") or {}, dict):
        return False
    if isinstance(entry.get("command"), str):
        args = entry.get("args", [])
        return isinstance(args, list) and all(isinstance(each, str) for each in args)
    # Of the older transport, HTTP with SSE, clients say so; it is not ours to speak.
    return isinstance(entry.get("url"), str) and entry.get("type") in (None, "http")


def _own_words(entry: dict[str, Any]) -> list[str] | None:
    """Return the words that follow our own command, None where the entry starts another."""
    args: list[str] = entry.get("args", [])
    if _last_part(entry.get("command", "")) in _OURS:
        return args
    return args[1:] if args and _last_part(args[0]) == _SCRIPT else None


def _last_part(path: str) -> str:
    return PurePath(path.replace("\\", "/")).name


def _wrapped(entry: dict[str, Any], command: Sequence[str], settings: Mapping[str, str]) -> dict[str, Any]:
    own = [*command[1:], "record"]
    if "command" in entry:
        words = {"command": command[0], "args": [*own, "--", entry["command"], *entry.get("args", [])]}
        given: dict[str, str] = {}
    else:
        words = {"command": command[0], "args": [*own, "--url", entry["url"]]}
        given = {_HEADERS: json.dumps(entry["headers"])} if entry.get("headers") else {}
    rest = {name: value for name, value in entry.items() if name not in ("command", "args", "url", "headers", "env")}
    if "type" in rest:
        rest["type"] = "stdio"
    env = {**(entry.get("env") or {}), **settings, **given}
    return {**rest, **words, **({"env": env} if env else {})}


def _unwrapped(entry: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    try:
        return _as_before(entry, words)
    except (ValueError, IndexError):
        # Somebody has written it otherwise: it stays as it is.
        return entry


def _as_before(entry: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    rest = {name: value for name, value in entry.items() if name not in ("command", "args", "env")}
    env = {name: value for name, value in (entry.get("env") or {}).items() if not name.startswith(PREFIX)}
    if "--" in words:
        command, *args = words[words.index("--") + 1 :]
        return {**rest, "command": command, "args": args, **({"env": env} if env else {})}
    if "type" in rest:
        rest["type"] = "http"
    headers = (entry.get("env") or {}).get(_HEADERS)
    return {
        **rest,
        "url": words[words.index("--url") + 1],
        **({"headers": json.loads(headers)} if headers else {}),
        **({"env": env} if env else {}),
    }
