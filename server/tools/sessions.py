"""Tools for sessions: start, list, find the active one, change, fork, delete."""

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from models.ids import SessionId
from models.inputs import Line, NewSession, SessionChanges, SessionStatus
from models.shapes import DeletedDict, SessionDict
from server.record import Caller
from server.results import Reply, bounded, reply, shorten, to_line, to_lines, without_nulls
from server.tools.arguments import (
    CursorArgument,
    IdempotencyKeyArgument,
    LimitArgument,
    MetadataArgument,
    SessionIdArgument,
)

_PREVIEW = 120


class SessionReply(TypedDict):
    """A session; title, client and metadata are untrusted text that somebody stored.

    A fork begins with entries 1 to forked_from_seq of forked_from, which its counts leave out. The entries of a session
    with merged_into are in that session.
    """

    id: str
    title: str | None
    status: SessionStatus
    metadata: dict[str, Any] | None
    client: str | None
    last_seq: int
    message_count: int
    tool_usage_count: int
    created_at: str
    last_append_at: str | None
    forked_from: str | None
    forked_from_seq: int | None
    merged_into: str | None


class SessionPreview(TypedDict):
    """A session in a list; title and client are untrusted text that somebody stored."""

    id: str
    title: str | None
    status: SessionStatus
    client: str | None
    last_seq: int
    created_at: str
    last_append_at: str | None
    forked_from: str | None
    merged_into: str | None


class SessionListReply(TypedDict):
    """A page of sessions, newest first; with next_cursor there are more."""

    sessions: list[SessionPreview]
    next_cursor: str | None


class ActiveSessionReply(TypedDict):
    """The active session, where there is one, and how many others are active."""

    session: SessionReply | None
    other_active: int


async def start_session(
    caller: Caller,
    title: Annotated[Line | None, Field(description="What it is about, for people who look for it later.")] = None,
    metadata: MetadataArgument = None,
    idempotency_key: IdempotencyKeyArgument = None,
) -> Reply[SessionReply]:
    """Start a chat session and return its handle in `id`.

    Call this once at the start of a conversation, then pass the handle to add_messages and log_tool_usage. A session is
    kept until you delete it with delete_session; list_sessions finds it again. Put the folder you work in into
    metadata.workspace, so that get_active_session can find the session by it.
    """
    new_session = NewSession(title=title, session_data=metadata, client=caller.client, idempotency_key=idempotency_key)
    return _session_reply(await caller.service.create_chat_session(caller.user_id, new_session))


async def list_sessions(
    caller: Caller,
    query: Annotated[Line | None, Field(description="Part of a title.")] = None,
    status: Annotated[SessionStatus | None, Field(description="Only active or only archived ones.")] = None,
    limit: LimitArgument = 20,
    cursor: CursorArgument = None,
) -> Reply[SessionListReply]:
    """List your chat sessions, newest first, without their messages.

    The newest are those that were started, forked or imported last. What was said in them is found by search_history.
    Where next_cursor is given there are more: call again with cursor=next_cursor and the same filters.
    """
    page = await caller.service.get_user_sessions(caller.user_id, query, status, limit, cursor)
    heading = {"sessions": len(page["sessions"]), "next_cursor": page["next_cursor"]}

    def made(longest: int) -> Reply[SessionListReply]:
        sessions = [_preview(session, longest) for session in page["sessions"]]
        return reply({"sessions": sessions, "next_cursor": page["next_cursor"]}, to_lines(heading, sessions))

    return bounded(made, _PREVIEW)


async def get_active_session(
    caller: Caller,
    client: Annotated[Line | None, Field(description="Only sessions that this client started.")] = None,
    workspace: Annotated[Line | None, Field(description="Only sessions whose metadata.workspace is this.")] = None,
) -> Reply[ActiveSessionReply]:
    """Find your active session with the newest entry, to carry on from it.

    other_active counts the other active ones that fit; where there is no session, start one with start_session.
    """
    active = await caller.service.get_active_session(caller.user_id, client, workspace)
    session = None if active["session"] is None else _full(active["session"])
    text = "no active session" if session is None else to_line(session)
    others = active["other_active"]
    return reply({"session": session, "other_active": others}, f"{text}\nother_active={others}")


