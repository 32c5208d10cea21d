# mypy: ignore-errors
# It runs in an environment of its own: its packages are not in ours.
"""The OpenAI Agents SDK's SQLAlchemySession on aiosqlite: each process adds items to one session."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from agents.extensions.memory import SQLAlchemySession

from benchmarks.peers.load import Plan, Store, run


class OpenAISQLAlchemy(Store):
    """Appends an item of the user."""

    def __init__(self, session: SQLAlchemySession) -> None:
        self._session = session

    async def create(self) -> str:
        await self._session.get_items()
        return ""

    async def append(self, text: str) -> None:
        await self.fill([text])

    async def fill(self, texts: Sequence[str]) -> None:
        await self._session.add_items([{"role": "user", "content": text} for text in texts])

    async def read(self) -> list[str]:
        return [item["content"] for item in await self._session.get_items()]

    async def last(self, count: int) -> list[str]:
        return [item["content"] for item in await self._session.get_items(count)]


@asynccontextmanager
async def open_openai_sqlalchemy(plan: Plan) -> AsyncIterator[Store]:
    url = f"sqlite+aiosqlite:///{plan.store}"
    session = SQLAlchemySession.from_url("shared", url=url, create_tables=True)
    try:
        yield OpenAISQLAlchemy(session)
    finally:
        await session.engine.dispose()


if __name__ == "__main__":
    run(open_openai_sqlalchemy)
