"""A server of the SDK with a few tools, over stdio or, with a port to listen on, over Streamable HTTP."""

import sys

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

app = MCPServer("sdk tools")


@app.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@app.tool()
def refuse() -> str:
    """Refuse."""
    raise ToolError("not today")


@app.tool()
async def count(context: Context, to: int) -> str:
    """Count, and report how far it is."""
    for number in range(to):
        await context.report_progress(number, to)
    return "counted"


@app.tool()
async def sleep() -> str:
    """Never answer."""
    await anyio.sleep_forever()
    return ""


if __name__ == "__main__":
    if len(sys.argv) > 1:
        app.run("streamable-http", port=int(sys.argv[1]), json_response="json" in sys.argv)
    else:
        app.run()