async def update_session(
    caller: Caller,
    session_id: SessionIdArgument,
    title: Annotated[Line | None, Field(description="A new title.")] = None,
    status: Annotated[
        Literal["active", "archived"] | None,
        Field(description="archived closes the session for appends, active opens it again."),
    ] = None,
    metadata: MetadataArgument = None,
) -> Reply[SessionReply]:
    """Change the title, status or metadata of a session and return it; what is not given stays as it is.

    metadata replaces what was there.
    """
    given: dict[str, Any] = without_nulls({"title": title, "status": status, "session_data": metadata})
    changes = SessionChanges(**given)
    return _session_reply(await caller.service.update_session(caller.user_id, SessionId(session_id), changes))


async def fork_session(
    caller: Caller,
    session_id: SessionIdArgument,
    at_seq: Annotated[
        int | None, Field(ge=0, lt=2**53, description="The last entry to keep; without it, all there are so far.")
    ] = None,
    title: Annotated[Line | None, Field(description="Its title; without it, the same.")] = None,
) -> Reply[SessionReply]:
    """Fork a session: start a new one that has its entries up to at_seq and goes on from there, and return it.

    Use it to try another way from an earlier point, or to go on from an archived session; the first session stays as it
    is. Nothing is copied, so it costs the same for a session of any length.
    """
    return _session_reply(await caller.service.fork_session(caller.user_id, SessionId(session_id), at_seq, title))


async def delete_session(
    caller: Caller,
    session_id: SessionIdArgument,
    with_forks: Annotated[
        bool,
        Field(strict=True, description="Delete its forks as well; without it, each keeps what it has of this session."),
    ] = False,
) -> Reply[DeletedDict]:
    """Delete a session with all its messages and tool calls, for good, and return a receipt.

    There is no way back: to close a session and keep it, archive it with update_session. It is gone from every answer
    at once, and then overwritten on the disk, that of a long session little by little. The receipt is a row of the
    audit log, which keeps counts and no text; an import does not bring back what was deleted.
    """
    deleted = await caller.service.delete_session(caller.user_id, SessionId(session_id), with_forks=with_forks)
    return reply(deleted)


async def show_session(caller: Caller, session_id: str) -> Reply[SessionReply]:
    """Return the session; a resource rather than a tool, since update_session and the lists tell a model the same."""
    return _session_reply(await caller.service.get_session(caller.user_id, SessionId(session_id)))


def _session_reply(session: SessionDict) -> Reply[SessionReply]:
    return reply(_full(session))


def _full(session: SessionDict) -> dict[str, Any]:
    return without_nulls(
        {
            "id": session["id"],
            "title": session["title"],
            "status": session["status"],
            "metadata": session["session_data"],
            "client": session["client"],
            "last_seq": session["last_seq"],
            "message_count": session["message_count"],
            "tool_usage_count": session["tool_usage_count"],
            "created_at": session["created_at"],
            "last_append_at": session["last_append_at"],
            "forked_from": session["forked_from"],
            "forked_from_seq": session["forked_from_seq"],
            "merged_into": session["merged_into"],
        }
    )


def _preview(session: SessionDict, longest: int) -> dict[str, Any]:
    return without_nulls(
        {
            "id": session["id"],
            "title": shorten(session["title"], longest),
            "status": session["status"],
            "client": shorten(session["client"], longest),
            "last_seq": session["last_seq"],
            "created_at": session["created_at"],
            "last_append_at": session["last_append_at"],
            "forked_from": session["forked_from"],
            "merged_into": session["merged_into"],
        }
    )
