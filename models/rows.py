"""From a TypedDict to the columns that are selected, and from rows back to the TypedDict."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import BigInteger, ColumnElement, Connection, Executable, Label, Result, Select, Table, bindparam
from sqlalchemy.sql.elements import KeyedColumnElement

from models.prepared import Prepared
from models.row_maker import row_maker

Shape = TypeVar("Shape")

PAGE_SIZE: Any = bindparam("page_size", type_=BigInteger)
"""How many rows a prepared statement of a page gives: one more than the page has."""


def columns(
    shape: type[Any], table: Table, leaving_out: Collection[str] = (), **expressions: ColumnElement[Any]
) -> tuple[KeyedColumnElement[Any] | Label[Any], ...]:
    """Name the columns of a shape: those of the table by the same name, and for the others the expressions given.

    What is left out is not read: who runs the query gives it.
    """
    return tuple(
        expressions[name].label(name) if name in expressions else table.c[name]
        for name in shape.__annotations__
        if name not in leaving_out
    )


def all_rows(
    connection: Connection,
    shape: type[Shape],
    query: Executable | Prepared,
    parameters: Mapping[str, Any] | None = None,
    given: Mapping[str, Any] | None = None,
) -> list[Shape]:
    """Run a query and return its rows as dicts; what the shape has beside the columns is given, the same for all."""
    if isinstance(query, Prepared):
        return query.dicts(connection, shape, parameters or {}, given or {})
    return _dicts(shape, connection.execute(query, parameters), given or {})[1]


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
    return query.first_after(connection, shape, parameters, before)


def page_rows(
    connection: Connection,
    shape: type[Shape],
    query: Select[Any] | Prepared,
    limit: int,
    parameters: Mapping[str, Any],
    given: Mapping[str, Any] | None = None,
) -> tuple[list[Shape], int | None]:
    """Run an ordered query whose first column is its key, and return a page and the key of its last row.

    The key is None where nothing follows the page. A prepared query is limited to `PAGE_SIZE` rows by itself.
    """
    if isinstance(query, Prepared):
        sized = {**parameters, PAGE_SIZE.key: limit + 1}
        rows, page = query.dicts_after(connection, shape, sized, given or {})
    else:
        rows, page = _dicts(shape, connection.execute(query.limit(limit + 1), parameters), given or {})
    return page[:limit], rows[limit - 1][0] if len(rows) > limit else None


def _dicts(shape: type[Shape], result: Result[Any], given: Mapping[str, Any]) -> tuple[Sequence[Any], list[Shape]]:
    rows = result.fetchall()
    return rows, row_maker(tuple(shape.__annotations__), tuple(result.keys()))(rows, **given)
