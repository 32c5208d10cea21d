"""What the processes of these tests run where they are not servers: a ChatService of their own over the common file.

They are started by a fork server that has imported everything and opened nothing, so that hundreds of them cost little;
each opens the database by itself. What they are to do, and what came of it, goes over pipes.
"""

import asyncio
import importlib
import threading
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from chat_service.service import ChatService
from models import migrate
from models.database import Database
from models.errors import Unavailable
from models.ids import SessionId, UserId
from models.inputs import NewMessage, NewUser

USERNAME = "ada"

# What only the creation of a file needs is imported here as well, before the fork.
assert migrate.newest_version() > 0


class Place(NamedTuple):
    """Where a process works: the database, and the name of the SQLite library to use."""

    url: str
    library: str

    def database(self) -> Database:
        """Return the database, not yet opened."""
        return Database(self.url, library=importlib.import_module(self.library))


class Contention(NamedTuple):
    """What came of a process's appends, one after the other: their seqs, how long each took, and the refusals."""

    seqs: list[int]
    seconds: list[float]
    refusals: list[str]


class Opening(NamedTuple):
    """What a process found when it had opened the file."""

    user_id: str
    journal_mode: str
    schema_version: int


def content_of(key: str) -> str:
    """Return the content that belongs to a key: mostly short, and now and then long enough to fill many pages."""
    draw = zlib.crc32(key.encode())
    return f"{key} " + "-" * (draw % 30_000 if draw % 16 == 0 else draw % 300)


def message_of(key: str) -> NewMessage:
    """Make the message that belongs to a key."""
    return NewMessage(role="user", content=content_of(key), idempotency_key=key)


async def sign_in(service: ChatService) -> UserId:
    """Return the user in whose name all the processes write."""
    return UserId((await service.get_or_create_user(NewUser(username=USERNAME)))["id"])


def serve(orders: Any, answers: Any, place: Place) -> None:
    """Append what is ordered, many at a time, and answer each append when it is durable, until the orders end."""
    asyncio.run(_serve(orders, answers, place))


async def _serve(orders: Any, answers: Any, place: Place) -> None:
    loop = asyncio.get_running_loop()
    ordered: asyncio.Queue[tuple[int, str, Sequence[str]] | None] = asyncio.Queue()

    def read() -> None:
        with suppress(EOFError, OSError):
            while True:
                loop.call_soon_threadsafe(ordered.put_nowait, orders.recv())
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(ordered.put_nowait, None)

    threading.Thread(target=read, daemon=True).start()
    async with place.database() as database, asyncio.TaskGroup() as tasks:
        service = ChatService(database)
        user_id = await sign_in(service)

        async def append(number: int, session_id: str, keys: Sequence[str]) -> None:
            try:
                stored = await service.add_messages(user_id, SessionId(session_id), [message_of(key) for key in keys])
            except Unavailable as error:
                answers.send((number, None, str(error)))
            else:
                answers.send((number, [message["seq"] for message in stored], None))

        while (order := await ordered.get()) is not None:
            tasks.create_task(append(*order))


def contend(orders: Any, answers: Any, place: Place, session_id: str, name: str, appends: int) -> None:
    """Say that the database is open, wait for the word to begin, append one by one, and tell what came of it."""

    async def run() -> None:
        async with place.database() as database:
            service = ChatService(database)
            user_id = await sign_in(service)
            answers.send("ready")
            orders.recv()
            result = Contention([], [], [])
            for number in range(appends):
                message = NewMessage(role="user", content=f"{name} {number}")
                began = time.perf_counter()
                try:
                    stored = await service.add_message(user_id, SessionId(session_id), message)
                except Unavailable as error:
                    result.refusals.append(str(error))
                else:
                    result.seqs.append(stored["seq"])
                result.seconds.append(time.perf_counter() - began)
            answers.send(result)

    asyncio.run(run())


def open_once(orders: Any, answers: Any, place: Place) -> None:
    """Say that the process has begun, wait for the word, open the file, close it, and tell what was found."""

    async def run() -> Opening:
        async with place.database() as database:
            service = ChatService(database)
            user_id = await sign_in(service)
            health = await service.health()
            return Opening(user_id, health["journal_mode"], health["schema_version"])

    answers.send("ready")
    orders.recv()
    try:
        answers.send(asyncio.run(run()))
    except Unavailable as error:
        answers.send(str(error))
