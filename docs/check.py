"""Checks that the documentation is true: tables made from the code, links that lead somewhere.

`python -m docs.check` fails where README's tables are not what the code says, or a
relative link leads nowhere; with `--write` it brings the tables up to date.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from server.command_line.main import build
from server.prompts import all_prompts
from server.resources import resource_kinds
from server.settings import PREFIX, Settings
from server.tools import all_tools

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def tools_table() -> str:
    """Return a row for each tool: its arguments and the first sentence of its description."""
    rows = ["| tool | arguments | what it does |", "|---|---|---|"]
    for tool in all_tools():
        schema = tool.input_schema
        required = schema.get("required", [])
        names = [name if name in required else f"[{name}]" for name in schema.get("properties", {})]
        rows.append(f"| `{tool.name}` | {', '.join(names)} | {_first_sentence(tool.listed().description or '')} |")
    return "\n".join(rows)


def resources_table() -> str:
    """Return a row for each kind of resource."""
    rows = ["| address | gives |", "|---|---|"]
    rows += [f"| `{kind.template}` | {kind.description} |" for kind in resource_kinds()]
    return "\n".join(rows)


def prompts_table() -> str:
    """Return a row for each prompt."""
    rows = ["| prompt | what it asks for |", "|---|---|"]
    rows += [f"| `{prompt.name}` | {prompt.description} |" for prompt in all_prompts()]
    return "\n".join(rows)


def settings_table() -> str:
    """Return a row for each setting."""
    rows = ["| variable | default | what it sets |", "|---|---|---|"]
    computed = {"database_url": "a file in the platform's data folder", "user": "the system's user name"}
    for name, field in Settings.model_fields.items():
        default = computed.get(name) or ("none" if field.default is None else f"`{field.default}`")
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


def commands_table() -> str:
    """Return a row for each command."""
    rows = ["| command | what it does |", "|---|---|", "| `mcp-chat-server` | Serve MCP over stdio. |"]
    for name, arguments, description in sorted(_commands(build())):
        rows.append(f"| `mcp-chat-server {' '.join([name, *arguments])}` | {_first_sentence(description)} |")
    return "\n".join(rows)


def with_tables(text: str) -> str:
    """Return the text with its tables as the code has them."""
    tables = {
        "tools": tools_table(),
        "resources": resources_table(),
        "prompts": prompts_table(),
        "settings": settings_table(),
        "commands": commands_table(),
    }
    for name, table in tables.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, rest = text.split(begin)
        _, after = rest.split(end)
        text = f"{before}{begin}\n{table}\n{end}{after}"
    return text


def dead_links() -> list[str]:
    """Return the relative links of all pages that lead nowhere."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return [
        f"{page.relative_to(ROOT)}: {link}"
        for page in pages
        for link in _LINK.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]


def main() -> None:
    """Check, or with --write bring up to date; exit code 1 where something is not true."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    expected = with_tables(text)
    problems = [f"a link leads nowhere: {link}" for link in dead_links()]
    if "--write" in sys.argv:
        readme.write_text(expected, encoding="utf-8")
    elif text != expected:
        problems.append("README.md: a table is not what the code says: python -m docs.check --write")
    for problem in problems:
        print(problem)
    if problems:
        raise SystemExit(1)


def _commands(app: typer.Typer, prefix: str = "") -> Iterator[tuple[str, list[str], str]]:
    for command in app.registered_commands:
        callback = command.callback
        assert callback is not None, "a command has a function"  # noqa: S101
        name = command.name or callback.__name__.replace("_", "-")
        arguments = [
            parameter.name.upper() if parameter.default is parameter.empty else f"[{parameter.name.upper()}]"
            for parameter in inspect.signature(callback).parameters.values()
            if "ArgumentInfo" in str(parameter.annotation)
        ]
        yield f"{prefix}{name}", arguments, inspect.getdoc(callback) or ""
    for group in app.registered_groups:
        assert group.typer_instance is not None, "a group has commands"  # noqa: S101
        top = group.typer_instance.registered_callback
        if top is not None and top.callback is not None:
            # What the group does without a command.
            yield f"{prefix}{group.name}", [], inspect.getdoc(top.callback) or ""
        yield from _commands(group.typer_instance, f"{prefix}{group.name} ")


def _first_sentence(text: str) -> str:
    flat = " ".join(text.split("\n\n")[0].split())
    return flat.split(". ")[0].rstrip(".") + "."


if __name__ == "__main__":
    main()
