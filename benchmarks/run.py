"""Runs the benchmarks, or the topics that are named, and prints their tables: `python -m benchmarks.run [TOPIC …]`.

Everything is compared within one run, in turn, and told as a ratio. `--small` takes seconds, `--full` longer than
`make bench` does.
"""

import argparse
import asyncio
import importlib
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.databases import Databases
from benchmarks.report import Report, Table
from benchmarks.scale import FULL, NORMAL, SMALL, Scale
from benchmarks.targets import held_against
from models.sqlite import choose_library

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"
TOPICS = {
    "append": "benchmarks.append",
    "concurrency": "benchmarks.concurrency",
    "history": "benchmarks.history",
    "tools": "benchmarks.tools",
    "cold_start": "benchmarks.cold_start",
    "peers": "benchmarks.peers.speed",
}
_BEGIN, _END = "<!-- figures: begin -->", "<!-- figures: end -->"


def main() -> None:
    """Run what the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("topic", nargs="*", help=f"which to run: {', '.join(TOPICS)}; all, if none is named")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", dest="scale", action="store_const", const=SMALL, help="a small database, few rounds")
    size.add_argument("--full", dest="scale", action="store_const", const=FULL, help="many rounds")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md; only a run of all topics may")
    parser.set_defaults(scale=NORMAL)
    arguments = parser.parse_args()
    unknown = set(arguments.topic) - TOPICS.keys()
    if unknown:
        parser.error(f"there is no topic {', '.join(sorted(unknown))}: there are {', '.join(TOPICS)}")
    if arguments.write and arguments.topic:
        parser.error("--write is for a run of all topics: name none")
    reports = asyncio.run(_run(arguments.topic or list(TOPICS), arguments.scale))
    about = describe(arguments.scale)
    result = {"about": about, "topics": {name: report.to_json() for name, report in reports.items()}}
    result["must_reach"] = asdict(_reached(reports))
    if arguments.json:
        print(json.dumps(result, indent=1, ensure_ascii=False))
        return
    print(about, *(table.to_text() for table in _tables(reports)), sep="\n\n")
    _save(arguments.scale, result)
    if arguments.write:
        text = PAGE.read_text(encoding="utf-8")
        before, rest = text.split(_BEGIN)
        _, after = rest.split(_END)
        PAGE.write_text(f"{before}{_BEGIN}\n{page(about, reports)}\n{_END}{after}", encoding="utf-8")


def describe(scale: Scale) -> str:
    """Return what the figures were seen on."""
    library = choose_library()
    return (
        f"Seen on {datetime.now(UTC):%Y-%m-%d}, {scale.name} counts: Python {platform.python_version()}, "
        f"{library.__name__} {library.sqlite_version}, {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores shared with others."
    )


def page(about: str, reports: dict[str, Report]) -> str:
    """Return the tables as they stand on the page."""
    return "\n\n".join([about, *(table.to_markdown() for table in _tables(reports))])


async def _run(topics: list[str], scale: Scale) -> dict[str, Report]:
    reports: dict[str, Report] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        databases = Databases(Path(folder), scale)
        for topic in topics:
            began = time.monotonic()
            module: Any = importlib.import_module(TOPICS[topic])
            reports[topic] = await module.run(databases, scale)
            print(f"{topic}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return reports


def _tables(reports: dict[str, Report]) -> list[Table]:
    return [_reached(reports), *(table for report in reports.values() for table in report.tables)]


def _reached(reports: dict[str, Report]) -> Table:
    return held_against({name: seen for report in reports.values() for name, seen in report.figures.items()})


def _save(scale: Scale, result: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{scale.name}-{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
