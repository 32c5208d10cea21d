"""Full text: what the index costs an append, a deletion, a merge and the disk, and what a search of much takes.

Messages are of 400 bytes, their words drawn as in natural text (a few everywhere, most rarely). Appends go through the
service, with the index and without it, in turn. Searches run on `MCP_CHAT_BENCHMARK_MESSAGES`
messages (100,000 where it is not set), which are inserted beforehand.
"""

import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.databases import index_all
from chat_service import deletions
from chat_service.service import ChatService
from models.database import Database
from models.ids import SessionId, UserId
from models.inputs import NewMessage, NewSession, NewUser
from models.sqlite import SqliteEngine, choose_library

ROOT = Path(__file__).parents[1]
_IN_FLIGHT = 64
_LONG = 10_000
_QUERIES = (
    "rareword",
    "common",
    "common word",
    '"common word"',
    "rareword common",
    "-word1 common",
    "role:user common",
    "absent",
)


class Text:
    """Makes messages; the same ones each time."""

    def __init__(self) -> None:
        self._random = random.Random(7)  # noqa: S311 - guards nothing
        self._words = [f"word{number}" for number in range(20_000)]
        self._weights = [1 / (rank + 3) for rank in range(20_000)]

    def many(self, count: int) -> list[str]:
        """Return so many messages of 400 bytes."""
        words = self._random.choices(self._words, self._weights, k=count * 60)
        return [("common word " + " ".join(words[at * 60 : at * 60 + 60]))[:400] for at in range(count)]


async def main(rounds: int) -> None:
    """Print the tables."""
    text = Text()
    with tempfile.TemporaryDirectory() as folder:
        await _appends(Path(folder), text, rounds)
        await _searches(Path(folder), text, int(os.environ.get("MCP_CHAT_BENCHMARK_MESSAGES", "100000")), rounds)


async def _appends(folder: Path, text: Text, rounds: int) -> None:
    taken: dict[str, list[float]] = {}
    async with Database(_url(folder / "with.db")) as with_index, Database(_url(folder / "without.db")) as without:
        await without.write(_never_index)
        services = {"on": await _ready(ChatService(with_index)), "off": await _ready(ChatService(without))}
        contents = text.many(2_000)
        for _ in range(rounds):
            for name, (service, user_id, session_id) in services.items():

                async def append(
                    content: str,
                    service: ChatService = service,
                    user: UserId = user_id,
                    session: SessionId = session_id,
                ) -> None:
                    await service.add_message(user, session, NewMessage(role="user", content=content))

                single = [await _timed(partial(append, content)) for content in contents[:200]]
                taken.setdefault(f"single {name}", []).append(statistics.median(single))
                grouped = await _timed(partial(_all, append, contents))
                taken.setdefault(f"grouped {name}", []).append(grouped / len(contents))
    print(f"append of 400 bytes, median of {rounds}, in turn; × is the ratio of index on to off")
    for kind in ("single", "grouped"):
        on, off = statistics.median(taken[f"{kind} on"]), statistics.median(taken[f"{kind} off"])
        print(f"{kind:8} on {on * 1e6:7.0f} µs   off {off * 1e6:7.0f} µs   × {on / off:.2f}")


async def _all(append: Callable[[str], Awaitable[None]], contents: Sequence[str]) -> None:
    for start in range(0, len(contents), _IN_FLIGHT):
        await asyncio.gather(*(append(content) for content in contents[start : start + _IN_FLIGHT]))


async def _searches(folder: Path, text: Text, count: int, rounds: int) -> None:
    path = folder / "large.db"
    async with Database(_url(path)) as database:
        service, user_id, _ = await _ready(ChatService(database))
    began = time.perf_counter()
    _insert(path, text, count)
    index_all(path)
    print(f"\n{count} messages inserted and indexed in {time.perf_counter() - began:.0f} s; {_sizes(path, count)}")
    async with Database(_url(path)) as database:
        service = ChatService(database)
        floor = await _no_op(path, rounds * 10)
        print(
            f"search, median of {rounds}; × is the ratio to a tool call without work over stdio ({floor * 1e6:.0f} µs)"
        )
        await _search_all(service, user_id, floor, rounds)
        await _changes(database, service, user_id, text)
        # From the first deletion on the index is another to FTS5 (docs/decisions/full-text.md).
        print("\nsearch once more, now that something was deleted")
        await _search_all(service, user_id, floor, rounds)


