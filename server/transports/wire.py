"""The wire between a client and the SDK's server: frames in, frames out, and nothing left unanswered at the end.

The SDK is given streams of our own rather than its memory streams, so that a call takes no turn of the event loop and
no thread that it does not need: a frame is parsed where the SDK asks for it, and an answer written where it is given.
"""

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from typing import Any, Self

import anyio
from mcp.server.lowlevel import Server
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.message import SessionMessage

from server.record import Record
from server.transports.descriptors import open_inward, open_outward
from server.transports.frames import parse, refuse_oversized, to_frame
from server.transports.lines import Oversized
from server.transports.wire_in import WireIn
from server.transports.wire_out import WireOut

logger = logging.getLogger(__name__)

_LAST_ANSWERS_SECONDS = 0.4
_MOMENTS_TO_OPEN = 6


class Wire:
    """Runs a server between two descriptors."""

    def __init__(self, wire_in: int, wire_out: int, max_frame_bytes: int, record: Record) -> None:
        self._limit = max_frame_bytes
        self._record = record
        self._stopping = False
        self._unanswered: Counter[str | int] = Counter()
        self._all_answered = asyncio.Event()
        self._input_ended = asyncio.Event()
        self._in = WireIn(open_inward(wire_in), max_frame_bytes, self._input_ended.set)
        # Where the client no longer reads, nothing more can be told.
        self._out = WireOut(open_outward(wire_out), self._in.end)

    async def serve(self, server: Server[Any]) -> None:
        """Run the server until stdin ends or `stop` is called, and let go of both."""
        try:
            await server.run(_FromClient(self), _ToClient(self), server.create_initialization_options())
            await self._out.flush()
        finally:
            self.close()

    def close(self) -> None:
        """Let go of both descriptors."""
        self._in.close()
        self._out.close()

    def stop(self) -> None:
        """Take no further frames, as if stdin had ended."""
        self._stopping = True
        self._in.drop()

    async def until_over(self, serving: "asyncio.Task[None]") -> None:
        """Wait until serving ends; once no more frames come, only for as long as answers may take.

        A client that no longer reads holds up everything that waits for its being answered; it is not waited for.
        """
        ended = asyncio.create_task(self._input_ended.wait())
        await asyncio.wait([serving, ended], return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        for _ in range(_MOMENTS_TO_OPEN):
            done, _pending = await asyncio.wait([serving], timeout=2 * _LAST_ANSWERS_SECONDS)
            if done or self._stopping or not self._record.is_opening:
                return

    async def take(self) -> SessionMessage | None:
        """Return the next message of the client, or None where there are no more and what was asked is answered."""
        while True:
            await self._out.has_room()
            frame = await self._in.next()
            if frame is None:
                await self._let_answers_out()
                return None
            parsed = refuse_oversized(frame, self._limit) if isinstance(frame, Oversized) else parse(frame)
            if isinstance(parsed, SessionMessage):
                self._note_request(parsed.message)
                return parsed
            logger.warning("refused a frame of %d bytes: %s", len(frame), parsed.reason)
            for answer in parsed.answers:
                await self._out.write(answer)
            # One who sends nothing else does not hold up the rest.
            await asyncio.sleep(0)

    async def give(self, message: SessionMessage) -> None:
        """Write a message to the client."""
        await self._out.write(to_frame(message))
        self._note_answer(getattr(message.message, "id", None))
        self._record.open_soon()

    async def _let_answers_out(self) -> None:
        # What was asked gets a moment to be answered, and another while the record is only being opened; what waits for
        # something new is over.
        self._record.end_waiting()
        moments = 1 if self._stopping else _MOMENTS_TO_OPEN
        for _ in range(moments):
            was_opening = self._record.is_opening
            if self._unanswered:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._all_answered.wait(), _LAST_ANSWERS_SECONDS)
            if not self._unanswered or not (was_opening or self._record.is_opening):
                return

    def _note_request(self, message: Any) -> None:
        method, request_id = getattr(message, "method", None), getattr(message, "id", None)
        if method is not None and request_id is not None:
            self._unanswered[coerce_request_id(request_id)] += 1
            self._all_answered.clear()
        elif method == "notifications/cancelled":
            # A cancelled request is not answered.
            self._note_answer((message.params or {}).get("requestId"))

    def _note_answer(self, request_id: Any) -> None:
        if isinstance(request_id, (str, int)) and not isinstance(request_id, bool):
            self._unanswered[coerce_request_id(request_id)] -= 1
            if self._unanswered[coerce_request_id(request_id)] <= 0:
                del self._unanswered[coerce_request_id(request_id)]
        if not self._unanswered:
            self._all_answered.set()


class _Stream:
    """What the SDK's streams are besides: entered, left and closed, which ends nothing of ours."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def aclose(self) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _FromClient(_Stream):
    """The messages of the client, as the SDK reads them."""

    async def receive(self) -> SessionMessage:
        message = await self._wire.take()
        if message is None:
            raise anyio.EndOfStream
        return message

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None


class _ToClient(_Stream):
    """The messages to the client, as the SDK writes them."""

    async def send(self, message: SessionMessage) -> None:
        await self._wire.give(message)
