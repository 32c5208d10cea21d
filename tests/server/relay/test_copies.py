"""Copies: whoever reads them slowly or not at all, no more than a limit is held, and what is left out is counted."""

import io
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from server.relay.copies import Copies, Copy, Kind, missing_from, pack_copy, read_copies

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
    copies = Copies(held_bytes)
    for kind, data in added:
        copies.add(kind, data)
    copies.end()
    found = list(read_copies(io.BytesIO(b"".join(map(pack_copy, taken_from(copies))))))
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


def taken_from(copies: Copies) -> Iterator[Copy]:
    """Take all that waits."""
    while copies.next is not None:
        yield copies.take()


def test_where_nobody_reads_what_does_not_fit_is_counted() -> None:
    copies = Copies(1_000_000)
    line = b'{"method":"tools/call"}\n' * 1_000
    for _ in range(1_000):
        copies.add(Kind.TO_SERVER, line)
    assert copies.calls_left_out >= 900_000
    copies.end()
    kept = list(taken_from(copies))
    left_out = sum(missing_from(each) for each in kept if each.kind is Kind.GAP_TO_SERVER)
    assert left_out + sum(len(each.data) for each in kept if each.kind is Kind.TO_SERVER) == 1_000 * len(line)
    assert copies.calls_seen + copies.calls_left_out == 1_000_000


def test_what_is_taken_makes_room() -> None:
    copies = Copies(1_000)
    for _ in range(10):
        copies.add(Kind.TO_CLIENT, b"x" * 1_000)
        taken = copies.take()
        assert (taken.kind, len(taken.data)) == (Kind.TO_CLIENT, 1_000)


def test_nothing_is_held_for_nobody_and_all_calls_are_counted() -> None:
    copies = Copies()
    copies.add(Kind.TO_SERVER, b"tools/call")
    copies.give_up()
    for _ in range(9):
        copies.add(Kind.TO_SERVER, b"tools/call")
    copies.end()
    assert copies.is_given_up
    assert (copies.calls_seen, copies.calls_left_out) == (1, 9)
    assert [each.kind for each in taken_from(copies)] == [Kind.GAP_TO_SERVER, Kind.END]
