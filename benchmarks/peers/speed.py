"""Speed beside other stores, at equal durability: a write-ahead log, and a commit that waits for the disk.

Each store runs in a process and an environment of its own, beside ours alone, and the two take turns; the rows of ours
are ours beside ours. SQLite's own `synchronous=FULL` is the default that none of them changes, and the files of all are
in WAL mode: some set it, and for the others (ADK, LangChain) the file is put into it beforehand, where they would keep
a rollback journal, which waits for the disk four times a commit. The official memory server writes a file of JSON
lines, and never waits for the disk.

The libraries are compared with ours in the process, `ChatService`; the memory server with ours over MCP, through the
same client of the SDK. LangGraph's saver puts the whole state as its graphs do: the list of messages grows by one. It
works on a thread one run at a time, so no tasks run side by side there. LangChain's history can only be read whole.
"""

import asyncio
import json
import shutil
import sqlite3
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from benchmarks.databases import LENGTH, Databases
from benchmarks.measure import Rate, Timings
from benchmarks.peers.load import CREATE, PACE, READY, Plan
from benchmarks.peers.stores import (
    ADK,
    LANGCHAIN,
    LANGGRAPH,
    MEMORY,
    OPENAI,
    OURS,
    OWN,
    Peer,
    ask,
    line,
    start,
)
from benchmarks.report import Cell, Column, Report, Table
from benchmarks.scale import Scale
from models.sqlite import choose_library
from tests.clients.environments import Failed, needs_npm

SERVICE = Peer("ours, ChatService", "worker_service", OWN)
OVER_MCP = replace(OURS, name="ours, over MCP")
LIBRARIES = (
    Peer("openai-sqlite", "worker_openai_agents", OPENAI),
    Peer("openai-sqlalchemy", "worker_openai_sqlalchemy", OPENAI),
    Peer("google-adk", "worker_google_adk", ADK),
    Peer("langchain", "worker_langchain", LANGCHAIN),
    Peer("langgraph", "worker_langgraph_state", LANGGRAPH),
)
SERVER_MEMORY = Peer("server-memory", "worker_server_memory", MEMORY)
PEERS = (SERVICE, *LIBRARIES, OVER_MCP, SERVER_MEMORY)

_CALLS = 10
_LAST = 50
_TASKS = 16
_JUDGED = 1_000
_SECONDS_TO_END = 60
_ONE_AT_A_TIME = ("langgraph",)
_SQLITE = b"SQLite format 3\0"


