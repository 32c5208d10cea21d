"""Ours: a client of the Python SDK with a server process of its own over stdio, all on one database file."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import TextContent

from benchmarks.peers.load import Plan, Store, run

_BATCH = 500


class Ours(Store):
    """Appends to one session, and gives each message an idempotency key as the tool's description asks."""

    def __init__(self, client: Client, session_id: str, process: int) -> None:
        self._client = client
        self._session_id = session_id
        self._process = process
        self._calls = 0

    async def create(self) -> str:
        return str((await self._call("start_session", {"title": "Shared by several processes"}))["id"])

    async def append(self, text: str) -> None:
        await self._append([text])

    async def fill(self, texts: Sequence[str]) -> None:
        for start in range(0, len(texts), _BATCH):
            await self._append(texts[start : start + _BATCH])

    async def read(self) -> list[str]:
        texts: list[str] = []
        after_seq = 0
        while True:
            asked = {"session_id": self._session_id, "after_seq": after_seq, "detail": "detailed"}
            window = await self._call("get_session_history", asked)
            texts += [entry["content"] for entry in window["entries"]]
            if window["newer"] == 0:
                return texts
            after_seq = window["after_seq"]

    async def last(self, count: int) -> list[str]:
        window = await self._call("get_session_history", {"session_id": self._session_id, "limit": count})
        return [entry["content"] for entry in window["entries"]]

    async def _append(self, texts: Sequence[str]) -> None:
        messages = []
        for text in texts:
            self._calls += 1
            key = f"{self._process}-{self._calls}"
            messages.append({"role": "user", "content": text, "idempotency_key": key})
        await self._call("add_messages", {"session_id": self._session_id, "messages": messages})

    async def _call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        result = await self._client.call_tool(tool, arguments)
        if result.is_error or result.structured_content is None:
            raise RuntimeError("\n".join(block.text for block in result.content if isinstance(block, TextContent)))
        answer: dict[str, Any] = result.structured_content
        return answer


@asynccontextmanager
async def open_ours(plan: Plan) -> AsyncIterator[Store]:
    environment = {"MCP_CHAT_DATABASE_URL": f"sqlite+aiosqlite:///{plan.store}"}
    program, *arguments = plan.command
    async with Client(stdio_client(StdioServerParameters(command=program, args=arguments, env=environment))) as client:
        yield Ours(client, plan.handle, plan.process)


if __name__ == "__main__":
    run(open_ours)
