"""What the tests of upstream servers share: a configuration, a server on HTTP, and what they did."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.server.support import WAIT_SECONDS
from tests.support import ROOT

KEY = "canary-key-9f2a"
MODULE = "tests.server.upstream.helper"


def over_stdio(folder: Path, *how: str, **more: Any) -> dict[str, Any]:
    """Return the entry of a helper that is started over stdio."""
    fields = {"command": sys.executable, "args": ["-m", MODULE, str(folder), *how], "cwd": str(ROOT)}
    return {**fields, **more}


def write_configuration(folder: Path, **servers: dict[str, Any]) -> Path:
    """Write the file and return its path."""
    path = folder / "servers.json"
    path.write_text(json.dumps({"mcpServers": servers}))
    return path


@contextmanager
def served_over_http(folder: Path) -> Iterator[str]:
    """Start a helper on HTTP and return its address."""
    command = [sys.executable, "-m", MODULE, str(folder), "http"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
        finally:
            process.kill()
            process.wait(WAIT_SECONDS)


def processes(folder: Path) -> list[int]:
    """Return the ids of the helpers that were started here."""
    path = folder / "processes"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def notes(folder: Path) -> list[str]:
    """Return what the helpers have noted."""
    path = folder / "notes"
    return path.read_text().split() if path.exists() else []


def runs(process_id: int) -> bool:
    """Tell whether a process is there."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    # One that has ended and was not waited for by anybody is still listed.
    status = Path(f"/proc/{process_id}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
