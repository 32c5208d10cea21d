"""The session that calls are recorded into: the one that was named, the one that is active, or a new one."""

from models.ids import SessionId
from models.inputs import NewSession
from server.record import Caller

_MAX_TITLE = 200


class Destination:
    """Chooses a session for each call; `session` or `title` are what was asked for, `run` is this run's own name."""

    def __init__(self, session: str | None, title: str | None, workspace: str, run: str) -> None:
        self._session = SessionId(session) if session else None
        self._title = title
        self._workspace = workspace
        self._run = run
        self._opened = 0
        self._last: SessionId | None = None
        self._client: str | None = None
        self._server: str | None = None

    async def choose(self, caller: Caller, client: str | None, server: str | None) -> SessionId:
        """Return the session for a call of a client to a server."""
        self._client, self._server = client, server
        if self._session is not None:
            self._last = self._session
        elif self._title is not None:
            self._last = self._last or await self._create(caller, self._title, client, f"{self._run}:{self._opened}")
        else:
            self._last = await self._active_or_new(caller, client, server)
        return self._last

    async def last(self, caller: Caller) -> SessionId:
        """Return the session of the last call, or one that would be chosen now."""
        return self._last or await self.choose(caller, self._client, self._server)

    def forget(self, session_id: SessionId | None) -> bool:
        """Let go of a session that is no more; tell whether another may be chosen in its place."""
        if self._session is not None:
            return False
        if self._last is not None and self._last == session_id:
            self._last = None
            self._opened += 1
        return True

    async def _create(self, caller: Caller, title: str, client: str | None, key: str | None) -> SessionId:
        return SessionId(
            (await caller.service.create_chat_session(caller.user_id, self._new(title, client, key)))["id"]
        )

    async def _active_or_new(self, caller: Caller, client: str | None, server: str | None) -> SessionId:
        from chat_service import session_pages, sessions
        from chat_service.work import Work

        title = f"Tool calls of {server}" if server else "Tool calls"

        def find_or_create(work: Work) -> SessionId:
            # In one transaction: the relays of one client start together, and one session is enough for them.
            for workspace in (self._workspace, None):
                found = session_pages.get_active(work.connection, caller.user_id, client, workspace)["session"]
                if found and (found["session_data"] or {}).get("workspace") in (None, workspace):
                    return SessionId(found["id"])
            return SessionId(sessions.create(work, caller.user_id, self._new(title, client, None))["id"])

        return await caller.service.transaction(find_or_create)

    def _new(self, title: str, client: str | None, key: str | None) -> NewSession:
        return NewSession(
            title=title[:_MAX_TITLE],
            client=client,
            session_data={"workspace": self._workspace, "recorded": "proxy"},
            idempotency_key=key,
        )
