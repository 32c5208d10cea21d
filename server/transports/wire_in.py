"""What the client sends: frames in their order, as many ahead as there is time for, and their end."""

import asyncio
from collections import deque
from collections.abc import Callable

from server.transports.descriptors import Inward
from server.transports.lines import Lines, Oversized

_FRAMES_AHEAD = 32


class WireIn:
    """Takes lines from a descriptor, and no more of them than it is asked for, but for a few; `ended` hears the end."""

    def __init__(self, inward: Inward, limit: int, ended: Callable[[], object]) -> None:
        self._inward, self._ended = inward, ended
        self._loop = asyncio.get_running_loop()
        self._lines = Lines(limit)
        self._frames: deque[bytes | Oversized] = deque()
        self._arrival: asyncio.Future[None] | None = None
        self._has_ended = False
        self._is_watched = False
        self._watch()

    async def next(self) -> bytes | Oversized | None:
        """Return the next frame, or None where there are no more."""
        while not self._frames and not self._has_ended:
            self._watch()
            self._arrival = self._loop.create_future()
            await self._arrival
        return self._frames.popleft() if self._frames else None

    def end(self) -> None:
        """Read no further; the frames that have come are still given."""
        self._unwatch()
        if not self._has_ended:
            self._has_ended = True
            self._ended()
        self._wake()

    def drop(self) -> None:
        """Read no further, and forget the frames that have come."""
        self._frames.clear()
        self.end()

    def close(self) -> None:
        """Forget what has come, and let go of the descriptor."""
        self.drop()
        self._inward.close()

    def _read(self) -> None:
        chunk = self._inward.read()
        if chunk is None:
            return
        self._frames.extend(self._lines.feed(chunk))
        if not chunk:
            if not self._lines.is_oversized:
                # A last line without its newline may be torn, and is a frame where it is whole.
                self._frames.extend(self._lines.end())
            self.end()
        elif self._frames:
            if len(self._frames) >= _FRAMES_AHEAD:
                self._unwatch()
            self._wake()

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def _watch(self) -> None:
        if not self._is_watched:
            self._is_watched = True
            self._inward.watch(self._read)

    def _unwatch(self) -> None:
        if self._is_watched:
            self._is_watched = False
            self._inward.unwatch()