async def _search_all(service: ChatService, user_id: UserId, floor: float, rounds: int) -> None:
    for query in _QUERIES:
        times = [await _timed(partial(service.search_history, user_id, query)) for _ in range(rounds)]
        median = statistics.median(times)
        print(f"{query:20} {median * 1e6:8.0f} µs   × {median / floor:.1f}   worst {max(times) * 1e6:.0f} µs")


async def _changes(database: Database, service: ChatService, user_id: UserId, text: Text) -> None:
    """Print how long the writer is held by what takes entries out of the index, or moves them."""
    short, long, target = [await _filled(service, user_id, text, count) for count in (100, _LONG, 1)]
    await database.index()
    print(f"\n{100} entries deleted: {await _timed(partial(service.delete_session, user_id, short)) * 1e3:.0f} ms")
    merged = await _timed(partial(service.merge_sessions, user_id, long, target))
    print(f"{_LONG} entries merged: {merged * 1e3:.0f} ms")
    steps = [await _timed(partial(service.delete_session, user_id, target))]
    while await database.read(deletions.is_anything_left):
        steps.append(await _timed(partial(service.transaction, deletions.finish_some)))
    print(
        f"{_LONG} entries deleted in {len(steps)} steps: median {statistics.median(steps) * 1e3:.0f} ms, "
        f"longest {max(steps) * 1e3:.0f} ms"
    )


async def _filled(service: ChatService, user_id: UserId, text: Text, count: int) -> SessionId:
    session_id = SessionId((await service.create_chat_session(user_id, NewSession()))["id"])
    for first in range(0, count, 500):
        contents = text.many(min(500, count - first))
        await service.add_messages(user_id, session_id, [NewMessage(role="user", content=each) for each in contents])
    return session_id


def _insert(path: Path, text: Text, count: int) -> None:
    insert = (
        "INSERT INTO messages (session_key, seq, kind, role, author, created_at, content)"
        " VALUES (1, ?, 'message', 'user', 'agent', ?, ?)"
    )
    with closing(SqliteEngine(path, choose_library()).open_raw(1_000)) as raw:
        raw.execute("PRAGMA synchronous=OFF")
        for first in range(0, count, 5_000):
            contents = text.many(min(5_000, count - first))
            raw.execute("BEGIN IMMEDIATE")
            rows = [(first + at + 1, first + at, content) for at, content in enumerate(contents)]
            rows = [(seq, at, f"rareword {content}" if seq == count // 2 else content) for seq, at, content in rows]
            raw.executemany(insert, rows)
            raw.execute("COMMIT")
        raw.execute("UPDATE chat_sessions SET last_seq = ?, message_count = ?", (count, count))


def _sizes(path: Path, count: int) -> str:
    with closing(SqliteEngine(path, choose_library()).open_raw(1_000)) as raw:
        (index,) = raw.execute("SELECT sum(length(block)) FROM message_search_data").fetchone()
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    whole = path.stat().st_size
    return (
        f"{whole / count:.0f} bytes a message, of them {index / count:.0f} of index (× {whole / (whole - index):.2f})"
    )


async def _no_op(path: Path, rounds: int) -> float:
    """Return the median of a tool call that finds nothing to do, over stdio."""
    environment = {**os.environ, "MCP_CHAT_DATABASE_URL": _url(path), "MCP_CHAT_USER": "nobody"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "mcp_chat_server.py")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    meta = (
        '{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":'
        '{"name":"benchmark","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}'
    )
    call = (
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_active_session","arguments":{},'
        f'"_meta":{meta}}}}}\n'
    ).encode()
    reader, writer = process.stdout, process.stdin

    async def ask() -> None:
        writer.write(call)
        assert b'"result"' in await reader.readline()

    times = [await _timed(ask) for _ in range(rounds)]
    writer.close()
    await process.wait()
    return statistics.median(times[rounds // 5 :])


async def _ready(service: ChatService) -> tuple[ChatService, UserId, SessionId]:
    user_id = UserId((await service.get_or_create_user(NewUser(username="ada")))["id"])
    return service, user_id, SessionId((await service.create_chat_session(user_id, NewSession()))["id"])


def _never_index(connection: Any) -> None:
    # As if all that ever comes were indexed.
    connection.exec_driver_sql("UPDATE search_progress SET indexed_key = ?", (2**62,))


async def _timed(action: Callable[[], Awaitable[Any]]) -> float:
    began = time.perf_counter()
    await action()
    return time.perf_counter() - began


def _url(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


if __name__ == "__main__":
    asyncio.run(main(15))
