"""The wire's two directions on real descriptors.

The loop watches pipes and sockets itself; a thread waits for the rest, of which a pipe that has a name is one.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import mcp_types as types
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.message import SessionMessage

from server.record import Record
from server.settings import Settings
from server.transports.descriptors import open_inward, open_outward
from server.transports.frames import to_frame
from server.transports.lines import Lines, Oversized
from server.transports.wire import Wire
from server.transports.wire_in import WireIn
from server.transports.wire_out import WireOut
from tests.conftest import url_of
from tests.server.support import frame_of, tool_call
from tests.support import PROPERTY

pytestmark = pytest.mark.anyio

KINDS = ("pipe", "socket", "named pipe")
LIMIT = 1_000_000
LONG = b"y" * 1_000_000 + b"\n"
"""More than a pipe or a socket holds."""
TURNS = 50


@dataclass
class Ends:
    """What is written to one arrives at the other."""

    read_end: int
    write_end: int


@contextmanager
def ends_of(kind: str, folder: Path) -> Iterator[Ends]:
    """Open both ends of something that carries bytes in one direction."""
    if kind == "pipe":
        ends = Ends(*os.pipe())
    elif kind == "socket":
        ends = Ends(*(each.detach() for each in socket.socketpair()))
    else:
        path = folder / uuid4().hex
        os.mkfifo(path)
        reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        ends = Ends(reading, os.open(path, os.O_WRONLY))
        os.set_blocking(reading, True)
    try:
        yield ends
    finally:
        for descriptor in (ends.write_end, ends.read_end):
            with suppress(OSError):
                os.close(descriptor)


@contextmanager
def writing_to(kind: str, folder: Path, gone: Callable[[], object] = list) -> Iterator[tuple[WireOut, Ends]]:
    """Write frames to something of this kind."""
    with ends_of(kind, folder) as ends:
        out = WireOut(open_outward(ends.write_end), gone)
        try:
            yield out, ends
        finally:
            out.close()


@contextmanager
def reading_from(
    kind: str, folder: Path, ended: Callable[[], object] = list, limit: int = LIMIT
) -> Iterator[tuple[WireIn, Ends]]:
    """Read frames from something of this kind."""
    with ends_of(kind, folder) as ends:
        wire = WireIn(open_inward(ends.read_end), limit, ended)
        try:
            yield wire, ends
        finally:
            wire.close()


async def some_turns() -> None:
    """Let the loop do whatever it is about to do by itself."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


def received(descriptor: int, count: int, size: int = 65_536) -> "asyncio.Future[bytes]":
    """Read so many bytes on a thread, a few at a time."""

    def read() -> bytes:
        whole = bytearray()
        while len(whole) < count:
            chunk = os.read(descriptor, min(size, count - len(whole)))
            assert chunk, "the other end is closed"
            whole += chunk
        return bytes(whole)

    return asyncio.ensure_future(asyncio.to_thread(read))


def frames_of(count: int) -> list[bytes]:
    """Make frames of all sizes."""
    sizes = (0, 1, 100, 4_085, 4_096, 40_000, 300_000)
    return [b"%d:" % number + b"x" * sizes[number % len(sizes)] + b"\n" for number in range(count)]


async def all_of(wire: WireIn) -> list[bytes | Oversized]:
    """Take every frame."""
    frames = []
    while (frame := await wire.next()) is not None:
        frames.append(frame)
    return frames


# Out


@pytest.mark.parametrize("kind", KINDS)
async def test_frames_of_many_writers_arrive_whole_and_in_their_order(kind: str, tmp_path: Path) -> None:
    frames = frames_of(60)
    with writing_to(kind, tmp_path) as (out, ends):
        writing = [asyncio.create_task(out.write(frame)) for frame in frames]
        reading = received(ends.read_end, sum(map(len, frames)), 10_000)
        await asyncio.gather(*writing)
        await out.flush()
        assert await reading == b"".join(frames)


