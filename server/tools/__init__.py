"""The tools, one file a noun; `all_tools` names them in the order in which they are listed."""

from functools import cache

from server.settings import Settings
from server.tools.binding import Tool


def offered_tools(settings: Settings) -> tuple[Tool, ...]:
    """Return the tools that a server with these settings offers: some need a setting."""
    return tuple(tool for tool in all_tools() if tool.needs is None or getattr(settings, tool.needs) is not None)


@cache
def all_tools() -> tuple[Tool, ...]:
    """Return every tool that there is; the same ones each time, since their schemas are made but once."""
    from server.tools import chat, context, history, messages, search, sessions, tool_usage, upstream

    return (
        Tool(sessions.start_session, title="Start a session"),
        Tool(sessions.list_sessions, title="List sessions", read_only=True),
        Tool(sessions.get_active_session, title="Find the active session", read_only=True),
        Tool(sessions.update_session, title="Rename, describe or archive a session", idempotent=True),
        Tool(sessions.fork_session, title="Fork a session"),
        Tool(sessions.delete_session, title="Delete a session", destructive=True, idempotent=True),
        Tool(messages.add_messages, title="Append messages"),
        Tool(tool_usage.log_tool_usage, title="Log a tool call"),
        Tool(history.get_session_history, title="Read a session's history", read_only=True),
        Tool(context.get_context, title="Get a window of a session that fits", read_only=True),
        Tool(search.search_history, title="Search everything said and done", read_only=True),
        Tool(tool_usage.list_tool_usage, title="List tool calls", read_only=True),
        Tool(
            upstream.list_server_tools,
            title="List other servers' tools",
            read_only=True,
            open_world=True,
            needs="upstream_file",
        ),
        Tool(
            upstream.call_tool,
            title="Call another server's tool",
            destructive=True,
            open_world=True,
            needs="upstream_file",
        ),
        Tool(chat.chat, title="Ask the model", open_world=True, needs="model"),
    )