class Pacer:
    """A worker that waits for orders, and what came of them."""

    def __init__(self, process: Process, folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._empty = self._size()
        self._bytes = 0
        self.appended = 0
        self.errors = 0
        self.rates: list[float] = []
        self.calls: dict[str, list[list[float]]] = {"append": [], "last": [], "together": []}

    async def fill(self, count: int) -> None:
        """Let it append so many, and warm up."""
        found = (await self._order(do="fill", count=count))["found"]
        # A result over MCP is bounded, and holds a few less.
        assert found > min(count, _LAST) * 0.8, f"{found} found of {count}"
        for what in ("append", "last"):
            await self._order(do=what, calls=2)
        self.appended += count + 2

    async def take(self, what: str) -> None:
        """Let it append, or read the last ones, some times."""
        self.calls[what].append(await self._order(do=what, calls=_CALLS))
        self.appended += _CALLS * (what == "append")

    async def take_together(self, seconds: float) -> None:
        """Let it append from several tasks."""
        told = await self._order(do="together", tasks=_TASKS, seconds=seconds)
        self.rates.append(told["rate"])
        self.calls["together"].append(told["seconds"])
        self.errors += told["errors"]
        self.appended += len(told["seconds"])

    async def end(self) -> None:
        """Let it close its files, and weigh them."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await asyncio.wait_for(self._process.wait(), _SECONDS_TO_END)
        self._bytes = self._size() - self._empty

    def timings(self, what: str) -> Timings:
        """Return how long its calls took."""
        return Timings(self.calls[what])

    @property
    def rate(self) -> Rate | None:
        """Appends a second of several tasks, where that was taken."""
        return Rate(self.rates, self.timings("together")) if self.rates else None

    @property
    def bytes_a_message(self) -> float:
        """What a message takes on disk: by how much the files have grown, ÷ the messages."""
        return self._bytes / self.appended

    async def _order(self, **order: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        return await line(self._process)

    def _size(self) -> int:
        kept = [path for path in self._folder.iterdir() if not path.name.endswith("-shm")]
        return sum(path.stat().st_size for path in kept) - sum(map(index_size, kept))


def index_size(path: Path) -> int:
    """Return the bytes of our full-text index in a file, whatever its name; another store has none."""
    with path.open("rb") as file:
        if file.read(len(_SQLITE)) != _SQLITE:
            return 0
    library = choose_library()
    with closing(library.connect(path, isolation_level=None)) as raw:
        names = raw.execute("SELECT name FROM sqlite_schema WHERE sql GLOB 'CREATE VIRTUAL TABLE*fts5*'").fetchall()
        if not names:
            return 0
        # As many pages as are free once the index is empty: those that its merges have freed are among them; appending
        # frees no others.
        raw.execute("BEGIN")
        for (name,) in names:
            raw.execute(f"INSERT INTO {name}({name}) VALUES ('delete-all')")  # noqa: S608
        (free,), (size,) = (raw.execute(f"PRAGMA {pragma}").fetchone() for pragma in ("freelist_count", "page_size"))
        raw.execute("ROLLBACK")
        return int(free * size)


class Pair(NamedTuple):
    """Ours and another store, which took turns."""

    ours: Pacer
    its: Pacer


async def run(_: Databases, scale: Scale) -> Report:
    """Measure those that can be set up here."""
    report = Report()
    peers = _set_up()
    for size in scale.peer_sizes:
        pairs = {peer: await _beside(peer, size, scale) for peer in peers}
        report.tables.append(_table(size, pairs))
        if size == _judged(scale):
            report.figures.update(_figures(pairs))
    return report


def _set_up() -> list[Peer]:
    ready: list[Peer] = []
    for peer in PEERS:
        if needs_npm(peer.environment) and not (shutil.which("npm") and shutil.which("node")):
            print(f"{peer.name} is left out: npm is needed for it", file=sys.stderr)
            continue
        print(f"{peer.name}: setting up", file=sys.stderr, flush=True)
        try:
            peer.environment.set_up()
        except Failed as failure:
            print(f"{peer.name} is left out: {failure}", file=sys.stderr)
        else:
            ready.append(peer)
    return ready


async def _beside(peer: Peer, size: int, scale: Scale) -> Pair:
    """Let a store and ours take turns."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(_paced(_ours_for(peer)))
        its = await stack.enter_async_context(_paced(peer))
        for pacer in (ours, its):
            await pacer.fill(size)
        for what in ("append", "last"):
            for index in range(scale.peer_rounds):
                for pacer in (ours, its) if index % 2 == 0 else (its, ours):
                    await pacer.take(what)
        if size == _judged(scale) and peer.name not in _ONE_AT_A_TIME:
            for index in range(scale.turns):
                for pacer in (ours, its) if index % 2 == 0 else (its, ours):
                    await pacer.take_together(scale.seconds)
        for pacer in (ours, its):
            await pacer.end()
    return Pair(ours, its)


def _judged(scale: Scale) -> int:
    return max(size for size in scale.peer_sizes if size <= _JUDGED)


def _ours_for(peer: Peer) -> Peer:
    return OVER_MCP if peer in (OVER_MCP, SERVER_MEMORY) else SERVICE


def _table(size: int, pairs: Mapping[Peer, Pair]) -> Table:
    columns = (
        *(Column("version"), Column("append µs"), Column("p99 µs"), Column("× ours", 1)),
        *(Column(f"last {_LAST} µs"), Column("p99 µs"), Column("× ours", 1)),
        *(Column(f"{_TASKS} tasks/s"), Column("ours ÷ it", 1), Column("p99 ms"), Column("errors")),
        *(Column("bytes a message, without the index"), Column("÷ text", 2)),
    )
    table = Table(f"Beside other stores, {size:,} messages of {LENGTH} bytes in the session", columns)
    for peer, (ours, pacer) in pairs.items():
        cells: list[Cell] = [peer.name, peer.version]
        for what in ("append", "last"):
            taken = pacer.timings(what)
            cells += [taken.median * 1e6, taken.percentile(99) * 1e6, taken.over(ours.timings(what))]
        if pacer.rate is not None and ours.rate is not None:
            longest = pacer.rate.timings.percentile(99) * 1e3
            cells += [pacer.rate.per_second, ours.rate.over(pacer.rate), longest, pacer.errors]
        else:
            cells += [None, None, None, None]
        # Few messages say nothing: a page holds more than they are.
        weighed = pacer.appended >= _JUDGED and size <= _JUDGED
        cells += [pacer.bytes_a_message, pacer.bytes_a_message / LENGTH] if weighed else [None, None]
        table.rows.append(cells)
    return table


def _figures(pairs: Mapping[Peer, Pair]) -> dict[str, float]:
    figures: dict[str, float] = {}
    last: list[float] = []
    for peer, (ours, its) in pairs.items():
        if peer is SERVICE:
            figures["peers.bytes"] = its.bytes_a_message / LENGTH
        if peer in (SERVICE, OVER_MCP):
            continue
        figures[f"peers.append.{peer.name}"] = its.timings("append").over(ours.timings("append"))
        last.append(its.timings("last").over(ours.timings("last")))
        if its.rate is not None and ours.rate is not None:
            figures[f"peers.tasks.{peer.name}"] = ours.rate.over(its.rate)
    return figures | {"peers.last": min(last, default=float("inf"))}


@asynccontextmanager
async def _paced(peer: Peer) -> AsyncIterator[Pacer]:
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        store = Path(folder) / "store"
        if peer in LIBRARIES:
            with closing(sqlite3.connect(store)) as raw:
                raw.execute("PRAGMA journal_mode=WAL")
        plan = Plan(CREATE, store.as_posix(), peer.command, peer.mode)
        plan = replace(plan, handle=await ask(peer, plan), task=PACE)
        process = await start(peer, plan)
        try:
            if await line(process) != READY:
                raise Failed("a worker did something else before it was ready")
            yield Pacer(process, Path(folder))
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
