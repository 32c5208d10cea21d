"""The official memory server: a client of the Python SDK with a server process of its own, all on one memory file."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import TextContent

from benchmarks.peers.load import Plan, Store, run


class ServerMemory(Store):
    """Appends an entity with one observation: the text."""

    def __init__(self, client: Client, process: int) -> None:
        self._client = client
        self._process = process
        self._calls = 0

    async def create(self) -> str:
        # The first entity makes the file.
        return ""

    async def append(self, text: str) -> None:
        await self.fill([text])

    async def fill(self, texts: Sequence[str]) -> None:
        entities = []
        for text in texts:
            self._calls += 1
            name = f"message {self._calls} of process {self._process}"
            entities.append({"name": name, "entityType": "message", "observations": [text]})
        await self._call("create_entities", {"entities": entities})

    async def read(self) -> list[str]:
        graph = await self._call("read_graph", {})
        return [text for entity in graph["entities"] for text in entity["observations"]]

    async def _call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        result = await self._client.call_tool(tool, arguments)
        if result.is_error or result.structured_content is None:
            raise RuntimeError("\n".join(block.text for block in result.content if isinstance(block, TextContent)))
        answer: dict[str, Any] = result.structured_content
        return answer


@asynccontextmanager
async def open_server_memory(plan: Plan) -> AsyncIterator[Store]:
    environment = {"MEMORY_FILE_PATH": plan.store}
    program, *arguments = plan.command
    async with Client(stdio_client(StdioServerParameters(command=program, args=arguments, env=environment))) as client:
        yield ServerMemory(client, plan.process)


if __name__ == "__main__":
    run(open_server_memory)
