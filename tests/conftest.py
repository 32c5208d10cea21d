"""What every test may use: a fresh database file, a service over it, and users to act as."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chat_service.service import ChatService
from models.database import Database
from models.ids import UserId
from models.inputs import NewUser


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return url_of(tmp_path / "chat.db")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url) as database:
        yield database


@pytest.fixture
def service(database: Database) -> ChatService:
    return ChatService(database)


@pytest.fixture
async def user_id(service: ChatService) -> UserId:
    return UserId((await service.get_or_create_user(NewUser(username="ada")))["id"])


@pytest.fixture
async def stranger_id(service: ChatService) -> UserId:
    return UserId((await service.get_or_create_user(NewUser(username="mallory")))["id"])


def url_of(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"
