"""Rows become dicts with the names, the order and the values that they should have."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from models.row_maker import row_maker

NAMES = some.lists(some.sampled_from(["id", "seq", "kind", "content", "parts", "model"]), min_size=1, unique=True)
VALUES = some.none() | some.integers() | some.text(max_size=5)


@given(some.data())
def test_rows_become_dicts_as_they_would_by_name_and_column(data: some.DataObject) -> None:
    names = data.draw(NAMES)
    columns = data.draw(some.permutations(["extra", *names[: data.draw(some.integers(0, len(names)))]]))
    rows = data.draw(some.lists(some.tuples(*[VALUES] * len(columns)), max_size=4))
    converted = data.draw(some.sets(some.integers(0, len(columns) - 1)))
    same = {name: object() for name in names if name not in columns}
    make = row_maker(tuple(names), tuple(columns), tuple((index, repr) for index in converted))

    def value(name: str, row: tuple[Any, ...]) -> Any:
        if name in same:
            return same[name]
        index = columns.index(name)
        return repr(row[index]) if index in converted and row[index] is not None else row[index]

    expected = [[(name, value(name, row)) for name in names] for row in rows]
    assert [list(made.items()) for made in make(rows, **same)] == expected


def test_a_name_that_is_neither_a_column_nor_given_is_refused() -> None:
    make = row_maker(("seq", "session_id"), ("seq",))
    with pytest.raises(TypeError, match="session_id"):
        make([(1,)])


def test_a_row_with_another_number_of_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="unpack"):
        row_maker(("seq",), ("seq",))([(1, 2)])
