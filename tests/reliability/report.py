"""Runs the reliability tests and writes what was seen to docs/reliability.md: `python -m tests.reliability.report`.

`make endurance` runs it large; `--small` takes the counts of `make test`. MCP_CHAT_SEED repeats a run.
"""

import argparse
import json
import os
import platform
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from models.sqlite import choose_library

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
TESTS = ("tests/reliability", "tests/chat_service/test_model.py")
_BEGIN, _END = "<!-- figures: begin -->", "<!-- figures: end -->"


def main() -> None:
    """Run the tests; where they pass, write the figures to the page; exit code as pytest's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="take the counts of `make test`")
    parser.add_argument("only", nargs="*", default=list(TESTS), help="the tests to run")
    arguments = parser.parse_args()
    seed = os.environ.get("MCP_CHAT_SEED") or str(secrets.randbelow(2**32))
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.jsonl"
        environment = {"MCP_CHAT_FIGURES": str(figures), "MCP_CHAT_SEED": seed}
        if not arguments.small:
            environment["MCP_CHAT_ENDURANCE"] = "1"
        command = [sys.executable, "-m", "pytest", *arguments.only]
        code = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False).returncode
        seen = (
            [json.loads(line) for line in figures.read_text(encoding="utf-8").splitlines()] if figures.exists() else []
        )
    if code == 0:
        before, rest = PAGE.read_text(encoding="utf-8").split(_BEGIN)
        _, after = rest.split(_END)
        size = "small" if arguments.small else "large"
        PAGE.write_text(f"{before}{_BEGIN}\n{page(seen, size, seed)}\n{_END}{after}", encoding="utf-8")
    raise SystemExit(code)


def page(figures: list[dict[str, Any]], size: str, seed: str) -> str:
    """Return the figures as a table, and what they were seen on."""
    library = choose_library()
    lines = [
        f"Seen on {datetime.now(UTC):%Y-%m-%d}, {size} counts, seed {seed}: Python {platform.python_version()}, "
        f"{library.__name__} {library.sqlite_version}, {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores shared with others.",
        "",
        "| what | journal | seen |",
        "|---|---|---|",
        *(f"| {row['name']} | {row['journal'] or ''} | {shown(row['value'])} |" for row in figures),
    ]
    return "\n".join(lines)


def shown(value: Any) -> str:
    """Write a value in words: fields as `name n`, seconds with three digits."""
    if isinstance(value, Mapping):
        return ", ".join(_fields(value))
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)


def _fields(value: Mapping[str, Any]) -> Iterator[str]:
    for name, inner in value.items():
        yield f"{name} {shown(inner)}"


if __name__ == "__main__":
    main()
