"""Tools for tool usage: log a call that has ended, list calls and their totals."""

from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from models.ids import SessionId
from models.inputs import JsonObject, JsonValue, Name, NewToolUsage, Seq, Text, ToolStatus
from models.shapes import ToolUsageLineDict
from models.total_shapes import ToolCountDict
from server.record import Caller
from server.results import Reply, bounded, reply, shorten, to_lines, without_nulls
from server.tools.arguments import CursorArgument, IdempotencyKeyArgument, LimitArgument, SessionIdArgument

_PREVIEW = 80
_MAX_TOTALS = 10


class LoggedToolUsage(TypedDict):
    """The record of a call; arguments and result are read with get_session_history."""

    session_id: str
    seq: int
    tool_name: str
    status: ToolStatus
    message_seq: int | None
    tool_call_id: str | None
    created_at: str


class ToolUsagePreview(ToolUsageLineDict):
    """A call in a list; arguments, result and error are the beginnings of untrusted text that somebody stored.

    `started_at` is when the call began, where that is known; `created_at` is when it was stored, which for an imported
    one is later.
    """


class ToolTotal(ToolCountDict):
    """How often a tool was called, how often in error, how long altogether; the names are untrusted text."""


class ToolUsageListReply(TypedDict):
    """A page of calls, newest first; on the first page with the totals of all that fit the filters."""

    tool_usages: list[ToolUsagePreview]
    next_cursor: str | None
    calls: NotRequired[int]
    errors: NotRequired[int]
    tools: NotRequired[list[ToolTotal]]
    more_tools: NotRequired[int]


async def log_tool_usage(
    caller: Caller,
    session_id: SessionIdArgument,
    tool_name: Annotated[Name, Field(description="The tool that was called.")],
    arguments: Annotated[JsonObject, Field(description="What it was called with, at most 1 MiB.")],
    result: Annotated[JsonValue, Field(description="What it gave back, any JSON value of at most 1 MiB.")] = None,
    status: Annotated[
        ToolStatus | None,
        Field(description="How it ended; unknown where you cannot tell. Taken from `error` if not given."),
    ] = None,
    error: Annotated[Text | None, Field(description="What went wrong.")] = None,
    duration_ms: Annotated[
        float | None, Field(ge=0, lt=1e12, allow_inf_nan=False, description="How long it took, in milliseconds.")
    ] = None,
    tool_call_id: Annotated[
        Name | None, Field(description="The provider's id of the call; joins it to the message that asked for it.")
    ] = None,
    server_name: Annotated[Name | None, Field(description="The MCP server that has the tool.")] = None,
    message_seq: Annotated[Seq | None, Field(description="The message that asked for it, if there is no id.")] = None,
    idempotency_key: IdempotencyKeyArgument = None,
) -> Reply[LoggedToolUsage]:
    """Log a tool call once it has ended, and return its seq in the session's timeline.

    When this has answered, the record is durable. This is the only place where a call's arguments and result are kept.
    """
    usage = NewToolUsage(
        tool_name=tool_name,
        arguments=arguments,
        result=result,
        status=status,
        error=error,
        duration_ms=duration_ms,
        tool_call_id=tool_call_id,
        server_name=server_name,
        message_seq=message_seq,
        idempotency_key=idempotency_key,
    )
    record = await caller.service.add_tool_usage(caller.user_id, SessionId(session_id), usage)
    names = ("session_id", "seq", "tool_name", "status", "message_seq", "tool_call_id", "created_at")
    return reply({name: value for name, value in record.items() if name in names})


async def list_tool_usage(
    caller: Caller,
    session_id: Annotated[str | None, Field(description="One session's handle; without it, all your sessions.")] = None,
    tool_name: Annotated[Name | None, Field(description="Only calls of this tool.")] = None,
    status: Annotated[ToolStatus | None, Field(description="Only calls that ended so.")] = None,
    limit: LimitArgument = 20,
    cursor: CursorArgument = None,
) -> Reply[ToolUsageListReply]:
    """List tool calls, newest first, with totals by tool: how often, how often in error, how long.

    The totals are on the first page. Arguments and results are cut short: get_session_history with session_id and
    entry_seq reads one in full. Where next_cursor is given there are more: call again with cursor=next_cursor and the
    same filters.
    """
    session = None if session_id is None else SessionId(session_id)
    # One character more, so that what is cut can be told.
    page = await caller.service.list_tool_usage(
        caller.user_id, session, tool_name, status, limit, cursor, text_limit=_PREVIEW + 1
    )
    heading: dict[str, Any] = {"next_cursor": page["next_cursor"]}
    counts, tools = page["counts"], []
    if counts is not None:
        tools = counts["tools"][:_MAX_TOTALS]
        left_out = counts["left_out"] + len(counts["tools"]) - len(tools)
        heading |= {"calls": counts["calls"], "errors": counts["errors"], "more_tools": left_out}

    def made(longest: int) -> Reply[ToolUsageListReply]:
        usages = [_preview(usage, longest) for usage in page["tool_usages"]]
        named = [_total(tool, longest) for tool in tools]
        totals = {} if counts is None else {"tools": named}
        counted = {"tool_usages": len(usages), **heading}
        return reply({"tool_usages": usages, **totals, **heading}, to_lines(counted, [*named, *usages]))

    return bounded(made, _PREVIEW)


def _total(tool: ToolCountDict, longest: int) -> dict[str, Any]:
    names = {"tool_name": shorten(tool["tool_name"], longest), "server_name": shorten(tool["server_name"], longest)}
    return without_nulls({**tool, **names})


def _preview(usage: ToolUsageLineDict, longest: int) -> dict[str, Any]:
    cut = {name: shorten(usage[name], longest) for name in ("tool_name", "server_name", "arguments", "result", "error")}
    return without_nulls({**usage, **cut})
