"""What counts as storable text and JSON, and that it is written in its shortest form."""

import json
import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.text import MAX_DEPTH, MAX_INTEGER_BITS, check_json, check_text, to_json
from tests.support import JSON_VALUES, PROPERTY, TEXTS


def nested(levels: int, inside: Any = None) -> Any:
    """Wrap a value into lists and objects by turns; a value alone is one level."""
    value = inside
    for level in range(levels - 1):
        value = [value] if level % 2 else {"k": value}
    return value


@PROPERTY
@given(value=TEXTS)
def test_any_text_is_accepted_as_it_is(value: str) -> None:
    assert check_text(value) == value


@pytest.mark.parametrize("value", ["\0", "a\0b", "é\0"])
def test_a_nul_character_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="NUL character"):
        check_text(value)


def test_half_of_a_surrogate_pair_is_refused() -> None:
    for value in ("\ud800", "a\udfffb", "\ude00\ud83d", "\ud83d\ude00"):
        with pytest.raises(ValueError, match="half of a surrogate pair"):
            check_text(value)


@PROPERTY
@given(value=JSON_VALUES)
def test_any_json_value_is_accepted_and_reads_back_as_it_was(value: Any) -> None:
    assert check_json(value) is value
    assert json.dumps(json.loads(to_json(value))) == json.dumps(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_in_json_is_refused_wherever_it_stands(value: float) -> None:
    for place in (value, [value], {"k": [1, {"l": value}]}, (value,)):
        with pytest.raises(ValueError, match="NaN or infinity"):
            check_json(place)
        with pytest.raises(ValueError, match="JSON compliant"):
            to_json(place)


@pytest.mark.parametrize("value", ["\0", "\ud800"])
def test_text_inside_json_is_checked_and_so_are_keys(value: str) -> None:
    for place in (value, [value], {"k": {"l": value}}, {value: 1}, [{"k": {value: 1}}]):
        with pytest.raises(ValueError, match=r"NUL|surrogate"):
            check_json(place)


def test_json_may_be_nested_64_levels_and_no_deeper() -> None:
    assert check_json(nested(MAX_DEPTH)) == nested(MAX_DEPTH)
    for levels in (MAX_DEPTH + 1, 100_000):
        with pytest.raises(ValueError, match="nested more than 64 levels"):
            check_json(nested(levels))
    with pytest.raises(ValueError, match="nested more than 64 levels"):
        check_json([1, {"k": nested(MAX_DEPTH - 1)}])


def test_json_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="nested more than 64 levels"):
        check_json(endless)


@pytest.mark.parametrize("sign", [1, -1])
def test_an_integer_may_have_4096_bits_and_no_more(sign: int) -> None:
    largest = sign * (2**MAX_INTEGER_BITS - 1)
    assert json.loads(to_json(check_json({"n": largest}))) == {"n": largest}
    with pytest.raises(ValueError, match="more than 4096 bits"):
        check_json({"n": largest + sign})


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, object(), Decimal(1), 1j, datetime(2026, 1, 1, tzinfo=UTC)])
def test_what_json_has_not_is_refused(value: Any) -> None:
    for place in (value, [value], {"k": value}):
        with pytest.raises(ValueError, match="which JSON has not"):
            check_json(place)


@pytest.mark.parametrize("key", [1, None, True, 1.5, ("a",)])
def test_a_key_that_is_not_text_is_refused(key: Any) -> None:
    with pytest.raises(ValueError, match="a key that is not text"):
        check_json([{key: 1}])


@PROPERTY
@given(value=st.dictionaries(TEXTS, TEXTS))
def test_json_is_written_without_spaces_and_with_characters_as_they_are(value: dict[str, str]) -> None:
    written = to_json(value)
    assert json.loads(written) == value
    assert len(written) == len(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def test_json_is_written_in_its_shortest_form() -> None:
    assert to_json({"a": [1, 2.5, None, True], "é": "😀"}) == '{"a":[1,2.5,null,true],"é":"😀"}'
