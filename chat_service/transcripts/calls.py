"""Tool calls that wait for their results: a call and its result become one tool usage, when the result comes.

A call whose result has not come when the conversation goes on is closed as `unknown`. Should the result come after all,
the same tool usage is given once more, under the same key, with what is known now.
"""

from collections import deque
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from chat_service.transcripts.neutral import Branch
from models.inputs import NewToolUsage, ToolStatus

MAX_ERROR = 500
_LONGEST = 1e12


class Call(NamedTuple):
    """A tool call that was asked for in the record `asked_in`; `key` is the idempotency key of its tool usage."""

    id: str
    name: str
    arguments: dict[str, Any]
    key: str
    started_at: datetime | None
    asked_in: str
    branch: Branch | None = None


class Calls:
    """The calls of a conversation that have no result yet, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._open: dict[str, deque[Call]] = {}
        self._closed: dict[str, deque[Call]] = {}

    def ask(self, call: Call) -> None:
        """Remember a call."""
        self._open.setdefault(call.id, deque()).append(call)

    def answer(
        self,
        call_id: str | None,
        result: Any,
        moment: datetime | None,
        branch: Branch | None = None,
        *,
        failed: bool = False,
        name: str | None = None,
    ) -> NewToolUsage | None:
        """Join a result to its call, None where there is no such call.

        Where an id was given to several, it is the first one's of the branch that the result stands in, else the first
        one's. Without an id it is that of the last open call, of this name where one is given.
        """
        if call_id is None:
            call_id = self._last_open(name)
        call = self._taken(call_id or "", branch)
        if call is None:
            return None
        return _tool_usage(
            call,
            status="error" if failed else "success",
            result=result,
            error=_first_line(result) if failed else None,
            duration_ms=_milliseconds(call.started_at, moment),
        )

    def is_open(self, name: str) -> bool:
        """Tell whether a call of this tool waits."""
        return self._last_open(name) is not None

    def close(self, branch: Branch | None) -> list[NewToolUsage]:
        """Close the open calls of a branch as `unknown`, since it has gone on without their results."""
        if not self._open:
            return []
        closed = [call for calls in self._open.values() for call in calls if call.branch == branch]
        for call in closed:
            self._open[call.id].remove(call)
            if not self._open[call.id]:
                del self._open[call.id]
            self._closed.setdefault(call.id, deque()).append(call)
        return [_tool_usage(call, status="unknown") for call in closed]

    def waiting(self) -> list[tuple[str, NewToolUsage]]:
        """Return what is open, as `unknown`, each after the record that asked for it."""
        calls = [call for calls in self._open.values() for call in calls]
        return [(call.asked_in, _tool_usage(call, status="unknown")) for call in calls]

    def _taken(self, call_id: str, branch: Branch | None) -> Call | None:
        """Take the call that a result belongs to out of those that wait; what is open comes before what was closed."""
        known = [(calls, call) for calls in (self._open, self._closed) for call in calls.get(call_id, ())]
        if not known:
            return None
        calls, call = next((each for each in known if each[1].branch == branch), known[0])
        calls[call_id].remove(call)
        if not calls[call_id]:
            del calls[call_id]
        return call

    def _last_open(self, name: str | None) -> str | None:
        found = [call.id for calls in self._open.values() for call in calls if name in (None, call.name)]
        return found[-1] if found else None


def _tool_usage(
    call: Call,
    *,
    status: ToolStatus,
    result: Any = None,
    error: str | None = None,
    duration_ms: float | None = None,
) -> NewToolUsage:
    return NewToolUsage(
        tool_call_id=call.id,
        tool_name=call.name,
        arguments=call.arguments,
        result=result,
        status=status,
        error=error,
        started_at=call.started_at,
        duration_ms=duration_ms,
        origin="import",
        idempotency_key=call.key,
    )


def _first_line(result: Any) -> str | None:
    blocks = result if isinstance(result, list) else [result]
    texts = [block.get("text") if isinstance(block, dict) else block for block in blocks]
    lines = (line.strip() for text in texts if isinstance(text, str) for line in text.splitlines())
    return next((line[:MAX_ERROR] for line in lines if line), None)


def _milliseconds(start: datetime | None, end: datetime | None) -> float | None:
    if start is None or end is None or end < start:
        return None
    elapsed = (end - start) / timedelta(milliseconds=1)
    return elapsed if elapsed < _LONGEST else None
