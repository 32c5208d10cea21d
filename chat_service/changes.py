"""What changed, whichever process changed it: told to those who listen, and looked for only while somebody does.

One watcher serves all listeners. It asks the database whether anything was committed (`Database.data_version`, a few
microseconds), at once after a commit of this process and else every tenth of a second; where something was, it reads
what is listened to in a fixed number of statements and compares. A change means "read again": several that come faster
than a listener takes them are one to it, so nothing piles up behind a slow one.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress

from sqlalchemy import Connection, Text, bindparam, func, literal, select, type_coerce

from chat_service.events import Event, Events
from chat_service.limits import MAX_LISTENED, MAX_LISTENERS
from chat_service.sessions import check_ids, not_found
from chat_service.users import check_user_id
from models.database import Database
from models.errors import Unavailable
from models.ids import SessionId, UserId
from models.rows import columns
from models.shapes import SessionDict
from models.tables import chat_sessions, users

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
"""So often the watcher looks: a change of another process arrives well under a second, and a look costs next to
nothing."""

NEWEST, COUNTED = 20, 10_000
"""Of the list of sessions, the newest are compared in full; the others are counted, and no more than so many."""

Topic = tuple[UserId, SessionId | None]
"""A session of a user, or with None the list of their sessions."""

_Seen = dict[Topic, int]
_GONE = 0

_SHOWN = columns(
    SessionDict,
    chat_sessions,
    user_id=users.c.id,
    session_data=type_coerce(chat_sessions.c.session_data, Text),
    # To be compared and not shown, so the parent's own key will do.
    forked_from=chat_sessions.c.forked_from_key,
)
_SESSIONS = (
    select(*_SHOWN)
    .join_from(chat_sessions, users, chat_sessions.c.user_key == users.c.key)
    .where(chat_sessions.c.id.in_(bindparam("session_ids", expanding=True)))
)
_of_user = chat_sessions.alias()
_NEWEST_SESSIONS = (
    select(*_SHOWN)
    .join_from(users, chat_sessions, chat_sessions.c.user_key == users.c.key)
    .where(
        users.c.id.in_(bindparam("user_ids", expanding=True)),
        chat_sessions.c.key.in_(
            select(_of_user.c.key)
            .where(_of_user.c.user_key == users.c.key)
            .order_by(_of_user.c.key.desc())
            .limit(NEWEST)
            .correlate(users)
        ),
    )
    .order_by(chat_sessions.c.key)
)
_counted = select(literal(1)).where(_of_user.c.user_key == users.c.key).limit(COUNTED).correlate(users).subquery()
_COUNTS = select(users.c.id, select(func.count()).select_from(_counted).scalar_subquery()).where(
    users.c.id.in_(bindparam("user_ids", expanding=True))
)


class Listening:
    """What one listener has still to hear."""

    def __init__(self) -> None:
        self.topics: frozenset[Topic] = frozenset()
        self._changed: set[SessionId | None] = set()
        self._ended = False
        self._wake = asyncio.Event()

    async def next(self) -> set[SessionId | None]:
        """Wait for changes and return the sessions to be read again, None for their list; empty once it is all over."""
        await self._wake.wait()
        changed, self._changed = self._changed, set()
        if not self._ended:
            self._wake.clear()
        return changed

    def tell(self, topic: Topic) -> None:
        """Note a change of something that is listened to."""
        if topic in self.topics:
            self._changed.add(topic[1])
            self._wake.set()

    def end(self) -> None:
        """Let the listener know that nothing more comes."""
        self._ended = True
        self._wake.set()


class Changes:
    """Who listens to which sessions; watches the file while anybody does."""

    def __init__(self, database: Database, events: Events) -> None:
        self._database = database
        self._events = events
        self._listeners: set[Listening] = set()
        self._seen: _Seen = {}
        self._committed = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._closed = False

    @asynccontextmanager
    async def listening(
        self, user_id: UserId, session_ids: Collection[SessionId], *, to_list: bool = False
    ) -> AsyncIterator[Listening]:
        """Listen to sessions of the acting user, and to the list of them, from now to the end of the block.

        Raises NotFound for a session that does not exist or is not theirs, Unavailable where too much is listened to.
        """
        check_user_id(user_id)
        topics: set[Topic] = {(user_id, session_id) for session_id in session_ids if check_ids(user_id, session_id)}
        if to_list:
            topics.add((user_id, None))
        if len(self._listeners) >= MAX_LISTENERS or len(self._seen.keys() | topics) > MAX_LISTENED:
            raise Unavailable("Too much is listened to already: end what is no longer needed, then try again.")
        listening = Listening()
        self._listeners.add(listening)
        try:
            seen = await self._database.read(lambda connection: _look(connection, topics))
            if any(topic not in seen for topic in topics):
                raise not_found()
            # Where somebody listens already, what they have seen stands: at worst both read once more.
            self._seen = seen | self._seen
            listening.topics = frozenset(topics)
            if topics:
                self._begin()
            if self._closed:
                listening.end()
            yield listening
        finally:
            self._leave(listening)

    def close(self) -> None:
        """End all listening, that of now and that to come."""
        self._closed = True
        for listening in self._listeners:
            listening.end()

    def _begin(self) -> None:
        if self._watching is None:
            stop_hearing = self._events.subscribe(self._hear)
            self._watching = asyncio.create_task(self._watch(), name="watching for changes")
            self._watching.add_done_callback(lambda _: stop_hearing())

    def _leave(self, listening: Listening) -> None:
        self._listeners.discard(listening)
        needed = frozenset[Topic]().union(*(other.topics for other in self._listeners))
        self._seen = {topic: state for topic, state in self._seen.items() if topic in needed}
        if not self._seen and self._watching is not None:
            self._watching.cancel()
            self._watching = None

    def _hear(self, event: Event) -> None:
        if (event.user_id, event.session_id) in self._seen or (event.user_id, None) in self._seen:
            self._committed.set()

    async def _watch(self) -> None:
        version: int | None = None
        while True:
            try:
                latest = await self._database.data_version()
                if latest != version:
                    await self._compare()
                    version = latest
            except Exception as error:
                # Busy, or a fault that readers are told of: to look again is all that is to be done here.
                logger.info("looking for changes failed: %s", type(error).__name__)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._committed.wait()
            self._committed.clear()

    async def _compare(self) -> None:
        topics = set(self._seen)
        now = await self._database.read(lambda connection: _look(connection, topics))
        for topic in topics & self._seen.keys():
            state = now.get(topic, _GONE)
            if state != self._seen[topic]:
                self._seen[topic] = state
                for listening in self._listeners:
                    listening.tell(topic)


def _look(connection: Connection, topics: Collection[Topic]) -> _Seen:
    """Return a digest of what is shown of each topic; a session that is not the user's is left out."""
    seen: _Seen = {}
    session_ids = [session_id for _, session_id in topics if session_id is not None]
    user_ids = [user_id for user_id, session_id in topics if session_id is None]
    if session_ids:
        for row in connection.execute(_SESSIONS, {"session_ids": session_ids}):
            seen[(row.user_id, row.id)] = hash(tuple(row))
    if user_ids:
        newest = connection.execute(_NEWEST_SESSIONS, {"user_ids": user_ids}).all()
        counts = {row[0]: row[1] for row in connection.execute(_COUNTS, {"user_ids": user_ids})}
        for user_id in user_ids:
            shown = [tuple(row) for row in newest if row.user_id == user_id]
            seen[(user_id, None)] = hash((counts.get(user_id), *shown))
    return {topic: state for topic, state in seen.items() if topic in topics}
