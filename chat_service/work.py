"""A unit of work in progress: what a room needs in order to write."""

from dataclasses import dataclass, field

from sqlalchemy import Connection

from chat_service.events import Event


@dataclass(slots=True)
class Work:
    """An open write transaction, its time, and what others should hear once it has committed.

    Rooms that write take it first, and never commit: whoever opened the transaction does. `now` is one RFC 3339 time,
    for all that the transaction writes.
    """

    connection: Connection
    now: str
    events: list[Event] = field(default_factory=list)

    def tell(self, event: Event) -> None:
        """Remember an event to be published after the commit, and never on a rollback."""
        self.events.append(event)
