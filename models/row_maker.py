"""Rows made into dicts by a function that is written for them, as `namedtuple` writes its class.

A dict display over the columns of a row takes two thirds of the time of `dict(zip(names, row))` with a pass over the
dicts for each column that is converted (docs/decisions/prepared-statements.md).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

Convert = Callable[[Any], Any]


@lru_cache(maxsize=512)
def row_maker(
    names: tuple[str, ...], columns: tuple[str, ...], conversions: tuple[tuple[int, Convert], ...] = ()
) -> Callable[..., list[Any]]:
    """Return a function of rows that have these columns, which makes dicts with these names, in this order.

    A name that is no column is given to that function as an argument, the same for all dicts. A column that is not
    among the names is passed over. A conversion belongs to the column with its index, and is not asked about NULL.
    """
    values = [f"_{index}" for index in range(len(columns))]
    given = [name for name in names if name not in columns]
    expressions = {**dict(zip(columns, values, strict=True)), **dict(zip(given, given, strict=True))}
    for index, _ in conversions:
        expressions[columns[index]] = f"None if _{index} is None else _to_{index}(_{index})"
    fields = ", ".join(f"{name!r}: {expressions[name]}" for name in names)
    source = f"lambda {', '.join(['_rows', *given])}: [{{{fields}}} for {', '.join(values)}, in _rows]"
    # Nothing but names of ours is in it: the keys of a shape, as its class spells them.
    make: Callable[..., list[Any]] = eval(source, {f"_to_{index}": convert for index, convert in conversions})  # noqa: S307
    return make
