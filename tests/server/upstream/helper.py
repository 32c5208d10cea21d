"""An MCP server to call: `python -m tests.server.upstream.helper FOLDER` over stdio, with `http` after it over HTTP.

What it does shows in files of the folder: its process id, and which calls it has begun and ended.
"""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import mcp_types as types
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError


def build(folder: Path) -> MCPServer:  # noqa: C901 - a tool each
    """Return the server."""
    server = MCPServer("helper")

    def note(what: str) -> None:
        with (folder / "notes").open("a") as notes:
            notes.write(f"{what}\n")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        note("add")
        return a + b

    @server.tool(structured_output=False)
    def repeat(text: str, times: int = 1) -> str:
        """Say a text so many times."""
        return text * times

    @server.tool()
    def text() -> str:
        """Give a text."""
        return "text"

    @server.tool(structured_output=False)
    def key() -> str:
        """Tell the key that this server was given."""
        return f"the key is {os.environ.get('HELPER_KEY')}"

    @server.tool()
    def fail(text: str) -> str:
        """Fail with this text."""
        raise ToolError(text)

    @server.tool(structured_output=False)
    def picture() -> list[Any]:
        """Give a text and a picture."""
        return [
            types.TextContent(type="text", text="a dot"),
            types.ImageContent(type="image", data="aGVsbG8=", mime_type="image/png"),
        ]

    @server.tool()
    async def count(to: int, context: Context) -> int:
        """Count and tell how far it has come."""
        for number in range(1, to + 1):
            await context.report_progress(number, to, f"at {number}")
        return to

    @server.tool()
    async def wait() -> str:
        """Wait until cancelled."""
        note("begun")
        try:
            await asyncio.Event().wait()
        finally:
            note("cancelled")
        return "never"

    @server.tool()
    def crash() -> str:
        """End the process in the middle of the call."""
        note("crash")
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        return "never"

    return server


async def serve_http(server: MCPServer) -> None:
    """Serve on a free port, which is written to the folder."""
    import uvicorn

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        # Whoever connects from now on waits until it is served.
        print(listening.getsockname()[1], flush=True)
        config = uvicorn.Config(server.streamable_http_app(), log_level="error", lifespan="on")
        await uvicorn.Server(config).serve([listening])


def main() -> None:
    """Serve, stubbornly where asked: then neither EOF nor SIGTERM ends it."""
    folder, *how = sys.argv[1:]
    with (Path(folder) / "processes").open("a") as processes:
        processes.write(f"{os.getpid()}\n")
    server = build(Path(folder))
    if "http" in how:
        asyncio.run(serve_http(server))
        return
    server.run("stdio")
    if "stubborn" in how:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            signal.pause()


if __name__ == "__main__":
    main()
