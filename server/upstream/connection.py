"""One upstream server: connected on first use in a task of its own, kept, and connected anew where it has gone."""

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from models.errors import Invalid
from server.upstream.configuration import UpstreamServer
from server.upstream.secrets import Secrets

if TYPE_CHECKING:
    import mcp_types as types
    from mcp.client.client import Client
    from mcp.shared.dispatcher import ProgressFnT

logger = logging.getLogger(__name__)

_MAX_PAGES = 50
_CONNECT_SECONDS = 30.0


class NotReached(Exception):
    """The server could not be started or did not answer; nothing was asked of it."""


class Connection:
    """The way to one server; `secrets` are the keys that it was given."""

    def __init__(self, name: str, server: UpstreamServer) -> None:
        self.name = name
        self.server = server
        self.secrets = Secrets()
        self._living: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        self._ready: asyncio.Future[Client] | None = None
        self._former: set[asyncio.Task[None]] = set()

    async def call_tool(self, tool: str, arguments: dict[str, Any], progress: "ProgressFnT") -> "types.CallToolResult":
        """Call a tool and return its result; raises NotReached, MCPError, and ValidationError where it is none.

        A connection that ended is left, so that the next call begins a new one.
        """
        from mcp.shared.exceptions import MCPError
        from mcp_types import CONNECTION_CLOSED

        client = await self._client()
        try:
            return await client.call_tool(
                tool, arguments, read_timeout_seconds=self.server.timeout, progress_callback=progress
            )
        except MCPError as error:
            if error.code == CONNECTION_CLOSED or error.message == "Session terminated":
                self._over.set()
            raise

    async def list_tools(self) -> "list[types.Tool]":
        """Return the tools that the server has and the configuration allows; raises what call_tool does."""
        from mcp.shared.exceptions import MCPError

        client = await self._client()
        tools: list[types.Tool] = []
        cursor: str | None = None
        try:
            async with asyncio.timeout(self.server.timeout):
                for _ in range(_MAX_PAGES):
                    page = await client.list_tools(cursor=cursor)
                    tools += [tool for tool in page.tools if self.server.allows(tool.name)]
                    cursor = page.next_cursor
                    if cursor is None:
                        break
        except (MCPError, TimeoutError, ValidationError) as error:
            self._over.set()
            raise NotReached(f"did not list its tools: {self._reason(error)}") from None
        return tools

    async def close(self) -> None:
        """End the connection, and the process where it is one of ours."""
        self._over.set()
        living = {task for task in (self._living, *self._former) if task is not None}
        if living:
            await asyncio.wait(living)

    async def _client(self) -> "Client":
        if self._living is None or self._living.done() or self._over.is_set():
            if self._living is not None and not self._living.done():
                self._former.add(self._living)
                self._living.add_done_callback(self._former.discard)
            self._over = asyncio.Event()
            self._ready = asyncio.get_running_loop().create_future()
            self._living = asyncio.create_task(self._live(self._ready, self._over), name=f"upstream {self.name}")
        assert self._ready is not None  # noqa: S101 - made together
        return await asyncio.shield(self._ready)

    async def _live(self, ready: "asyncio.Future[Client]", over: asyncio.Event) -> None:
        from mcp.client.client import Client

        try:
            server, secrets = self.server.filled()
            self.secrets = Secrets(secrets)
            async with _transport(server, over) as transport:
                client = Client(transport)
                # Not around the whole: a time limit must be left by the task that entered it.
                async with asyncio.timeout(self.server.timeout):
                    await client.__aenter__()
                # A server's schema is for those who read the result. The SDK would ask for the list of tools after a
                # call, wait for it without a limit, and give no result that does not fit.
                client.session.validate_tool_result = _believe  # type: ignore[method-assign]
                try:
                    ready.set_result(client)
                    await over.wait()
                finally:
                    await client.__aexit__(None, None, None)
        except Exception as error:
            if ready.done():
                # Its end was not clean; whoever waited for an answer has been told.
                logger.info("the connection to an upstream server ended with %s", type(error).__name__)
                return
            ready.set_exception(NotReached(f"could not be reached: {self._reason(error)}"))
            # Nobody may be waiting any more.
            ready.exception()

    def _reason(self, error: BaseException) -> str:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, TimeoutError):
            return f"no answer within {self.server.timeout:g} seconds"
        if isinstance(error, ValidationError):
            return "its answer is not as the protocol has it"
        if isinstance(error, Invalid):
            return str(error)
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        return self.secrets.hide_text(f"{type(error).__name__}: {error}")[:300]


async def _believe(name: str, result: "types.CallToolResult") -> None:
    """Judge nothing."""


@asynccontextmanager
async def _transport(server: UpstreamServer, over: asyncio.Event) -> AsyncIterator[Any]:
    if server.url is not None:
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        # How long a call may take is said with the call.
        patience = httpx2.Timeout(_CONNECT_SECONDS, read=server.timeout + _CONNECT_SECONDS)
        async with httpx2.AsyncClient(headers=server.headers, timeout=patience) as http_client:
            yield streamable_http_client(server.url, http_client=http_client)
        return
    from mcp.client.stdio import get_default_environment

    from server.upstream.process import ChildProcess

    assert server.command is not None  # noqa: S101 - one of the two is given
    environment = get_default_environment() | server.env
    command = shutil.which(server.command, path=environment.get("PATH", os.defpath)) or server.command
    yield ChildProcess([command, *server.args], environment, server.cwd, over)
