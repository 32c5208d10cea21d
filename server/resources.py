"""Resources: the same record under addresses, for clients that read rather than call.

Each is bounded as the tools' results are, and takes the same words to read on: `?before_seq=`, `?after_seq=`,
`?limit=`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import mcp_types as types
from mcp.shared.exceptions import MCPError
from mcp.shared.uri_template import UriTemplate
from pydantic import TypeAdapter, ValidationError

from models.errors import ChatError, Invalid
from models.text import to_json
from server.errors import explain
from server.record import Caller
from server.results import Reply
from server.tools.binding import CallerSource
from server.tools.history import get_session_history
from server.tools.sessions import list_sessions, show_session
from server.tools.tool_usage import list_tool_usage

JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain"
MAX_COMPLETIONS = 100

_WHOLE_NUMBER = TypeAdapter(int)

Read = Callable[..., Awaitable[Reply[Any]]]


@dataclass(frozen=True, slots=True)
class ResourceKind:
    """A kind of resource: its address, what it is, and the tool's function that reads it."""

    name: str
    template: UriTemplate
    description: str
    mime_type: str
    read: Read


def resource_kinds() -> tuple[ResourceKind, ...]:
    """Return every kind of resource, the list of sessions first."""
    session = "chat://sessions/{session_id}"
    window = "{?limit,before_seq,after_seq}"
    return (
        _kind("sessions", "chat://sessions{?limit,cursor}", "Your chat sessions, newest first.", list_sessions),
        _kind("session", session, "A chat session: title, status, counts.", show_session),
        _kind("history", f"{session}/history{window}", "A session's messages and tool calls, in order.", _history),
        _kind("tool-usage", f"{session}/tool-usage{{?limit,cursor}}", "A session's tool calls.", list_tool_usage),
        _kind("transcript", f"{session}/transcript{window}", "A session as readable text.", _history, TEXT_TYPE),
    )


def listed_resources() -> list[types.Resource]:
    """Return the resources that have an address without parameters; the same for every caller."""
    first = resource_kinds()[0]
    return [
        types.Resource(uri="chat://sessions", name=first.name, description=first.description, mime_type=first.mime_type)
    ]


def listed_templates() -> list[types.ResourceTemplate]:
    """Return the templates of all other resources."""
    return [
        types.ResourceTemplate(
            name=kind.name, uri_template=str(kind.template), description=kind.description, mime_type=kind.mime_type
        )
        for kind in resource_kinds()
    ]


async def read_resource(caller: CallerSource, uri: str) -> types.ReadResourceResult:
    """Read the resource at an address; raises MCPError where there is none, or it may not be read."""
    for kind in resource_kinds():
        found = kind.template.match(uri)
        if found is None:
            continue
        try:
            reply = await kind.read(await caller(), **_arguments(found))
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
    who = await caller()
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
    return ResourceKind(name, UriTemplate.parse(template), description, mime_type, read)


async def _history(
    caller: Caller, session_id: str, limit: int = 50, before_seq: int | None = None, after_seq: int | None = None
) -> Reply[Any]:
    return await get_session_history(caller, session_id, limit, before_seq, after_seq)


def _arguments(found: dict[str, str | list[str]]) -> dict[str, Any]:
    arguments: dict[str, Any] = dict(found)
    for name in ("limit", "before_seq", "after_seq"):
        if name in arguments:
            try:
                arguments[name] = _WHOLE_NUMBER.validate_python(arguments[name])
            except ValidationError:
                raise Invalid(f"{name} must be a whole number.") from None
    return arguments
