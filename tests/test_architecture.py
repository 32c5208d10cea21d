"""The house: floors look only down, the server starts light, and importing does nothing."""

import importlib.util
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, run_python

PACKAGES = ("server", "chat_service", "models")
RUN_BY_ALEMBIC = ("models.migrations.env",)
"""Scripts rather than modules: alembic runs them, and nobody imports them."""


def modules() -> list[str]:
    """Find every module of ours."""
    found = ["mcp_chat_server"]
    for package in PACKAGES:
        found += [package, *(each.name for each in pkgutil.walk_packages([str(ROOT / package)], f"{package}."))]
    return [name for name in found if name not in RUN_BY_ALEMBIC]


def test_floors_look_only_down() -> None:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    ended = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "0 broken" in ended.stdout


@pytest.mark.parametrize("module", ["server.app", "server.transports.stdio", "server.transports.frames"])
def test_the_server_starts_without_what_it_needs_later(module: str) -> None:
    heavy = [
        "sqlalchemy",
        "alembic",
        "aiosqlite",
        "sqlite3",
        "pysqlite3",
        "rich",
        "typer",
        "jinja2",
        "nh3",
        "markdown_it",
    ]
    loaded = run_python(
        f"import json, sys, {module}; print(json.dumps([name for name in {heavy!r} if name in sys.modules]))"
    )
    assert json.loads(loaded) == []


def test_what_is_needed_before_the_first_answer_does_not_load_the_sdk() -> None:
    loaded = run_python("import sys, server.transports.stdio; print('mcp' in sys.modules)")
    assert loaded == "False", "the wire is made safe before anything large is imported"


WATCH = """
import sys
done = []
def watch(event, arguments):
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        done.append(f"{event} {arguments[0]}")
    elif event.startswith(("socket.", "sqlite3.", "subprocess.", "os.mkdir", "os.remove", "os.rename", "os.fork")):
        done.append(event)
"""
IMPORT = """
import importlib, logging, threading, signal, os, warnings
before = dict(os.environ), os.getcwd(), signal.getsignal(signal.SIGTERM)
sys.addaudithook(watch)
for name in sys.argv[1:]:
    importlib.import_module(name)
after = dict(os.environ), os.getcwd(), signal.getsignal(signal.SIGTERM)
assert before == after
assert done == [], done
assert threading.active_count() == 1, threading.enumerate()
assert logging.getLogger().handlers == []
assert logging.getLogger().level == logging.WARNING
"""


def test_importing_prints_nothing_and_opens_nothing(tmp_path: Path) -> None:
    names = modules()
    assert len(names) > 30
    assert all(importlib.util.find_spec(name) for name in names)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MCP_CHAT_", "XDG_"))}
    ended = subprocess.run(
        [sys.executable, "-B", "-c", WATCH + IMPORT, *names],
        cwd=ROOT,
        env=kept | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_every_file_begins_with_why_it_exists() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 30
    texts = {path: path.read_text() for path in files}
    assert [path for path, text in texts.items() if text.strip() and not text.startswith('"""')] == []