@pytest.mark.parametrize("kind", KINDS)
async def test_one_who_does_not_read_holds_up_the_writer_and_not_the_loop(kind: str, tmp_path: Path) -> None:
    with writing_to(kind, tmp_path) as (out, ends):
        writing = [asyncio.create_task(out.write(frame)) for frame in (LONG, b"short\n")]
        flushing = asyncio.create_task(out.flush())
        await some_turns()
        assert not any(task.done() for task in (*writing, flushing))
        assert await received(ends.read_end, len(LONG) + 6) == LONG + b"short\n"
        await asyncio.gather(*writing, flushing)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_frame_whose_writer_no_longer_waits_is_not_torn(kind: str, tmp_path: Path) -> None:
    with writing_to(kind, tmp_path) as (out, ends):
        cancelled = [asyncio.create_task(out.write(frame)) for frame in (LONG, b"second\n")]
        await some_turns()
        for task in cancelled:
            task.cancel()
        await asyncio.wait(cancelled)
        assert all(task.cancelled() for task in cancelled)
        last = asyncio.create_task(out.write(b"third\n"))
        assert await received(ends.read_end, len(LONG) + 13) == LONG + b"second\nthird\n"
        await last


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("waits", [False, True], ids=["before", "while frames wait"])
async def test_nobody_waits_for_a_reader_that_has_gone(kind: str, waits: bool, tmp_path: Path) -> None:
    gone: list[str] = []
    with writing_to(kind, tmp_path, lambda: gone.append("gone")) as (out, ends):
        writing = [asyncio.create_task(out.write(LONG)) for _ in range(3 * waits)]
        await some_turns()
        assert not any(task.done() for task in writing)
        os.close(ends.read_end)
        await asyncio.gather(*writing, out.write(b"first\n"))
        await out.write(b"second\n")
        await out.flush()
        await out.has_room()
        assert gone == ["gone"]


@pytest.mark.parametrize("kind", ["pipe", "socket"])
async def test_a_frame_that_is_taken_at_once_takes_no_turn_of_the_loop(kind: str, tmp_path: Path) -> None:
    with writing_to(kind, tmp_path) as (out, ends):
        with pytest.raises(StopIteration):
            out.write(b"frame\n").send(None)
        assert os.read(ends.read_end, 100) == b"frame\n"


@pytest.mark.parametrize("name", ["a file", os.devnull])
async def test_frames_go_into_a_file_too(name: str, tmp_path: Path) -> None:
    frames = frames_of(20)
    descriptor = os.open(tmp_path / name, os.O_WRONLY | os.O_CREAT)
    out = WireOut(open_outward(descriptor), list)
    for frame in frames:
        await out.write(frame)
    os.close(descriptor)
    assert name == os.devnull or (tmp_path / name).read_bytes() == b"".join(frames)


# In


@PROPERTY
@given(st.lists(st.binary(max_size=30), max_size=30), st.lists(st.integers(1, 60), max_size=20), st.sampled_from(KINDS))
def test_frames_are_the_same_however_their_bytes_come(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], cuts: list[int], kind: str
) -> None:
    whole = b"\n".join(lines)
    splitter = Lines(20)
    expected = [*splitter.feed(whole)]
    expected += [] if splitter.is_oversized else [*splitter.end()]
    ended: list[str] = []

    async def frames_as_they_come() -> list[bytes | Oversized]:
        with reading_from(kind, tmp_path_factory.getbasetemp(), lambda: ended.append("ended"), 20) as (wire, ends):
            arriving = asyncio.create_task(all_of(wire))
            rest = whole
            for cut in cuts:
                os.write(ends.write_end, rest[:cut])
                rest = rest[cut:]
                await asyncio.sleep(0)
            os.write(ends.write_end, rest)
            os.close(ends.write_end)
            return await arriving

    assert asyncio.run(frames_as_they_come()) == expected
    assert ended == ["ended"]


