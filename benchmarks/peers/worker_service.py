"""Ours as a library in the process, as the others are: ChatService over its Database."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from benchmarks.peers.load import Plan, Store, run
from chat_service.limits import MAX_BATCH, MAX_PAGE
from chat_service.service import ChatService
from models.database import Database
from models.ids import SessionId, UserId
from models.inputs import NewMessage, NewSession, NewUser


class Service(Store):
    """Appends a message of the user to one session."""

    def __init__(self, database: Database, service: ChatService, user_id: UserId, session_id: SessionId) -> None:
        self._database = database
        self._service = service
        self._user_id = user_id
        self._session_id = session_id

    async def create(self) -> str:
        session = await self._service.create_chat_session(self._user_id, NewSession())
        return session["id"]

    async def append(self, text: str) -> None:
        await self._service.add_message(self._user_id, self._session_id, NewMessage(role="user", content=text))

    async def fill(self, texts: Sequence[str]) -> None:
        for start in range(0, len(texts), MAX_BATCH):
            batch = [NewMessage(role="user", content=text) for text in texts[start : start + MAX_BATCH]]
            await self._service.add_messages(self._user_id, self._session_id, batch)

    async def read(self) -> list[str]:
        return await self.last(MAX_PAGE)

    async def last(self, count: int) -> list[str]:
        window = await self._service.get_session_history(self._user_id, self._session_id, count)
        return [entry["content"] for entry in window["entries"] if "content" in entry]

    async def settle(self) -> None:
        while not await self._database.index():
            continue


@asynccontextmanager
async def open_service(plan: Plan) -> AsyncIterator[Store]:
    async with Database(f"sqlite+aiosqlite:///{plan.store}") as database:
        service = ChatService(database)
        user_id = UserId((await service.get_or_create_user(NewUser(username="visitor")))["id"])
        yield Service(database, service, user_id, SessionId(plan.handle))


if __name__ == "__main__":
    run(open_service)
