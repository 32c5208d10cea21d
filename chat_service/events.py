"""What happened: told after the commit, never before it, never on a rollback.

An event means "read again"; what is true is what `get_session_history(after_seq=…)` returns.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from models.ids import SessionId, UserId

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """A session of a user changed; `last_seq` is the end of its timeline where entries were appended."""

    user_id: UserId
    session_id: SessionId
    change: Literal["created", "updated", "appended", "deleted"]
    last_seq: int | None = None


Listener = Callable[[Event], None]


class Events:
    """Who hears what happened; listeners are called one after the other on the event loop and must not block."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call the listener for every event from now on; returns the function that ends this."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def publish(self, events: list[Event]) -> None:
        """Tell every listener; one that fails does not keep it from the others."""
        for event in events:
            for listener in tuple(self._listeners):
                try:
                    listener(event)
                except Exception as error:
                    logger.error("a listener failed with %s", type(error).__name__)