@pytest.mark.parametrize("kind", KINDS)
async def test_no_more_is_read_than_is_asked_for(kind: str, tmp_path: Path) -> None:
    with reading_from(kind, tmp_path) as (wire, ends):
        frames = [b"%d" % number + b"x" * 1_000 for number in range(1_000)]
        os.set_blocking(ends.write_end, False)
        rest = b"\n".join(frames) + b"\n"
        # It takes what fills it, and a few times what is read at once, and then no more whatever the loop does.
        for _ in range(TURNS):
            with suppress(BlockingIOError):
                rest = rest[os.write(ends.write_end, rest) :]
            await some_turns()
        assert len(rest) > 400_000
        os.set_blocking(ends.write_end, True)
        sending = asyncio.ensure_future(asyncio.to_thread(_send, ends.write_end, rest))
        assert [await wire.next() for _ in frames] == frames
        await sending


@pytest.mark.parametrize("kind", KINDS)
async def test_frames_are_forgotten_where_no_more_are_wanted(kind: str, tmp_path: Path) -> None:
    ended: list[str] = []
    with reading_from(kind, tmp_path, lambda: ended.append("ended")) as (wire, ends):
        os.write(ends.write_end, b"one\ntwo\nthree\n")
        assert await wire.next() == b"one"
        wire.drop()
        wire.drop()
        os.write(ends.write_end, b"four\n")
        await some_turns()
        assert await wire.next() is None
        assert ended == ["ended"]


@pytest.mark.parametrize("kind", KINDS)
async def test_frames_that_have_come_are_given_after_the_end(kind: str, tmp_path: Path) -> None:
    with reading_from(kind, tmp_path) as (wire, ends):
        waiting = asyncio.create_task(wire.next())
        await some_turns()
        os.write(ends.write_end, b"one\ntwo\n")
        assert await waiting == b"one"
        wire.end()
        assert [await wire.next(), await wire.next()] == [b"two", None]


async def test_frames_come_from_a_file_too(tmp_path: Path) -> None:
    frames = frames_of(20)
    (tmp_path / "file").write_bytes(b"".join(frames))
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    wire = WireIn(open_inward(descriptor), LIMIT, list)
    assert await all_of(wire) == [frame.strip() for frame in frames]
    os.close(descriptor)


# Both


@pytest.mark.parametrize("kind", ["pipe", "socket"])
async def test_what_other_processes_share_is_not_made_non_blocking(kind: str, tmp_path: Path) -> None:
    with reading_from(kind, tmp_path) as (wire, inward), writing_to(kind, tmp_path) as (out, outward):
        os.write(inward.write_end, b"frame\n")
        assert await wire.next() == b"frame"
        await out.write(b"frame\n")
        assert os.get_blocking(inward.read_end)
        assert os.get_blocking(outward.write_end)


async def test_a_thread_waits_where_a_parent_has_made_it_non_blocking(tmp_path: Path) -> None:
    with ends_of("named pipe", tmp_path) as ends:
        os.set_blocking(ends.write_end, False)
        os.set_blocking(ends.read_end, False)
        out = WireOut(open_outward(ends.write_end), list)
        wire = WireIn(open_inward(ends.read_end), len(LONG), list)
        writing = asyncio.create_task(out.write(LONG))
        assert await wire.next() == LONG.strip()
        await writing
        wire.close()
        out.close()
        assert not os.get_blocking(ends.write_end)
        assert not os.get_blocking(ends.read_end)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
async def test_one_who_does_not_read_its_answers_is_asked_nothing_more(kind: str, tmp_path: Path) -> None:
    record = Record(Settings(database_url=url_of(tmp_path / "chat.db"), user="ada"))
    answer = SessionMessage(types.JSONRPCResponse(jsonrpc="2.0", id=0, result={"long": "x" * LIMIT}))
    with ends_of(kind, tmp_path) as inward, ends_of(kind, tmp_path) as outward:
        wire = Wire(inward.read_end, outward.write_end, LIMIT, record)
        unread = [asyncio.create_task(wire.give(answer)) for _ in range(20)]
        await some_turns()
        os.write(inward.write_end, frame_of(tool_call(1, "list_sessions")))
        taking = asyncio.create_task(wire.take())
        await some_turns()
        assert not taking.done()
        await received(outward.read_end, 20 * len(to_frame(answer)))
        message = await taking
        assert message is not None
        assert isinstance(message.message, types.JSONRPCRequest)
        await asyncio.gather(*unread)
        wire.close()
    await record.close()


def _send(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
