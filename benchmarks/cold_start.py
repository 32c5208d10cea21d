"""Cold start: from starting the process to the handshake's answer and to the first tool's answer, and memory then.

The floor is a server of the same SDK with two small tools. Ours answers from a database that exists, as at every start
but the first; the first start of all, which creates it, is a line of its own.
"""

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.databases import Databases
from benchmarks.report import Column, Report, Table
from benchmarks.scale import Scale
from benchmarks.wire import HELLO, OURS, started

_FLOOR, _OURS, _FIRST = "the SDK's hello-world", "ours", "ours, the first start of all"
_UNITS = {"handshake": 1e3, "first_tool": 1e3, "memory": 1 / 1024}


@dataclass(frozen=True, slots=True)
class Start:
    """One start: seconds to the handshake's answer and to the first tool's, and kilobytes held then."""

    handshake: float
    first_tool: float
    memory: int


async def run(_: Databases, scale: Scale) -> Report:
    """Measure starts."""
    starts: dict[str, list[Start]] = {_FLOOR: [], _OURS: [], _FIRST: []}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = _environment(Path(folder) / "chat.db")
        await start(OURS, environment, "list_sessions", {})
        for index in range(scale.starts):
            starts[_FLOOR].append(await start(HELLO, {}, "add", {"a": 1, "b": 2}))
            starts[_OURS].append(await start(OURS, environment, "list_sessions", {}))
            fresh = _environment(Path(folder) / f"fresh-{index}.db")
            starts[_FIRST].append(await start(OURS, fresh, "list_sessions", {}))
    columns = (
        *(Column("handshake ms"), Column("× floor", 2), Column("first tool ms"), Column("× floor", 2)),
        *(Column("memory MB"), Column("× floor", 2)),
    )
    table = Table(f"Cold start, the median of {scale.starts}", columns)
    for name, taken in starts.items():
        cells = []
        for field, unit in _UNITS.items():
            cells += [_median(taken, field) * unit, _median(taken, field) / _median(starts[_FLOOR], field)]
        table.rows.append([name, *cells])
    ratios = {f"cold.{field}": _median(starts[_OURS], field) / _median(starts[_FLOOR], field) for field in _UNITS}
    return Report([table], ratios)


async def start(command: Sequence[str], environment: Mapping[str, str], tool: str, arguments: dict[str, Any]) -> Start:
    """Start a server, shake hands, call a tool, and end it."""
    began = time.perf_counter()
    async with started(command, environment) as wire:
        await wire.shake_hands()
        handshake = time.perf_counter() - began
        await wire.call(tool, arguments)
        first_tool = time.perf_counter() - began
        return Start(handshake, first_tool, _resident(wire.process.pid))


def _environment(path: Path) -> dict[str, str]:
    return {"MCP_CHAT_DATABASE_URL": f"sqlite+aiosqlite:///{path}"}


def _median(starts: Sequence[Start], field: str) -> float:
    return float(statistics.median(getattr(each, field) for each in starts))


def _resident(process_id: int) -> int:
    try:
        status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
