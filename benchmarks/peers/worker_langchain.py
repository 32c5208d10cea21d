# mypy: ignore-errors
# It runs in an environment of its own: its packages are not in ours.
"""LangChain's SQLChatMessageHistory on aiosqlite: each process adds messages to one session."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from langchain_community.chat_message_histories import SQLChatMessageHistory
from langchain_core.messages import HumanMessage
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.peers.load import Plan, Store, run


class LangChain(Store):
    """Appends a message of the user; there is no way to ask for the last ones alone."""

    def __init__(self, history: SQLChatMessageHistory) -> None:
        self._history = history

    async def create(self) -> str:
        await self._history.aget_messages()
        return ""

    async def append(self, text: str) -> None:
        await self._history.aadd_message(HumanMessage(text))

    async def fill(self, texts: Sequence[str]) -> None:
        await self._history.aadd_messages([HumanMessage(text) for text in texts])

    async def read(self) -> list[str]:
        return [message.content for message in await self._history.aget_messages()]


@asynccontextmanager
async def open_langchain(plan: Plan) -> AsyncIterator[Store]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{plan.store}")
    try:
        yield LangChain(SQLChatMessageHistory("shared", connection=engine))
    finally:
        await engine.dispose()


if __name__ == "__main__":
    run(open_langchain)
