"""Twins: the same tool call, recorded once on its way by a proxy and once more in the client's transcript.

A transcript knows the id that the model gave the call, a proxy as a rule does not. So a call of the transcript is that
of a proxy's record of the same session with its tool_call_id; or, where that record has no id, with the same tool, the
same arguments, and a start within the time that the call took by the transcript. What differs in any of these stays two
records: one too many can be seen and told, one too few cannot.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, select

from models.inputs import NewToolUsage
from models.tables import tool_usages
from models.text import to_canonical_json

SLACK = timedelta(seconds=2)
"""How far the clocks of two writers on one machine may be apart, and what the wire takes."""

LONGEST = timedelta(minutes=10)
"""How long after it was asked for a call may start, where the transcript does not say when it ended: people confirm."""

_OF_PROXY = (
    select(
        tool_usages.c.seq,
        tool_usages.c.tool_call_id,
        tool_usages.c.server_name,
        tool_usages.c.tool_name,
        tool_usages.c.started_at,
        tool_usages.c.arguments,
    )
    .where(tool_usages.c.session_key == bindparam("session_key"), tool_usages.c.origin == "proxy")
    .order_by(tool_usages.c.seq)
)


class Twins:
    """The records of a proxy in one session that no call of a transcript has been joined to yet."""

    def __init__(self, connection: Connection, session_key: int) -> None:
        self._rows = [*connection.execute(_OF_PROXY, {"session_key": session_key})]

    def take(self, usage: NewToolUsage) -> int | None:
        """Return the seq of the proxy's record of this call, None where there is none; it is given once."""
        found = next(
            (row for row in self._rows if row.tool_call_id is not None and row.tool_call_id == usage.tool_call_id), None
        )
        if found is None:
            found = next((row for row in self._rows if row.tool_call_id is None and _is_same(row, usage)), None)
        if found is None:
            return None
        self._rows.remove(found)
        return int(found.seq)


def _is_same(row: Any, usage: NewToolUsage) -> bool:
    if usage.tool_name not in _names(row.tool_name, row.server_name) or usage.started_at is None:
        return False
    if row.started_at is None or to_canonical_json(row.arguments) != to_canonical_json(usage.arguments):
        return False
    took = LONGEST if usage.duration_ms is None else timedelta(milliseconds=usage.duration_ms)
    started = datetime.fromisoformat(row.started_at)
    return usage.started_at - SLACK <= started <= usage.started_at + took + SLACK


def _names(tool_name: str, server_name: str | None) -> tuple[str, ...]:
    """Return what a client may call a tool of a server: by its own name, or with the server's before it."""
    if server_name is None:
        return (tool_name,)
    return (tool_name, f"mcp__{server_name}__{tool_name}", f"{server_name}__{tool_name}", f"{server_name}.{tool_name}")
