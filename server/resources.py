"""Resources: the same record under addresses, for clients that read rather than call.

Each is bounded as the tools' results are, and takes the same words to read on: `?before_seq=`, `?after_seq=`,
`?limit=`.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mcp_types as types
from mcp.shared.exceptions import MCPError
from mcp.shared.uri_template import UriTemplate
from pydantic import ValidationError

from models.errors import ChatError
from models.text import to_json
from server.archive_pages import get_archive
from server.errors import explain
from server.record import Caller
from server.results import Reply
from server.tools.binding import CallerSource, Tool
from server.tools.history import get_session_history
from server.tools.sessions import list_sessions, show_session
from server.tools.tool_usage import list_tool_usage

JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain"
LINES_TYPE = "application/x-ndjson"
MAX_COMPLETIONS = 100

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
    for kind in kinds:
        found = kind.template.match(uri)
        if found is None:
            continue
        try:
            reply = await kind.tool.answer(caller, dict(found))
        except (ChatError, ValidationError) as error:
            raise MCPError(types.INVALID_PARAMS, explain(error), {"uri": uri}) from None
        except Exception as error:
            raise MCPError(types.INTERNAL_ERROR, explain(error), {"uri": uri}) from None
        text = to_json(reply.structured) if kind.mime_type == JSON_TYPE else "\n".join(reply.texts)
        return types.ReadResourceResult(
            contents=[types.TextResourceContents(uri=uri, mime_type=kind.mime_type, text=text)]
        )
    raise MCPError(
        types.INVALID_PARAMS, "Resource not found: resources/templates/list shows what there is.", {"uri": uri}
    )


async def complete(caller: CallerSource, argument: str, value: str) -> types.CompleteResult:
    """Complete the id of a session, from the beginning of an id or a part of a title."""
    if argument != "session_id":
        return types.CompleteResult(completion=types.Completion(values=[]))
    try:
        return await _complete_session_id(await caller(), value)
    except ChatError as error:
        raise MCPError(types.INVALID_PARAMS, explain(error)) from None
    except Exception as error:
        raise MCPError(types.INTERNAL_ERROR, explain(error)) from None


async def _complete_session_id(who: Caller, value: str) -> types.CompleteResult:
    by_id = await who.service.get_user_sessions(who.user_id, None, None, MAX_COMPLETIONS)
    ids = [session["id"] for session in by_id["sessions"] if session["id"].startswith(value)]
    if not ids:
        by_title = await who.service.get_user_sessions(who.user_id, value, None, MAX_COMPLETIONS)
        ids = [session["id"] for session in by_title["sessions"]]
        more = by_title["next_cursor"] is not None
    else:
        more = by_id["next_cursor"] is not None
    return types.CompleteResult(completion=types.Completion(values=ids, has_more=more))


def _kind(name: str, template: str, description: str, read: Read, mime_type: str = JSON_TYPE) -> ResourceKind:
    return ResourceKind(name, UriTemplate.parse(template), description, mime_type, Tool(read, title=description))
