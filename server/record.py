"""The record behind the server: opened once, beside the first exchange with the client and not before it.

The database layer costs a third of the start-up. It is imported and opened on a thread while the client reads our first
answer; a call that needs it waits for that. Where opening fails, calls are told why, and the next one tries again.
"""

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from models.errors import NotFound
from models.ids import UserId
from server.housekeeping import Housekeeping
from server.settings import Settings

if TYPE_CHECKING:
    from mcp.shared.dispatcher import ProgressFnT

    from chat_service.service import ChatService
    from models.database import Database
    from server.llm.chats import Chats
    from server.upstream.calls import Upstreams

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and the service that answers; `client` is what the client says of itself, never trusted.

    `progress` tells the client how far its call has come; `upstreams` are other servers and `chats` a model,
    where they are set up.
    """

    service: "ChatService"
    user_id: UserId
    client: str | None = None
    progress: "ProgressFnT | None" = None
    upstreams: "Upstreams | None" = None
    chats: "Chats | None" = None


class CallerSource(Protocol):
    """Tells who calls; `anew` signs the user in once more, where another process has deleted them meanwhile."""

    def __call__(self, *, anew: bool = False) -> Awaitable[Caller]:
        """Return the caller; raises what opening the record raised."""
        ...


async def as_caller(source: CallerSource, action: Callable[[Caller], Awaitable[Result]]) -> Result:
    """Do something as the one who calls, and return its result.

    A user whom another process has deleted is answered NotFound; they are created anew then, and the action is repeated
    in their name. Who is there costs nothing more.
    """
    caller = await source()
    try:
        return await action(caller)
    except NotFound:
        renewed = await source(anew=True)
        if renewed.user_id == caller.user_id:
            raise
        return await action(renewed)


class Record:
    """Opens the database, signs the local user in, and hands out the service; close it at the end."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._upstreams: Upstreams | None = None
        self._chats: Chats | None = None
        self._database: Database | None = None
        self._opening: asyncio.Task[ChatService] | None = None
        self._service: ChatService | None = None
        self._waits = True
        self._housekeeping: Housekeeping | None = None
        self._user_id: UserId | None = None

    def open_soon(self) -> None:
        """Begin to open, where that has not begun, and do not wait."""
        self._begun()

    def _begun(self) -> "asyncio.Task[ChatService]":
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), name="opening the record")
            self._opening.add_done_callback(_look_at)
        return self._opening

    async def caller(
        self, client: str | None = None, progress: "ProgressFnT | None" = None, *, anew: bool = False
    ) -> Caller:
        """Return the local user and the service; raises what opening raised, and the next call tries again.

        With `anew`, the user is looked for, and created once more where they were deleted.
        """
        if self.is_opening:
            # It began before this call: where it fails, its reason may be gone by now.
            with suppress(Exception):
                await asyncio.shield(self._begun())
        if self._opening is not None and self._opening.done() and self._opening.exception() is not None:
            self._opening = None
        service = await asyncio.shield(self._begun())
        if anew:
            try:
                await service.get_user(self._signed_in)
            except NotFound:
                await self._sign_in(service)
        return Caller(service, self._signed_in, client, progress, self._reached(), self._answering())

    @property
    def is_opening(self) -> bool:
        """Tell whether opening has begun and not ended yet."""
        return self._opening is not None and not self._opening.done()

    def end_waiting(self) -> None:
        """Let everybody who waits for something new be answered now, and nobody wait any more."""
        self._waits = False
        if self._service is not None:
            self._service.changes.close()

    async def close_upstreams(self) -> None:
        """Write down what was under way, and end the servers that we have started."""
        if self._chats is not None:
            await self._chats.recorded()
            self._chats = None
        if self._upstreams is not None:
            await self._upstreams.close()
            self._upstreams = None

    async def close(self) -> None:
        """Finish what has begun, refuse the rest, and let go of the file."""
        await self.close_upstreams()
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
            self._opening = None
        if self._housekeeping is not None:
            await self._housekeeping.stop()
            self._housekeeping = None
        if self._database is not None:
            await self._database.close()
            self._database = None

    def _reached(self) -> "Upstreams | None":
        if self._upstreams is None and self.settings.upstream_file is not None:
            from server.upstream.calls import Upstreams

            self._upstreams = Upstreams(self.settings)
        return self._upstreams

    def _answering(self) -> "Chats | None":
        if self._chats is None and self.settings.model is not None:
            from server.llm.chats import Chats

            self._chats = Chats(self.settings)
        return self._chats

    @property
    def _signed_in(self) -> UserId:
        assert self._user_id is not None, "opening signs the user in"  # noqa: S101
        return self._user_id

    async def _sign_in(self, service: "ChatService") -> None:
        from models.inputs import NewUser

        user = await service.get_or_create_user(NewUser(username=self.settings.user))
        self._user_id = UserId(user["id"])

    async def _open(self) -> "ChatService":
        # Imported on a thread, so that the loop answers the client meanwhile.
        await asyncio.to_thread(_import_database)
        from chat_service.limits import Limits
        from chat_service.service import ChatService
        from models.database import Database

        database = Database(self.settings.database_url, deadline=self.settings.deadline_seconds)
        try:
            await database.open()
            service = ChatService(database, limits=Limits(content=self.settings.max_content_bytes))
            await self._sign_in(service)
        except BaseException:
            await database.close()
            raise
        self._database, self._service = database, service
        if not self._waits:
            service.changes.close()
        self._housekeeping = Housekeeping(service)
        self._housekeeping.start()
        return service


def _import_database() -> None:
    importlib.import_module("chat_service.service")
    importlib.import_module("models.database")


def _look_at(opening: "asyncio.Task[ChatService]") -> None:
    # Where nobody has asked for it yet, a failure is told to the first who does.
    if not opening.cancelled():
        opening.exception()
