"""Copies: whoever reads them slowly or not at all, adding one never waits, and what is left out is counted."""

import os
import threading
from typing import BinaryIO

from hypothesis import given, settings
from hypothesis import strategies as st

from server.relay.copies import Copies, Copy, Kind, read_copies

ADDED = st.lists(st.tuples(st.sampled_from([Kind.TO_SERVER, Kind.TO_CLIENT]), st.binary(max_size=60)), max_size=30)


def in_turn(copies: list[Copy], kind: Kind) -> list[bytes | int]:
    """Return what was read of one direction: bytes, and the sizes of gaps."""
    return [
        each.data if each.kind is kind else int.from_bytes(each.data, "little")
        for each in copies
        if each.kind in (kind, kind + 2)
    ]


@settings(deadline=None, max_examples=100, derandomize=True)
@given(ADDED, st.integers(0, 200))
def test_what_is_read_and_the_gaps_are_together_all_that_was_added(
    added: list[tuple[Kind, bytes]], held_bytes: int
) -> None:
    source, target = os.pipe()
    copies = Copies(target, held_bytes)
    for kind, data in added:
        copies.add(kind, data)
    copies.end()
    with os.fdopen(source, "rb") as pipe:
        found = list(read_copies(pipe))
    assert found.pop().kind is Kind.END
    for kind in (Kind.TO_SERVER, Kind.TO_CLIENT):
        whole = b"".join(data for each, data in added if each is kind)
        position = 0
        for piece in in_turn(found, kind):
            if isinstance(piece, bytes):
                assert whole[position:].startswith(piece)
            position += piece if isinstance(piece, int) else len(piece)
        assert position == len(whole)
    moments = [each.moment for each in found]
    assert moments == sorted(moments)


def test_nobody_reads_and_nobody_waits() -> None:
    source, target = os.pipe()
    copies = Copies(target, 1_000_000)
    line = b'{"method":"tools/call"}\n' * 1_000
    for _ in range(1_000):
        copies.add(Kind.TO_SERVER, line)
    assert copies.calls_left_out >= 900_000
    copies.end()
    kept: list[Copy] = []
    reader = threading.Thread(target=read_all, args=(os.fdopen(source, "rb"), kept))
    reader.start()
    reader.join()
    left_out = sum(int.from_bytes(each.data, "little") for each in kept if each.kind is Kind.GAP_TO_SERVER)
    assert left_out + sum(len(each.data) for each in kept if each.kind is Kind.TO_SERVER) == 1_000 * len(line)
    assert copies.calls_seen + copies.calls_left_out == 1_000_000


def read_all(pipe: BinaryIO, kept: list[Copy]) -> None:
    with pipe:
        kept += read_copies(pipe)


def test_a_reader_that_is_gone_is_noticed_and_counted() -> None:
    source, target = os.pipe()
    os.close(source)
    copies = Copies(target)
    for _ in range(10):
        copies.add(Kind.TO_SERVER, b"tools/call")
    copies.end()
    copies.join()
    assert copies.is_broken
    assert copies.calls_seen + copies.calls_left_out == 10
