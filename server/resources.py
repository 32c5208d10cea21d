"""Resources: the same record under addresses, for clients that read rather than call.

Each is bounded as the tools' results are, and takes the same words to read on: `?before_seq=`, `?after_seq=`,
`?limit=`. Entries are only ever appended, so a page between two seqs that are both there stays as it is: its answer may
be kept (`ttlMs`, protocol 2026-07-28), by this user's client alone. All other answers are stale at once.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mcp_types as types
from mcp.shared.exceptions import MCPError
from mcp.shared.uri_template import UriTemplate
from pydantic import ValidationError

from models.errors import ChatError
from models.ids import SessionId
from models.text import to_json
from server.archive_pages import get_archive
from server.errors import explain
from server.history_page import get_history_page
from server.record import CallerSource, as_caller
from server.results import Reply
from server.tools.binding import Tool
from server.tools.history import get_session_history
from server.tools.sessions import list_sessions, show_session
from server.tools.tool_usage import list_tool_usage

JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain"
LINES_TYPE = "application/x-ndjson"
MAX_COMPLETIONS = 100
KEPT_MILLISECONDS = 24 * 3_600_000
"""So long a client may keep a page that cannot change."""

Read = Callable[..., Awaitable[Reply[Any]]]


@dataclass(frozen=True, slots=True)
class ResourceKind:
    """A kind of resource: its address, what it is, and the tool that reads it."""

    name: str
    template: UriTemplate
    description: str
    mime_type: str
    tool: Tool


def resource_kinds() -> tuple[ResourceKind, ...]:
    """Return every kind of resource, the list of sessions first."""
    session = "chat://sessions/{session_id}"
    window = "{?limit,before_seq,after_seq}"
    return (
        _kind("sessions", "chat://sessions{?limit,cursor}", "Your chat sessions, newest first.", list_sessions),
        _kind("session", session, "A chat session: title, status, counts.", show_session),
        _kind("history", f"{session}/history{window}", "A session's messages and tool calls.", get_session_history),
        _kind("history-page", f"{session}/history/{{first_seq}}-{{last_seq}}", "One page of it.", get_history_page),
        _kind("tool-usage", f"{session}/tool-usage{{?limit,cursor}}", "A session's tool calls.", list_tool_usage),
        _kind(
            "archive", f"{session}/archive{{?after_seq}}", "A session's lines of the archive.", get_archive, LINES_TYPE
        ),
        _kind("transcript", f"{session}/transcript{window}", "A session as text.", get_session_history, TEXT_TYPE),
    )


def listed_resources(kinds: Sequence[ResourceKind]) -> list[types.Resource]:
    """Return the resources that have an address without parameters; the same for every caller."""
    first = kinds[0]
    return [
        types.Resource(uri="chat://sessions", name=first.name, description=first.description, mime_type=first.mime_type)
    ]


def listed_templates(kinds: Sequence[ResourceKind]) -> list[types.ResourceTemplate]:
    """Return the templates of all other resources."""
    return [
        types.ResourceTemplate(
            name=kind.name, uri_template=str(kind.template), description=kind.description, mime_type=kind.mime_type
        )
        for kind in kinds
    ]


async def read_resource(kinds: Sequence[ResourceKind], caller: CallerSource, uri: str) -> types.ReadResourceResult:
    """Read the resource at an address; raises MCPError where there is none, or it may not be read."""
    kind, arguments = _found(kinds, uri)
    with refusing(uri):
        reply = await kind.tool.answer(caller, arguments)
    text = to_json(reply.structured) if kind.mime_type == JSON_TYPE else "\n".join(reply.texts)
    return types.ReadResourceResult(
        contents=[types.TextResourceContents(uri=uri, mime_type=kind.mime_type, text=text)],
        ttl_ms=KEPT_MILLISECONDS if reply.is_final else 0,
        cache_scope="private",
    )


def session_of(kinds: Sequence[ResourceKind], uri: str) -> SessionId | None:
    """Return the session that an address belongs to, None for the list of them; raises MCPError where there is none."""
    _, arguments = _found(kinds, uri)
    return SessionId(arguments["session_id"]) if "session_id" in arguments else None


async def complete(caller: CallerSource, argument: str, value: str) -> types.CompleteResult:
    """Complete the id of a session, from the beginning of an id or a part of a title."""
    if argument != "session_id":
        return types.CompleteResult(completion=types.Completion(values=[]))
    with refusing():
        page = await as_caller(caller, lambda who: who.service.find_sessions(who.user_id, value, MAX_COMPLETIONS))
    ids = [session["id"] for session in page["sessions"]]
    return types.CompleteResult(completion=types.Completion(values=ids, has_more=page["next_cursor"] is not None))


@contextmanager
def refusing(uri: str | None = None) -> Iterator[None]:
    """Turn what the house raises into protocol errors, for answers that can carry no refusal of their own."""
    about = None if uri is None else {"uri": uri}
    try:
        yield
    except MCPError:
        raise
    except (ChatError, ValidationError) as error:
        raise MCPError(types.INVALID_PARAMS, explain(error), about) from None
    except Exception as error:
        raise MCPError(types.INTERNAL_ERROR, explain(error), about) from None


def _found(kinds: Sequence[ResourceKind], uri: str) -> tuple[ResourceKind, dict[str, Any]]:
    for kind in kinds:
        found = kind.template.match(uri)
        if found is not None:
            return kind, dict(found)
    raise MCPError(
        types.INVALID_PARAMS, "Resource not found: resources/templates/list shows what there is.", {"uri": uri}
    )


def _kind(name: str, template: str, description: str, read: Read, mime_type: str = JSON_TYPE) -> ResourceKind:
    return ResourceKind(name, UriTemplate.parse(template), description, mime_type, Tool(read, title=description))
