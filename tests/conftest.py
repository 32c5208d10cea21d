"""What every test may use: a fresh database file, a service over it, and users to act as."""

import signal
import tempfile
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

from chat_service.service import ChatService
from models.database import Database
from models.ids import UserId
from models.inputs import NewUser
from models.sqlite import choose_library
from models.sqlite_file import prepare
from tests.reliability.scale import is_large


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start, also in the background of a shell, and draw the same examples each time."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The same code passes or fails each time; what is drawn anew each time is for endurance.
    settings.register_profile("suite", derandomize=not is_large())
    settings.load_profile("suite")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Name a database in which nothing is yet."""
    return empty_database(tmp_path / "chat.db")


@pytest.fixture
def new_file_url(tmp_path: Path) -> str:
    """Name a file that is not there yet, for tests of how a database comes to be."""
    return url_of(tmp_path / "new.db")


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


def empty_database(path: Path) -> str:
    """Put an empty database of the newest schema there, a copy of one that was migrated once, and return its URL."""
    path.touch(0o600)
    path.write_bytes(_migrated())
    return url_of(path)


@cache
def _migrated() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.db"
        prepare(path, choose_library())
        return path.read_bytes()
