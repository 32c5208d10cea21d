"""Statements of the hot paths: compiled once, and run on the driver's own connection.

SQLAlchemy's work for each execution (a context, a result with its metadata) costs more than SQLite's own work for an
append. What a statement needs of it, the SQL and how values go in and come out, does not change from one execution to
the next, so it is asked for once (docs/decisions/prepared-statements.md).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from sqlalchemy import ClauseElement, Connection, Dialect, Table, bindparam, func, insert

from models.row_maker import Convert, row_maker

_Make = Callable[..., list[Any]]


def listed(name: str) -> Any:
    """Return a parameter for a list, written as JSON, so that a statement is the same for any number of values."""
    return func.json_each(bindparam(name)).table_valued("value").c.value


class Prepared:
    """A statement whose parameters are all named, and none of them a list.

    A parameter that is missing raises KeyError; the driver's errors pass as they are (`models.sqlite` knows them).
    """

    def __init__(self, statement: ClauseElement) -> None:
        self._statement = statement
        self._sql = ""
        self._names: list[str] = []
        self._constants: dict[str, Any] = {}
        self._columns: tuple[str, ...] = ()
        self._in: tuple[tuple[int, Convert], ...] = ()
        self._out: tuple[tuple[int, Convert], ...] = ()
        self._makers: dict[type[Any], _Make] = {}

    def rows(self, connection: Connection, parameters: Mapping[str, Any]) -> list[list[Any]]:
        """Run it and return its rows."""
        raw = self._ready(connection)
        rows = [list(row) for row in raw.execute(self._sql, self._values(parameters)).fetchall()]
        for index, convert in self._out:
            for row in rows:
                if row[index] is not None:
                    row[index] = convert(row[index])
        return rows

    def each(self, connection: Connection, parameters: Mapping[str, Any]) -> Iterator[Sequence[Any]]:
        """Run it and give its rows one by one, as they are stored; to be closed where not all of them are read."""
        raw = self._ready(connection)
        with closing(raw.execute(self._sql, self._values(parameters))) as cursor:
            yield from cursor

    def dicts(
        self, connection: Connection, shape: type[Any], parameters: Mapping[str, Any], given: Mapping[str, Any]
    ) -> list[Any]:
        """Run it and return its rows as dicts of a shape; what the shape has beside the columns is given."""
        return self.dicts_after(connection, shape, parameters, given)[1]

    def dicts_after(
        self, connection: Connection, shape: type[Any], parameters: Mapping[str, Any], given: Mapping[str, Any]
    ) -> tuple[Sequence[Any], list[Any]]:
        """Run it and return its rows, as they are stored, and as dicts of a shape."""
        raw = self._ready(connection)
        rows = raw.execute(self._sql, self._values(parameters)).fetchall()
        return rows, self._maker(shape)(rows, **given) if rows else []

    def first_after(
        self, connection: Connection, shape: type[Any], parameters: Mapping[str, Any], before: int
    ) -> tuple[Sequence[Any], Any] | None:
        """Run it and return the first columns, so many, of the first row as they are stored, and its dict; or None."""
        raw = self._ready(connection)
        rows = raw.execute(self._sql, self._values(parameters)).fetchall()
        return (rows[0][:before], self._maker(shape)(rows[:1])[0]) if rows else None

    def first(self, connection: Connection, parameters: Mapping[str, Any]) -> list[Any] | None:
        """Run it and return the first row, or None."""
        rows = self.rows(connection, parameters)
        return rows[0] if rows else None

    def run(self, connection: Connection, *rows: Mapping[str, Any]) -> None:
        """Run it once for each mapping of parameters."""
        raw = self._ready(connection)
        if len(rows) == 1:
            raw.execute(self._sql, self._values(rows[0]))
        else:
            raw.executemany(self._sql, map(self._values, rows))

    def _ready(self, connection: Connection) -> Any:
        if not self._sql:
            self._compile(connection.dialect)
        return connection.connection.dbapi_connection

    def _maker(self, shape: type[Any]) -> _Make:
        make = self._makers.get(shape)
        if make is None:
            make = self._makers[shape] = row_maker(tuple(shape.__annotations__), self._columns, self._out)
        return make

    def _values(self, parameters: Mapping[str, Any]) -> Sequence[Any]:
        given = {**self._constants, **parameters} if self._constants else parameters
        values = [given[name] for name in self._names]
        for index, convert in self._in:
            if values[index] is not None:
                values[index] = convert(values[index])
        return values

    def _compile(self, dialect: Dialect) -> None:
        compiled: Any = self._statement.compile(dialect=dialect)
        self._names = list(compiled.positiontup)
        self._constants = {name: each.value for name, each in compiled.binds.items() if not each.required}
        types = [compiled.binds[name].type for name in self._names]
        self._in = _conversions(each.dialect_impl(dialect).bind_processor(dialect) for each in types)
        selected: Any = getattr(self._statement, "exported_columns", {})
        self._columns = tuple(selected.keys())
        processors = (each.type.dialect_impl(dialect).result_processor(dialect, None) for each in selected)
        self._out = _conversions(processors)
        # Last: another reader's thread may be looking.
        self._sql = str(compiled)


class PreparedInsert:
    """Inserts rows into a table; a column that is None in all of them is left out of the statement.

    Most columns of most rows are, and to bind a NULL costs the driver more than all other values of a row.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._statements: dict[tuple[str, ...], Prepared] = {}

    def run(self, connection: Connection, *rows: Mapping[str, Any]) -> None:
        """Insert rows of the same columns, in this order."""
        given = {name for row in rows for name, value in row.items() if value is not None}
        names = tuple([name for name in rows[0] if name in given])
        statement = self._statements.get(names)
        if statement is None:
            statement = Prepared(insert(self._table).values({name: bindparam(name) for name in names}))
            self._statements[names] = statement
        statement.run(connection, *rows)


def _conversions(processors: Iterable[Convert | None]) -> tuple[tuple[int, Convert], ...]:
    return tuple((index, convert) for index, convert in enumerate(processors) if convert is not None)
