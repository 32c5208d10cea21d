"""What the clients do that call the tools of other people's servers: call them in order, and tell what came of each.

It is read from a plan and written to a report, as in `story.py`; `caller_typescript.mjs` is a twin.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Plan:
    """How to start the server, and which tools to call with which arguments."""

    command: str
    arguments: list[str]
    environment: dict[str, str]
    program: list[str]
    mode: str
    calls: list[tuple[str, dict[str, Any]]]


Outcome = dict[str, Any]
"""Of a call: its `content` and whether it `failed`."""


def run(client: Callable[[Plan], Coroutine[Any, Any, list[Outcome]]]) -> None:
    """Read the plan that the command line names, run a client with it, and write its report."""
    plan_file, report_file = map(Path, sys.argv[1:])
    plan = Plan(**json.loads(plan_file.read_text(encoding="utf-8")))
    outcomes = asyncio.run(client(plan))
    report_file.write_text(json.dumps(outcomes), encoding="utf-8")
