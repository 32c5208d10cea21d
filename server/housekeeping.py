"""Housekeeping: what deletions have left is removed in the background, step by step, while the server is up.

It begins when the record is open, for what an earlier process had no time for, and again after each deletion. It stops
at any moment: whoever opens the record next goes on. No call waits for it.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from models.errors import ChatError

if TYPE_CHECKING:
    from chat_service.events import Event
    from chat_service.service import ChatService

logger = logging.getLogger(__name__)


class Housekeeping:
    """Finishes deletions of one service; stop it before the database is closed."""

    def __init__(self, service: "ChatService") -> None:
        self._service = service
        self._is_needed = False
        self._working: asyncio.Task[None] | None = None
        self._stop_hearing = service.events.subscribe(self._hear)

    def start(self) -> None:
        """Look what there is to be done, and do it in the background."""
        self._is_needed = True
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work(), name="finishing deletions")

    async def stop(self) -> None:
        """Leave the rest to the next who opens the record; a step that has begun is finished."""
        self._stop_hearing()
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait([self._working])
            self._working = None

    def _hear(self, event: "Event") -> None:
        if event.change == "deleted":
            self.start()

    async def _work(self) -> None:
        while self._is_needed:
            self._is_needed = False
            try:
                await self._service.finish_deletions()
            except ChatError as error:
                # The disk is full, or another program holds the lock: the next deletion or the next start tries again.
                logger.warning("deletions are not finished yet: %s", type(error).__name__)
