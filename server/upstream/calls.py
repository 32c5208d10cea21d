"""Calls of upstream tools: only allowed ones, each recorded when it ends, however it ends.

No transaction is open during a call. Where the record cannot be written, the tool's answer is given all the same, and
says so. A call that is cancelled is recorded by a task of its own, since its caller is gone.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from models.errors import Forbidden, Invalid, NotFound, TooLarge
from models.ids import SessionId
from models.inputs import NewSession, NewToolUsage
from models.text import to_json
from server.errors import explain
from server.settings import Settings
from server.upstream.configuration import UpstreamServer, read_configuration
from server.upstream.connection import Connection, NotReached
from server.upstream.outcome import Outcome, outcome_of, storable, storable_text, within

if TYPE_CHECKING:
    import mcp_types as types

    from models.shapes import ToolUsageDict
    from server.record import Caller

NEW_SESSION_TITLE = "Tool calls"
_SHUT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Call:
    """A tool to call; the ids join its record to the message that asked for it."""

    server: str
    tool: str
    arguments: dict[str, Any]
    tool_call_id: str | None = None
    message_seq: int | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Called:
    """What a call came to, where it is recorded, or why it is not."""

    session_id: SessionId
    outcome: Outcome
    duration_ms: float
    seq: int | None
    not_recorded: str | None


@dataclass(slots=True)
class Upstreams:
    """The upstream servers that the configuration names; close it at the end."""

    settings: Settings
    _servers: dict[str, UpstreamServer] | None = None
    _connections: dict[str, Connection] = field(default_factory=dict)
    _recording: set["asyncio.Task[ToolUsageDict]"] = field(default_factory=set)
    _finding: asyncio.Lock = field(default_factory=asyncio.Lock)
    _closed: bool = False

    def servers(self) -> dict[str, UpstreamServer]:
        """Return the servers by name; raises Invalid where the file is not as it must be, and reads it again then."""
        if self._servers is None:
            if self.settings.upstream_file is None:
                return {}
            self._servers = read_configuration(self.settings.upstream_file)
        return self._servers

    async def list_tools(self, servers: Sequence[str]) -> "dict[str, list[types.Tool] | NotReached]":
        """Return the tools of each server that may be called, or why it was not reached; raises NotFound."""
        connections = [self._connection(name) for name in servers]
        # At once: one that does not answer holds up the others no longer than itself.
        listed = await asyncio.gather(*map(_tools_of, connections))
        return dict(zip(servers, listed, strict=True))

    async def session_for(self, caller: "Caller", session_id: str | None) -> SessionId:
        """Return the session that calls are recorded in: the one that is named, else the active one, else a new one."""
        if session_id is not None:
            return SessionId((await caller.service.get_session(caller.user_id, SessionId(session_id)))["id"])
        async with self._finding:
            active = (await caller.service.get_active_session(caller.user_id))["session"]
            if active is None:
                new_session = NewSession(title=NEW_SESSION_TITLE, client=caller.client)
                active = await caller.service.create_chat_session(caller.user_id, new_session)
        return SessionId(active["id"])

    def check(self, call: Call) -> Connection:
        """Return the way to the server of a call; raises NotFound, Forbidden and TooLarge, before anything is done."""
        connection = self._connection(call.server)
        if not connection.server.allows(call.tool):
            raise Forbidden("tool: the configuration of this server does not allow it; list_server_tools lists those.")
        if len(to_json(call.arguments).encode()) > self.settings.max_content_bytes:
            raise TooLarge(f"arguments is larger than {self.settings.max_content_bytes} bytes: send less.")
        return connection

    async def call(self, caller: "Caller", session_id: SessionId, call: Call) -> Called:
        """Call a tool and record the call; raises what `check` does, and nothing once the tool may have been called."""
        connection = self.check(call)
        started_at, start = datetime.now(UTC), time.monotonic()

        def ended(outcome: Outcome) -> "asyncio.Task[ToolUsageDict]":
            usage = self._usage(connection, call, outcome, started_at, (time.monotonic() - start) * 1_000)
            recording = asyncio.create_task(_record(caller, session_id, usage))
            self._recording.add(recording)
            recording.add_done_callback(self._recorded)
            return recording

        try:
            outcome = await self._outcome(caller, connection, call)
        except asyncio.CancelledError:
            ended(Outcome("cancelled", error="cancelled by the caller; the tool may have done some of its work"))
            raise
        recording = ended(outcome)
        duration_ms = (time.monotonic() - start) * 1_000
        try:
            record = await asyncio.shield(recording)
        except Exception as error:
            return Called(session_id, outcome, duration_ms, None, explain(error))
        return Called(session_id, outcome, duration_ms, record["seq"], None)

    async def recorded(self) -> None:
        """Wait until every call that has ended is recorded, or cannot be."""
        if self._recording:
            await asyncio.wait(self._recording)

    async def close(self) -> None:
        """Finish what is being recorded, and end every server that we have started."""
        self._closed = True
        closing = [asyncio.create_task(each.close()) for each in self._connections.values()]
        if work := [*closing, *self._recording]:
            await asyncio.wait(work, timeout=_SHUT_SECONDS)

    def _connection(self, name: str) -> Connection:
        if self._closed:
            raise Invalid("The server is about to end: call again once it runs.")
        servers = self.servers()
        if name not in servers:
            known = ", ".join(sorted(servers)) or "none"
            raise NotFound(f"server: there is none of this name in the configuration (there are: {known}).")
        return self._connections.setdefault(name, Connection(name, servers[name]))

    async def _outcome(self, caller: "Caller", connection: Connection, call: Call) -> Outcome:
        from mcp.shared.exceptions import MCPError
        from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            if caller.progress is not None:
                # A client that no longer listens does not stop the tool.
                with suppress(Exception):
                    await caller.progress(progress, total, connection.secrets.hide(message))

        try:
            outcome = outcome_of(await connection.call_tool(call.tool, call.arguments, on_progress))
        except NotReached as error:
            outcome = Outcome("error", error=f"not called: the server {error}")
        except MCPError as error:
            if error.code == REQUEST_TIMEOUT:
                seconds = f"{connection.server.timeout:g}"
                sentence = f"no answer within {seconds} seconds; the tool may have done its work, or do it yet"
                outcome = Outcome("unknown", error=sentence)
            elif error.code == CONNECTION_CLOSED:
                outcome = Outcome("unknown", error="the server went away during the call; it may have done its work")
            else:
                outcome = Outcome("error", error=f"the server refused: {storable_text(error.message)[:1_000]}")
        except ValidationError:
            outcome = Outcome("unknown", error="the server answered with what is no result; it may have done its work")
        except Exception as error:
            # Whatever the transport may raise: that it failed is all there is to tell.
            outcome = Outcome("unknown", error=f"the call failed ({type(error).__name__}); it may have done its work")
        hide = connection.secrets.hide
        return Outcome(outcome.status, hide(outcome.result), hide(outcome.error))

    def _usage(
        self, connection: Connection, call: Call, outcome: Outcome, started_at: datetime, duration_ms: float
    ) -> NewToolUsage:
        return NewToolUsage(
            server_name=call.server,
            tool_name=call.tool,
            arguments=connection.secrets.hide(storable(call.arguments)),
            result=within(outcome.result, self.settings.max_content_bytes),
            status=outcome.status,
            error=outcome.error,
            started_at=started_at,
            duration_ms=duration_ms,
            tool_call_id=call.tool_call_id,
            message_seq=call.message_seq,
            idempotency_key=call.idempotency_key,
            origin="proxy",
        )

    def _recorded(self, recording: "asyncio.Task[ToolUsageDict]") -> None:
        self._recording.discard(recording)
        if not recording.cancelled():
            recording.exception()


async def _tools_of(connection: Connection) -> "list[types.Tool] | NotReached":
    try:
        return await connection.list_tools()
    except NotReached as error:
        return error


async def _record(caller: "Caller", session_id: SessionId, usage: NewToolUsage) -> "ToolUsageDict":
    return await caller.service.add_tool_usage(caller.user_id, session_id, usage)
