"""A unit of work in progress: what a room needs in order to write."""

from dataclasses import dataclass, field

from sqlalchemy import Connection

from chat_service.events import Event
from chat_service.limits import Limits


@dataclass(slots=True)
class Work:
    """An open write transaction, its time, and what others should hear once it has committed.

    Rooms that write take it first, and never commit: whoever opened the transaction does. `now` is one RFC 3339 time,
    for all that the transaction writes; `limits` says how large what enters may be.
    """

    connection: Connection
    now: str
    limits: Limits = field(default_factory=Limits)
    events: list[Event] = field(default_factory=list)

    def tell(self, event: Event) -> None:
        """Remember an event to be published after the commit, and never on a rollback."""
        self.events.append(event)
