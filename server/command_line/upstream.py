"""The command about other servers: which are set up, what they offer, and how to set them up."""

import asyncio
import sys

from server.command_line.terminal import in_one_line, say
from server.settings import PREFIX, Settings, read_settings

_HOW = f"""\
No other MCP servers are set up. Write a file in the shape that clients use:

{{
  "mcpServers": {{
    "files": {{
      "command": "npx",
      "args": ["-y", "@modelcontextprotocol/server-filesystem", "/home/me/notes"],
      "tools": ["read_text_file", "search_files"]
    }},
    "tickets": {{
      "url": "https://tickets.example.com/mcp",
      "headers": {{"Authorization": "Bearer ${{TICKETS_TOKEN}}"}},
      "timeout": 30
    }}
  }}
}}

and name it: {PREFIX}UPSTREAM_FILE=/path/to/servers.json
Then list_server_tools and call_tool are offered, and each call is recorded."""


def upstream() -> None:
    """Show the other MCP servers that are set up, and their tools, or say how to set them up."""
    settings = read_settings()
    if settings.upstream_file is None:
        say(_HOW)
        return
    if not asyncio.run(_show(settings)):
        sys.exit(1)


async def _show(settings: Settings) -> bool:
    from server.upstream.calls import Upstreams
    from server.upstream.connection import NotReached

    upstreams = Upstreams(settings)
    are_well = True
    try:
        for name, given in (await upstreams.list_tools(list(upstreams.servers()))).items():
            if isinstance(given, NotReached):
                are_well = False
                say(f"{name}: {in_one_line(str(given))}")
            else:
                say(f"{name}: {in_one_line(', '.join(tool.name for tool in given)) or 'no tools'}")
    finally:
        await upstreams.close()
    return are_well
