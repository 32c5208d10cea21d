"""A tool call as it passed: what was asked, what came of it, and when."""

from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["success", "error", "cancelled", "unknown"]


@dataclass(frozen=True, slots=True)
class Cut:
    """What could not be taken apart: its beginning, and how many bytes the whole had."""

    head: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Ending:
    """How a call ended."""

    status: Status
    result: Any = None
    error: str | None = None


@dataclass(slots=True)
class Call:
    """A call; `number` counts those of one run, `wall` and `moment` are nanoseconds of its request."""

    number: int
    request_id: str | float
    tool_name: str | None
    arguments: Any
    meta: dict[str, Any]
    client: str | None
    wall: int
    moment: int
    server: str | None = None
    ending: Ending | None = None
    duration_ms: float = field(default=0.0)

    def end(self, moment: int, ending: Ending, server: str | None = None) -> "Call":
        """Note how and when it ended, and by which server; return the call."""
        self.duration_ms = max(0, moment - self.moment) / 1e6
        self.ending = ending
        self.server = server
        return self
