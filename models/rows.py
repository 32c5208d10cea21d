"""From a TypedDict to the columns that are selected, and from rows back to the TypedDict."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from sqlalchemy import ColumnElement, Connection, Executable, Label, Select, Table
from sqlalchemy.sql.elements import KeyedColumnElement

from models.prepared import Prepared

Shape = TypeVar("Shape")


def columns(
    shape: type[Any], table: Table, **expressions: ColumnElement[Any]
) -> tuple[KeyedColumnElement[Any] | Label[Any], ...]:
    """Name the columns of a shape: those of the table by the same name, and for the others the expressions given."""
    return tuple(
        expressions[name].label(name) if name in expressions else table.c[name] for name in shape.__annotations__
    )


def all_rows(
    connection: Connection,
    shape: type[Shape],
    query: Executable | Prepared,
    parameters: Mapping[str, Any] | None = None,
) -> list[Shape]:
    """Run a query whose columns are those of the shape, and return its rows as dicts."""
    if isinstance(query, Prepared):
        return query.dicts(connection, tuple(shape.__annotations__), parameters or {})
    return _dicts(shape, connection.execute(query, parameters).fetchall())


def one_row(
    connection: Connection,
    shape: type[Shape],
    query: Executable | Prepared,
    parameters: Mapping[str, Any] | None = None,
) -> Shape | None:
    """Run a query of one row at most, and return it as a dict, or None."""
    rows = all_rows(connection, shape, query, parameters)
    return rows[0] if rows else None


def one_row_after(
    connection: Connection, shape: type[Shape], query: Prepared, parameters: Mapping[str, Any], before: int
) -> tuple[Sequence[Any], Shape] | None:
    """Run a query of one row at most, and return its first columns, so many, and the rest as a dict; or None."""
    row = query.first(connection, parameters)
    return None if row is None else (row[:before], _dicts(shape, [row[before:]])[0])


def page_rows(
    connection: Connection, shape: type[Shape], query: Select[Any], limit: int, parameters: Mapping[str, Any]
) -> tuple[list[Shape], int | None]:
    """Run an ordered query whose first column is its key, and return a page and the key of its last row.

    The key is None where nothing follows the page.
    """
    found = connection.execute(query.limit(limit + 1), parameters).fetchall()
    return _dicts(shape, [row[1:] for row in found[:limit]]), found[limit - 1][0] if len(found) > limit else None


def _dicts(shape: type[Shape], rows: Sequence[Sequence[Any]]) -> list[Shape]:
    names = tuple(shape.__annotations__)
    return [cast("Shape", dict(zip(names, row, strict=True))) for row in rows]
