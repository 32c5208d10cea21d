"""Housekeeping: what deletions have left is removed and overwritten in the background, while the server is up.

It begins when the record is open, for what an earlier process had no time for, and again after each deletion. Where
another program is in the way, it tries again after a while. It stops at any moment: whoever opens the record next goes
on. No call waits for it.
"""

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from models.errors import ChatError

if TYPE_CHECKING:
    from chat_service.events import Event
    from chat_service.service import ChatService

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 60.0


class Housekeeping:
    """Finishes deletions of one service; stop it before the database is closed."""

    def __init__(self, service: "ChatService", *, retry_seconds: float = _RETRY_SECONDS) -> None:
        self._service = service
        self._retry_seconds = retry_seconds
        self._is_needed = asyncio.Event()
        self._working: asyncio.Task[None] | None = None
        self._stop_hearing = service.events.subscribe(self._hear)

    def start(self) -> None:
        """Look what there is to be done, and do it in the background."""
        self._is_needed.set()
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
        while self._is_needed.is_set():
            self._is_needed.clear()
            if not await self._is_finished():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._is_needed.wait(), self._retry_seconds)
                self._is_needed.set()

    async def _is_finished(self) -> bool:
        try:
            return await self._service.finish_deletions()
        except ChatError as error:
            # The disk is full, or another program holds the lock.
            logger.warning("deletions are not finished yet: %s", type(error).__name__)
            return False
