"""Cursors: opaque, bound to the list that gave them, and refused in any other form."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_service.limits import MAX_PAGE
from chat_service.paging import check_limit, make_cursor, read_cursor
from models.errors import Invalid
from tests.support import PROPERTY, TEXTS

FILTERS = st.lists(st.none() | TEXTS, max_size=4).map(tuple)


@PROPERTY
@given(key=st.integers(0, 2**63 - 1), of=FILTERS)
def test_a_cursor_gives_back_its_key_to_the_same_list(key: int, of: tuple[object, ...]) -> None:
    assert read_cursor(make_cursor(key, *of), *of) == key


def test_no_cursor_is_the_start_of_the_list() -> None:
    assert read_cursor(None, "sessions") is None


@PROPERTY
@given(key=st.integers(0, 2**63 - 1), of=FILTERS, other=FILTERS)
def test_a_cursor_is_refused_by_any_other_list(key: int, of: tuple[object, ...], other: tuple[object, ...]) -> None:
    if of != other:
        with pytest.raises(Invalid, match="cursor is not one that this list gave"):
            read_cursor(make_cursor(key, *of), *other)


def test_filters_do_not_run_into_each_other() -> None:
    cursor = make_cursor(1, "a", "b")
    for other in (("ab",), ("a, b",), ("a', 'b",), ("b", "a"), ("a", "b", None), ("a", "b", "")):
        with pytest.raises(Invalid):
            read_cursor(cursor, *other)


def test_a_cursor_with_any_byte_changed_is_refused() -> None:
    made = base64.urlsafe_b64decode(make_cursor(12345, "list") + "==")
    for place in range(len(made)):
        tampered = bytearray(made)
        tampered[place] ^= 1
        with pytest.raises(Invalid):
            read_cursor(base64.urlsafe_b64encode(tampered).decode().rstrip("="), "list")


@PROPERTY
@given(cursor=st.text() | st.binary(max_size=40).map(lambda data: base64.urlsafe_b64encode(data).decode()))
def test_garbage_is_refused(cursor: str) -> None:
    with pytest.raises(Invalid, match="cursor is not one that this list gave"):
        read_cursor(cursor, "list")


def test_a_cursor_cut_short_or_lengthened_is_refused() -> None:
    cursor = make_cursor(1, "list")
    for other in ("", cursor[:-1], cursor[:8], cursor + "A", cursor + cursor, " " + cursor, cursor + "\n"):
        with pytest.raises(Invalid):
            read_cursor(other, "list")


def test_a_limit_is_1_to_500() -> None:
    for limit in (1, 2, MAX_PAGE):
        assert check_limit(limit) == limit
    for limit in (-(2**70), -1, 0, MAX_PAGE + 1, 2**70):
        with pytest.raises(Invalid, match="limit must be between 1 and 500"):
            check_limit(limit)
