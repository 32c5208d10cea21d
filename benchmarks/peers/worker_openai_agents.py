# mypy: ignore-errors
# It runs in an environment of its own: its packages are not in ours.
"""The OpenAI Agents SDK's SQLiteSession: each process adds items to one session."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from agents import SQLiteSession

from benchmarks.peers.load import Plan, Store, run


class OpenAIAgents(Store):
    """Appends an item of the user."""

    def __init__(self, session: SQLiteSession) -> None:
        self._session = session

    async def create(self) -> str:
        # Opening has made the tables.
        return ""

    async def append(self, text: str) -> None:
        await self._session.add_items([{"role": "user", "content": text}])

    async def fill(self, texts: Sequence[str]) -> None:
        await self._session.add_items([{"role": "user", "content": text} for text in texts])

    async def read(self) -> list[str]:
        return [item["content"] for item in await self._session.get_items()]

    async def last(self, count: int) -> list[str]:
        return [item["content"] for item in await self._session.get_items(count)]


@asynccontextmanager
async def open_openai_agents(plan: Plan) -> AsyncIterator[Store]:
    session = SQLiteSession("shared", plan.store)
    try:
        yield OpenAIAgents(session)
    finally:
        session.close()


if __name__ == "__main__":
    run(open_openai_agents)
