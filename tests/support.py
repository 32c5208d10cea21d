"""What several tests share: entries to append, values to try, a service for properties, things to count."""

import asyncio
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Table, func, insert, select, update

from chat_service import appends, tool_usage
from chat_service.events import Event
from chat_service.service import ChatService
from chat_service.work import Work
from models import tables
from models.database import Database
from models.ids import SessionId, UserId, utc_now
from models.inputs import NewMessage, NewSession, NewToolUsage, NewUser, ToolCallPart
from models.tables import chat_sessions, metadata
from tests.conftest import empty_database

ROOT = Path(__file__).parents[1]

_BESIDE = {"search_progress", "audit_log", "erasures", "tombstones", "salts"}
RECORD = [table for table in metadata.sorted_tables if table.name not in _BESIDE]
"""The tables that hold something of the record; the others say how far the index is, and what was deleted."""

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
"""Every text that may be stored, among it emoji, right-to-left scripts and line ends of all kinds."""

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**4000), 2**4000)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
JSON_VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
JSON_OBJECTS = st.dictionaries(TEXTS, JSON_VALUES, max_size=5)

SECONDS = 30
"""How long a thread of a test waits before it gives up: only a failing test waits."""

PROPERTY = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck), derandomize=True)
"""How properties over a real database run: as many examples as time allows, the same ones each time."""


def said(content: str = "hello", **more: Any) -> NewMessage:
    """Make a user's message."""
    return NewMessage(role="user", content=content, **more)


def asking(*tool_call_ids: str, **more: Any) -> NewMessage:
    """Make an assistant's message that asks for tool calls."""
    parts: list[Any] = [ToolCallPart(type="tool_call", id=tool_call_id) for tool_call_id in tool_call_ids]
    return NewMessage(role="assistant", parts=parts, **more)


def done(tool_name: str = "read", **more: Any) -> NewToolUsage:
    """Make the record of a tool call."""
    return NewToolUsage(**{"tool_name": tool_name, "arguments": {}} | more)


async def new_user(service: ChatService, username: str = "grace") -> UserId:
    """Create a user and return their id."""
    return UserId((await service.get_or_create_user(NewUser(username=username)))["id"])


async def new_session(service: ChatService, user_id: UserId, **more: Any) -> SessionId:
    """Create a session and return its id."""
    return SessionId((await service.create_chat_session(user_id, NewSession(**more)))["id"])


async def last_seq(service: ChatService, user_id: UserId, session_id: SessionId) -> int:
    """Return the end of a session's timeline."""
    return (await service.get_session(user_id, session_id))["last_seq"]


async def fill(service: ChatService, user_id: UserId, session_id: SessionId, entries: int) -> None:
    """Append entries in one transaction, messages and tool usage by turns."""

    def append(work: Work) -> None:
        for number in range(entries):
            if number % 2:
                tool_usage.add(work, user_id, session_id, done(arguments={"number": number}))
            else:
                appends.add(work, user_id, session_id, [said(f"number {number}")])

    await service.transaction(append)


async def count_rows(database: Database, table: Table) -> int:
    """Count all rows of a table."""
    query = select(func.count()).select_from(table)
    return await database.read(lambda connection: int(connection.execute(query).scalar_one()))


def hear(service: ChatService) -> list[Event]:
    """Collect the events of a service from now on."""
    heard: list[Event] = []
    service.events.subscribe(heard.append)
    return heard


_INDEXING = re.compile(r"INSERT INTO \w+_search\(|UPDATE search_progress|SELECT .*search_progress", re.DOTALL)


class _Noting:
    """A driver's connection that notes what is run on it, once however many rows it is run for.

    What has to do with how far the index is comes when it comes, and is left out.
    """

    def __init__(self, raw: Any, statements: list[str]) -> None:
        self._raw = raw
        self._statements = statements

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def execute(self, statement: str, *values: Any) -> Any:
        self._note(statement)
        return self._raw.execute(statement, *values)

    def executemany(self, statement: str, *values: Any) -> Any:
        self._note(statement)
        return self._raw.executemany(statement, *values)

    def cursor(self) -> "_Noting":
        return _Noting(self._raw.cursor(), self._statements)

    def _note(self, statement: str) -> None:
        if not _INDEXING.match(statement):
            self._statements.append(statement)


