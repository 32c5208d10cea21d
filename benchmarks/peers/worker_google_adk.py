# mypy: ignore-errors
# It runs in an environment of its own: its packages are not in ours.
"""Google ADK's DatabaseSessionService: each process gets one session first, and appends events to it.

In the mode RELOAD a process that is told that its session is stale gets the session again and repeats the append, as
the error's text asks.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from google.adk.errors import StaleSessionError
from google.adk.events import Event
from google.adk.sessions import DatabaseSessionService
from google.adk.sessions.base_session_service import GetSessionConfig
from google.genai import types

from benchmarks.peers.load import Plan, Store, run

RELOAD = "reload"
KEY = {"app_name": "benchmark", "user_id": "visitor", "session_id": "shared"}


class GoogleADK(Store):
    """Appends an event of the user."""

    def __init__(self, service: DatabaseSessionService, *, reload: bool) -> None:
        self._service = service
        self._reload = reload
        self._session = None

    async def create(self) -> str:
        await self._service.create_session(**KEY)
        return ""

    async def append(self, text: str) -> None:
        if self._session is None:
            await self.read()
        content = types.Content(role="user", parts=[types.Part(text=text)])
        await self._service.append_event(self._session, Event(author="user", content=content))

    async def recover(self, error: Exception) -> bool:
        if not (self._reload and isinstance(error, StaleSessionError)):
            return False
        await self.read()
        return True

    async def read(self) -> list[str]:
        self._session = await self._service.get_session(**KEY)
        return [event.content.parts[0].text for event in self._session.events]

    async def last(self, count: int) -> list[str]:
        session = await self._service.get_session(**KEY, config=GetSessionConfig(num_recent_events=count))
        return [event.content.parts[0].text for event in session.events]


@asynccontextmanager
async def open_google_adk(plan: Plan) -> AsyncIterator[Store]:
    async with DatabaseSessionService(f"sqlite+aiosqlite:///{plan.store}") as service:
        yield GoogleADK(service, reload=plan.mode == RELOAD)


if __name__ == "__main__":
    run(open_google_adk)
