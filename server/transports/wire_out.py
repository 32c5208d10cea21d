"""What goes to the client: frames in their order, at once where it reads them, and later where it does not yet."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from server.transports.descriptors import Outward

logger = logging.getLogger(__name__)

_BYTES_AHEAD = 16 * 1_048_576


class WireOut:
    """Writes frames to a descriptor; `gone` hears that nobody reads them any more, after which they are dropped."""

    def __init__(self, outward: Outward, gone: Callable[[], object]) -> None:
        self._outward, self._gone = outward, gone
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[memoryview, asyncio.Future[None]]] = deque()
        self._bytes_waiting = 0
        self._is_gone = False

    async def write(self, frame: bytes) -> None:
        """Write a frame, and return when that is done; a caller that no longer waits takes nothing back."""
        taken = 0 if self._waiting else self._offer(frame)
        if taken == len(frame) or self._is_gone:
            return
        if not self._waiting:
            self._outward.watch(self._go_on)
        written = self._loop.create_future()
        self._waiting.append((memoryview(frame)[taken:], written))
        self._bytes_waiting += len(frame) - taken
        await asyncio.shield(written)

    async def flush(self) -> None:
        """Wait until all is written."""
        await self._until_at_most(0)

    async def has_room(self) -> None:
        """Wait until the client has read so much that it should be answered more."""
        await self._until_at_most(_BYTES_AHEAD)

    def close(self) -> None:
        """Forget what is not written yet, and let go of the descriptor."""
        self._end()
        self._outward.close()

    async def _until_at_most(self, size: int) -> None:
        while self._bytes_waiting > size:
            await asyncio.wait([self._waiting[0][1]])

    def _go_on(self) -> None:
        while self._waiting:
            view, written = self._waiting[0]
            taken = self._offer(view)
            if self._is_gone:
                return
            self._bytes_waiting -= taken
            if taken < len(view):
                self._waiting[0] = view[taken:], written
                return
            self._waiting.popleft()
            written.set_result(None)
        self._outward.unwatch()

    def _offer(self, data: bytes | memoryview) -> int:
        if self._is_gone:
            return 0
        try:
            return self._outward.write(data)
        except OSError as error:
            if not isinstance(error, ConnectionError):
                # It is no client that has left.
                logger.error("nothing more can be written to stdout: %s", error.strerror)
            self._end()
            self._gone()
            return 0

    def _end(self) -> None:
        self._is_gone = True
        self._outward.unwatch()
        for _, written in self._waiting:
            written.set_result(None)
        self._waiting.clear()
        self._bytes_waiting = 0
