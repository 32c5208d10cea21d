"""ChatService, the boundary: each method opens one unit of work, and returns plain dicts once it is done.

A dict is JSON as it stands and needs no database any more. Every method on somebody's data takes the acting user first,
and answers for a foreign id exactly as for one that does not exist. What a method may raise is in `models.errors`.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from chat_service import (
    appends,
    audit,
    context,
    deletions,
    forks,
    history,
    merges,
    messages,
    runs,
    search,
    session_pages,
    sessions,
    token_totals,
    tool_totals,
    tool_usage,
    tool_usage_pages,
    users,
)
from chat_service.changes import Changes
from chat_service.events import Event, Events
from chat_service.limits import MAX_WAIT_SECONDS, Limits
from chat_service.paging import check_seq
from chat_service.work import Work
from models.database import Database
from models.errors import ChatError, Invalid, Unavailable
from models.ids import RunId, SessionId, UserId, utc_now
from models.index_words import BEGINNING, Place
from models.inputs import (
    ContextShape,
    Lease,
    NewMessage,
    NewRun,
    NewSession,
    NewToolUsage,
    NewUser,
    RunCall,
    RunState,
    SessionChanges,
    SessionStatus,
    TimeRange,
    TokenGroup,
    ToolStatus,
    UserChanges,
)
from models.shapes import (
    ActiveSessionDict,
    AuditCheckDict,
    AuditPageDict,
    ContextDict,
    DeletedDict,
    EntryPieceDict,
    HealthDict,
    HistoryDict,
    HistoryPreviewDict,
    MessageDict,
    MessagePageDict,
    RunDict,
    SearchPageDict,
    SessionDict,
    SessionPageDict,
    ToolUsageDict,
    ToolUsageListDict,
    ToolUsagePageDict,
    UserDict,
)
from models.total_shapes import TokenSummaryDict, ToolSummaryDict

logger = logging.getLogger(__name__)

_BREATH_SECONDS = 0.01

Given = ParamSpec("Given")
Result = TypeVar("Result")


class ChatService:
    """Keeps users, chat sessions, messages and tool usage in one database.

    `clock` returns the time to write, as an RFC 3339 string in UTC; `events` tells what happened here, after each
    commit, and `changes` what is to be read again, whichever process changed it.
    """

    def __init__(self, database: Database, *, limits: Limits | None = None, clock: Callable[[], str] = utc_now) -> None:
        self._database = database
        self._limits = limits or Limits()
        self._clock = clock
        self.events = Events()
        self.changes = Changes(database, self.events)

    # Users

    async def get_or_create_user(self, new_user: NewUser) -> UserDict:
        """Return the user of this name or token, created where there is none, and note that they were seen."""
        return await self._write(users.get_or_create, new_user)

    async def get_user(self, user_id: UserId) -> UserDict:
        """Return the acting user."""
        return await self._read(users.get, user_id)

    async def update_user(self, user_id: UserId, changes: UserChanges) -> UserDict:
        """Change what is given of the acting user and return them."""
        return await self._write(users.update_user, user_id, changes)

    async def delete_user(self, user_id: UserId) -> DeletedDict:
        """Delete the acting user with all their sessions, and return the receipt."""
        return await self._write(deletions.delete_user, user_id)

    # Sessions

    async def create_chat_session(self, user_id: UserId, new_session: NewSession) -> SessionDict:
        """Create a chat session and return it; a replay of an idempotency key returns the first one."""
        return await self._write(sessions.create, user_id, new_session)

    async def get_session(self, user_id: UserId, session_id: SessionId) -> SessionDict:
        """Return the session."""
        return await self._read(sessions.get_session, user_id, session_id)

    async def get_active_session(
        self, user_id: UserId, client: str | None = None, workspace: str | None = None
    ) -> ActiveSessionDict:
        """Return the active session with the newest append, if there is one, and how many others are active."""
        return await self._read(session_pages.get_active, user_id, client, workspace)

    async def get_user_sessions(
        self,
        user_id: UserId,
        query: str | None = None,
        status: SessionStatus | None = None,
        limit: int = 20,
        cursor: str | None = None,
    ) -> SessionPageDict:
        """Return a page of the user's sessions, the last created first; `query` is part of a title."""
        return await self._read(session_pages.list_sessions, user_id, query, status, limit, cursor)

    async def find_sessions(
        self, user_id: UserId, text: str, limit: int = 20, cursor: str | None = None
    ) -> SessionPageDict:
        """Return a page of sessions whose id begins with a text or whose title contains it, the last created first."""
        return await self._read(session_pages.find_sessions, user_id, text, limit, cursor)

    async def update_session(self, user_id: UserId, session_id: SessionId, changes: SessionChanges) -> SessionDict:
        """Change what is given of the session and return it."""
        return await self._write(sessions.update_session, user_id, session_id, changes)

    async def fork_session(
        self, user_id: UserId, session_id: SessionId, at_seq: int | None = None, title: str | None = None
    ) -> SessionDict:
        """Create a session whose timeline goes on after `at_seq` of this one, by default its end, and return it."""
        return await self._write(forks.fork_session, user_id, session_id, at_seq, title)

    async def merge_sessions(self, user_id: UserId, source_id: SessionId, target_id: SessionId) -> SessionDict:
        """Move all entries of the source to the end of the target, and return the target."""
        return await self._write(merges.merge_sessions, user_id, source_id, target_id)

    async def delete_session(self, user_id: UserId, session_id: SessionId, *, with_forks: bool = False) -> DeletedDict:
        """Delete the session with all its entries, with its forks where asked, and return the receipt.

        It is gone from every answer at once. What a long one leaves behind is removed by `finish_deletions`.
        """
        return await self._write(deletions.delete_session, user_id, session_id, with_forks=with_forks)

    # Messages

    async def add_message(
        self, user_id: UserId, session_id: SessionId, message: NewMessage, expected_seq: int | None = None
    ) -> MessageDict:
        """Append a message to a session and return it."""
        return (await self.add_messages(user_id, session_id, [message], expected_seq))[0]

    async def add_messages(
        self,
        user_id: UserId,
        session_id: SessionId,
        new_messages: Sequence[NewMessage],
        expected_seq: int | None = None,
    ) -> list[MessageDict]:
        """Append 1 to 500 messages in one transaction, all or none, and return them.

        `expected_seq` makes it conditional: Conflict unless the session's last seq is that one.
        """
        given = (user_id, session_id, new_messages, expected_seq)
        stored, _ = await self._database.write_together(self._append, given, self._tell)
        return stored

    async def get_session_messages(
        self,
        user_id: UserId,
        session_id: SessionId,
        limit: int = 50,
        before_seq: int | None = None,
        after_seq: int | None = None,
    ) -> MessagePageDict:
        """Return a page of messages without tool usage, oldest first: the last before, or the first after, a seq."""
        return await self._read(messages.get_page, user_id, session_id, limit, before_seq, after_seq)

    # Tool usage

    async def add_tool_usage(
        self, user_id: UserId, session_id: SessionId, usage: NewToolUsage, expected_seq: int | None = None
    ) -> ToolUsageDict:
        """Append a tool call that has ended to a session and return its record."""
        return await self._write(tool_usage.add, user_id, session_id, usage, expected_seq)

    async def get_session_tool_usage(
        self,
        user_id: UserId,
        session_id: SessionId | None = None,
        tool_name: str | None = None,
        status: ToolStatus | None = None,
        limit: int = 20,
        cursor: str | None = None,
    ) -> ToolUsagePageDict:
        """Return a page of tool usage, newest first: of one session, or of all the user's."""
        return await self._read(tool_usage_pages.list_tool_usage, user_id, session_id, tool_name, status, limit, cursor)

    async def list_tool_usage(
        self,
        user_id: UserId,
        session_id: SessionId | None = None,
        tool_name: str | None = None,
        status: ToolStatus | None = None,
        limit: int = 20,
        cursor: str | None = None,
        text_limit: int = 200,
    ) -> ToolUsageListDict:
        """Return a page of tool usage by the beginnings of its texts, and on the first page the counts by tool."""
        return await self._read(
            tool_usage_pages.list_lines, user_id, session_id, tool_name, status, limit, cursor, text_limit
        )

    async def summarize_tool_usage(
        self,
        user_id: UserId,
        session_id: SessionId | None = None,
        tool_name: str | None = None,
        status: ToolStatus | None = None,
        times: TimeRange | None = None,
    ) -> ToolSummaryDict:
        """Return totals by tool and server: of one session, or of all the user's; of calls begun in a range of time."""
        return await self._read(tool_totals.summarize, user_id, session_id, tool_name, status, times)

    async def summarize_token_usage(
        self,
        user_id: UserId,
        session_id: SessionId | None = None,
        by: TokenGroup = "model",
        times: TimeRange | None = None,
        utc_offset_minutes: int = 0,
    ) -> TokenSummaryDict:
        """Return the tokens that answers cost, by model, day or session: of one session, or of all the user's.

        Days begin at midnight, so many minutes ahead of UTC.
        """
        return await self._read(token_totals.summarize, user_id, session_id, by, times, utc_offset_minutes)

    # History

    async def get_session_history(
        self,
        user_id: UserId,
        session_id: SessionId,
        limit: int = 50,
        before_seq: int | None = None,
        after_seq: int | None = None,
    ) -> HistoryDict:
        """Return messages and tool usage in order: the last before, or the first after, a seq; by default the last."""
        return await self._read(history.get_history, user_id, session_id, limit, before_seq, after_seq)

    async def get_session_preview(
        self,
        user_id: UserId,
        session_id: SessionId,
        limit: int = 50,
        before_seq: int | None = None,
        after_seq: int | None = None,
        content_limit: int = 1_000,
    ) -> HistoryPreviewDict:
        """Return the same window with only the beginning of each text, and how long the whole is."""
        return await self._read(history.get_preview, user_id, session_id, limit, before_seq, after_seq, content_limit)

    async def get_session_entry(
        self,
        user_id: UserId,
        session_id: SessionId,
        seq: int,
        content_offset: int = 0,
        content_limit: int = 16_000,
    ) -> EntryPieceDict:
        """Return a piece of one entry's text, from an offset in characters."""
        return await self._read(history.get_entry, user_id, session_id, seq, content_offset, content_limit)

    async def wait_for_entries(
        self, user_id: UserId, session_id: SessionId, after_seq: int, seconds: float
    ) -> SessionDict:
        """Return the session once it has entries after a seq, or as it is when the seconds, 0 to 60, are over.

        No transaction is open meanwhile; raises NotFound where the session is deleted meanwhile.
        """
        check_seq("after_seq", after_seq)
        if not 0 <= seconds <= MAX_WAIT_SECONDS:
            raise Invalid(f"seconds must be between 0 and {MAX_WAIT_SECONDS}.")
        session = await self.get_session(user_id, session_id)
        if session["last_seq"] > after_seq or seconds == 0:
            return session
        async with self.changes.listening(user_id, [session_id]) as changed:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while (session := await self.get_session(user_id, session_id))["last_seq"] <= after_seq:
                        if not await changed.next():
                            break
        return session

    async def get_context(
        self, user_id: UserId, session_id: SessionId, token_budget: int, shape: ContextShape = "own"
    ) -> ContextDict:
        """Return the newest entries that fit so many tokens, with pins and the newest summary, valid for a provider."""
        count = self._limits.count_tokens
        return await self._read(context.get_context, user_id, session_id, token_budget, shape, count)

    # Search

    async def search_history(
        self, user_id: UserId, query: str, limit: int = 20, cursor: str | None = None
    ) -> SearchPageDict:
        """Return a page of the user's entries that a query finds; `chat_service.query_language` has its syntax."""
        page = await self._read(search.search, user_id, query, limit, cursor)
        if page["is_complete"]:
            return page
        try:
            is_complete = await self._database.index()
        except Unavailable:
            return page
        return {**await self._read(search.search, user_id, query, limit, cursor), "is_complete": is_complete}

    # Answers of a model

    async def begin_run(self, user_id: UserId, new_run: NewRun, lease: Lease) -> RunDict:
        """Append the question and return the run that is to answer it; a run that is done is returned as it is.

        Raises Conflict where another process is at work on it, or on another answer in this session.
        """
        return await self._write(runs.begin, user_id, new_run, lease)

    async def renew_run(self, user_id: UserId, run_id: RunId, lease: Lease) -> RunDict:
        """Renew the lease of a run; raises Conflict where another process has taken it over."""
        return await self._write(runs.renew, user_id, run_id, lease)

    async def add_run_message(
        self, user_id: UserId, run_id: RunId, lease: Lease, message: NewMessage, calls: Sequence[RunCall]
    ) -> MessageDict:
        """Append a message that asks for calls, while the lease is held, and note which calls are about to be made."""
        return await self._write(runs.add_message, user_id, run_id, lease, message, calls)

    async def end_run(
        self,
        user_id: UserId,
        run_id: RunId,
        lease: Lease,
        state: RunState,
        new_messages: Sequence[NewMessage],
        result: dict[str, Any] | None = None,
    ) -> RunDict:
        """Append the last messages of a run and end it in the same transaction; calls without a record become unknown.

        `answer_seq` of the result is the seq of the first of these messages.
        """
        return await self._write(runs.end, user_id, run_id, lease, state, new_messages, result)

    # The audit log

    async def get_audit_log(self, user_id: UserId, limit: int = 20, cursor: str | None = None) -> AuditPageDict:
        """Return a page of what the audit log has of the acting user, newest first."""
        return await self._read(audit.list_entries, user_id, limit, cursor)

    async def verify_audit_log(self) -> AuditCheckDict:
        """Follow the chain of the whole audit log, in short reads, and tell whether it holds."""
        verified = audit.Verified()
        while not verified.is_over:
            verified = await self._read(audit.verify_some, verified)
        return verified.to_dict()

    # All together

    async def transaction(self, function: Callable[[Work], Result]) -> Result:
        """Run a function over several rooms in one transaction, and return its result once it has committed.

        The function gets the open work and hands it to the rooms; where it raises, nothing is stored and nothing told.
        It runs on the database's thread, may run again, and so touches nothing but its work.
        """

        def unit(connection: Connection) -> tuple[Result, list[Event]]:
            work = Work(connection, self._clock(), self._limits)
            return function(work), work.events

        result, _ = await self._database.write(unit, self._tell)
        return result

    async def finish_indexing(self) -> None:
        """Index all that is stored, for which a search would have to wait else; raises Unavailable."""
        while not await self._database.index():
            continue

    async def finish_deletions(self) -> bool:
        """Remove what deletions have left and overwrite it on the disk, in short steps; tells whether that is done.

        Others write in between. Whoever opens the database calls it, and again after a deletion; it may be cancelled,
        and several may be at it at once. It is not done where another process reads for so long that the log cannot be
        emptied, or where something else is in the way, which is said in the log: call again later.
        """
        while (receipts := await self._read(deletions.to_overwrite)) != []:
            if receipts is None:
                await self._write(deletions.finish_some)
                # A moment in which another process, too, finds the lock free.
                await asyncio.sleep(_BREATH_SECONDS)
                continue
            await self._clean_index()
            swept = await self._database.sweep()
            if swept.problem is not None:
                logger.warning("what was deleted is not overwritten on the disk yet: %s", swept.problem)
                return False
            await self._write(deletions.complete, receipts)
        return True

    async def snapshot(self, function: Callable[[Connection], Result]) -> Result:
        """Run a function over several rooms that only reads, on one snapshot, and return its result.

        It runs on the database's thread, may run again, and so touches nothing but its connection.
        """
        return await self._database.read(function)

    async def health(self) -> HealthDict:
        """Tell how the database is kept; raises Unavailable where it cannot be read."""
        return await self._database.health()

    def _append(
        self, connection: Connection, given: Sequence[tuple[UserId, SessionId, Sequence[NewMessage], int | None]]
    ) -> list[tuple[list[MessageDict], list[Event]] | ChatError]:
        now = self._clock()
        wanted = [appends.Append(Work(connection, now, self._limits), *each) for each in given]
        outcomes = appends.add_together(connection, wanted)
        return [
            outcome if isinstance(outcome, ChatError) else (outcome, append.work.events)
            for append, outcome in zip(wanted, outcomes, strict=True)
        ]

    async def _clean_index(self) -> None:
        place: Place | None = BEGINNING
        is_first, is_left = True, True
        while is_left:
            is_left = await self._write(deletions.merge_index, is_first=is_first)
            is_first = False
            await asyncio.sleep(_BREATH_SECONDS)
        while place is not None:
            place = await self._write(deletions.replace_words, place)
            await asyncio.sleep(_BREATH_SECONDS)

    async def _write(
        self, room: Callable[Concatenate[Work, Given], Result], *given: Given.args, **named: Given.kwargs
    ) -> Result:
        return await self.transaction(lambda work: room(work, *given, **named))

    async def _read(
        self, room: Callable[Concatenate[Connection, Given], Result], *given: Given.args, **named: Given.kwargs
    ) -> Result:
        return await self._database.read(lambda connection: room(connection, *given, **named))

    def _tell(self, outcome: tuple[object, list[Event]]) -> None:
        self.events.publish(outcome[1])