async def watch_statements(database: Database) -> list[str]:
    """Collect the statements of the units from now on; the database has one reader, so that none escapes."""
    statements: list[str] = []

    def listen(connection: Connection) -> None:
        held: Any = connection.connection
        held.dbapi_connection = _Noting(held.dbapi_connection, statements)

    await database.read(listen)
    await database.write(listen)
    return statements


class Gate:
    """A unit that begins, says so on the event loop, and ends when it is let go."""

    def __init__(self, unit: Callable[[Connection], Any] = lambda _: 0) -> None:
        self.begun = asyncio.Event()
        self.let_go = threading.Event()
        self._unit = unit
        self._loop = asyncio.get_running_loop()

    def __call__(self, connection: Connection) -> Any:
        self._loop.call_soon_threadsafe(self.begun.set)
        assert self.let_go.wait(SECONDS), "the gate was never opened"
        return self._unit(connection)

    def open_after_what_waits(self) -> None:
        """Let the unit go once the tasks that were created before now have run up to their first wait."""
        self._loop.call_soon(self.let_go.set)


async def held(database: Database, gate: Gate) -> "asyncio.Task[Any]":
    """Start a gated unit on the writer, so that what is written meanwhile waits together."""
    task = asyncio.create_task(database.write(gate))
    await gate.begun.wait()
    return task


async def watch_commits(database: Database) -> list[str]:
    """Collect the COMMITs of the writer from now on."""
    # What was written until now would be indexed, and committed, at some moment after it.
    await database.index()
    commits: list[str] = []

    def note(statement: str) -> None:
        if statement == "COMMIT":
            commits.append(statement)

    def listen(connection: Connection) -> None:
        raw: Any = connection.connection.driver_connection
        raw.set_trace_callback(note)

    await database.write(listen)
    commits.clear()
    return commits


@dataclass(frozen=True)
class Serving:
    """A service with a user and a session, and the loop on which its calls run."""

    runner: asyncio.Runner
    service: ChatService
    user_id: UserId
    session_id: SessionId


@contextmanager
def serving(folder: Path) -> Iterator[Serving]:
    """Open a service for a property, whose examples are plain functions that share one database."""
    with asyncio.Runner() as runner:
        database = runner.run(Database(empty_database(folder / "chat.db")).open())
        try:
            service = ChatService(database)
            user_id = runner.run(new_user(service))
            yield Serving(runner, service, user_id, runner.run(new_session(service, user_id)))
        finally:
            runner.run(database.close())


def start_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a program in a process of its own, in which the packages can be imported."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(processes: Sequence[subprocess.Popen[str]]) -> list[str]:
    """Wait for programs, all of which must succeed, and return what each printed."""
    printed = []
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        printed.append(output.strip())
    return printed


def run_python(code: str, *arguments: object) -> str:
    """Run a program in a process of its own and return what it printed."""
    return finish([start_python(code, *arguments)])[0]


async def fill_long(database: Database, session_id: SessionId, pairs: int) -> None:
    """Fill an empty session with so many pairs of a message that asks for a call, and the call, past the service."""
    numbers = range(pairs)
    common = {"created_at": utc_now()}
    said_all = {"kind": "message", "role": "assistant", "author": "agent"} | common
    done_all = {"tool_name": "read", "status": "success", "origin": "agent", "arguments": {}} | common

    def insert_all(connection: Connection) -> None:
        found = select(chat_sessions.c.key).where(chat_sessions.c.id == session_id)
        of = {"session_key": connection.execute(found).scalar_one()}
        calls = [of | {"message_seq": 2 * number + 1, "tool_call_id": f"call-{number}"} for number in numbers]
        asked = [
            of | said_all | {"seq": 2 * number + 1, "content": f"number {number}", "parts": [_part(number)]}
            for number in numbers
        ]
        connection.execute(insert(tables.messages), asked)
        connection.execute(insert(tables.tool_call_references), calls)
        connection.execute(
            insert(tables.tool_usages), [done_all | call | {"seq": call["message_seq"] + 1} for call in calls]
        )
        counts = {"last_seq": 2 * pairs, "message_count": pairs, "tool_usage_count": pairs}
        connection.execute(update(chat_sessions).where(chat_sessions.c.id == session_id).values(counts))

    await database.write(insert_all)


def _part(number: int) -> dict[str, str]:
    return {"type": "tool_call", "id": f"call-{number}"}


async def count_all_rows(database: Database) -> dict[str, int]:
    """Count the rows of every table that holds something of the record."""
    return {table.name: await count_rows(database, table) for table in RECORD}
