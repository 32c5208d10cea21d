"""What a benchmark found: small tables for people, and named ratios to hold against what must be reached."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from benchmarks.measure import Timings

Cell = str | float | None


class Column(NamedTuple):
    """A column of figures: its heading, and how many digits follow the point."""

    name: str
    digits: int = 0


@dataclass(frozen=True)
class Table:
    """A table: the first cell of a row says what was taken, the others are figures."""

    title: str
    columns: tuple[Column, ...]
    rows: list[list[Cell]] = field(default_factory=list)

    def to_text(self) -> str:
        """Write it for a terminal."""
        widths = [max(map(len, cells)) for cells in zip(*self._lines(), strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if index else cell.ljust(width)
                for index, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in self._lines()
        ]
        return "\n".join([self.title, *(f"  {line}" for line in lines)])

    def to_markdown(self) -> str:
        """Write it for a page."""
        heading, *rows = [f"| {' | '.join(line)} |" for line in self._lines()]
        rule = f"|{'---|' + '--:|' * len(self.columns)}"
        return "\n".join([f"{self.title}:", "", heading, rule, *rows])

    def _lines(self) -> list[list[str]]:
        return [["", *(column.name for column in self.columns)], *map(self._line, self.rows)]

    def _line(self, row: Sequence[Cell]) -> list[str]:
        name, *cells = row
        return [str(name), *(shown(cell, column.digits) for cell, column in zip(cells, self.columns, strict=True))]


@dataclass(frozen=True)
class Report:
    """The tables of a topic, and its ratios by the names that `benchmarks.targets` knows."""

    tables: list[Table] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)


def shown(cell: Cell, digits: int) -> str:
    """Write one cell."""
    if cell is None:
        return "–"
    return cell if isinstance(cell, str) else f"{cell:,.{digits}f}"


def timings_table(title: str, timings: Mapping[str, Timings], floors: Mapping[str, str]) -> Table:
    """Make a table of microseconds; `floors` names for each row the row that its ratio is to."""
    columns = Column("median µs"), Column("p95 µs"), Column("p99 µs"), Column("× floor", 2)
    table = Table(title, columns)
    for name, taken in timings.items():
        table.rows.append([name, *microseconds(taken), taken.over(timings[floors[name]])])
    return table


def microseconds(taken: Timings) -> list[float]:
    """Return median, p95 and p99."""
    return [value * 1e6 for value in (taken.median, taken.percentile(95), taken.percentile(99))]
