"""How large a run is, with which seed, in which journal mode, and where its figures go.

The same tests run with every change, small, and for endurance, large (MCP_CHAT_ENDURANCE=1). What is drawn at random is
drawn from one seed (MCP_CHAT_SEED), which is shown where a test fails. What was measured is written to the file that
MCP_CHAT_FIGURES names, one JSON object a line; nothing measured is judged here.

Both journals are run: `wal`, and `delete`, the rollback journal that is kept where the SQLite library has the WAL-reset
bug. Where the standard library has it, `delete` is what a process gets that finds no other library. Where it has not,
`delete` is a file that was made with a rollback journal, which `make_ready` does: call it before a file is opened.
"""

import os
import random
import sqlite3
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from models.sqlite import choose_library, is_safe_for_wal
from models.sqlite_file import prepare
from models.text import to_json

AFFECTED = not is_safe_for_wal(sqlite3.sqlite_version_info)
"""Whether the standard library's SQLite has the WAL-reset bug."""

JOURNALS = ("wal", "delete") if is_safe_for_wal(choose_library().sqlite_version_info) else ("delete",)
"""The journals that can be had here, of a file that may be made beforehand."""

FRESH_JOURNALS = JOURNALS if AFFECTED else ("wal",)
"""The journals that a fresh file can get here."""

_SMALL_SEED = 20260101


def is_large() -> bool:
    """Tell whether this is a run for endurance."""
    return os.environ.get("MCP_CHAT_ENDURANCE") == "1"


def scale(small: int, large: int) -> int:
    """Return the number for this run."""
    return large if is_large() else small


patient = pytest.mark.timeout(scale(300, 6 * 3_600))
"""The mark of a test that may take long on a busy machine, and takes long when it is large."""


@cache
def _seed() -> int:
    given = os.environ.get("MCP_CHAT_SEED")
    if given is not None:
        return int(given)
    return random.SystemRandom().randrange(2**32) if is_large() else _SMALL_SEED


def seed() -> int:
    """Return the seed of this run, and print it, which pytest shows where the test fails."""
    print(f"to repeat this run: MCP_CHAT_SEED={_seed()} MCP_CHAT_ENDURANCE={int(is_large())}")
    return _seed()


def dice(name: str) -> random.Random:
    """Return random numbers that are the same ones for this seed and name."""
    return random.Random(f"{_seed()} {name}")  # noqa: S311 - draws tests, guards nothing


def figure(name: str, value: object, journal: str | None = None) -> None:
    """Write down what was seen, where somebody asks for it."""
    figures = os.environ.get("MCP_CHAT_FIGURES")
    if figures:
        line = {"name": name, "value": value, "journal": journal, "scale": "large" if is_large() else "small"}
        with Path(figures).open("a", encoding="utf-8") as file:
            file.write(to_json(line) + "\n")


def library_for(journal: str) -> ModuleType:
    """Return the SQLite library with which a fresh file gets this journal, or an existing one keeps it."""
    return sqlite3 if journal == "delete" else choose_library()


def environment_for(journal: str, tmp_path: Path) -> dict[str, str]:
    """Return what to add to a process's environment so that it uses `library_for(journal)`."""
    if journal != "delete" or not AFFECTED:
        return {}
    folder = tmp_path / "without_pysqlite3"
    folder.mkdir(exist_ok=True)
    (folder / "pysqlite3.py").write_text('raise ImportError("not installed here")\n', encoding="utf-8")
    return {"PYTHONPATH": str(folder)}


def make_ready(journal: str, path: Path) -> None:
    """Make the file beforehand where it would not get this journal by itself; do nothing where it would."""
    if journal != "delete" or AFFECTED:
        return
    prepare(path, sqlite3)
    raw = sqlite3.connect(path)
    try:
        (mode,) = raw.execute("PRAGMA journal_mode=DELETE").fetchone()
        assert mode == "delete"
    finally:
        raw.close()
