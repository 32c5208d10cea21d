"""Steps: a long piece of work is done in transactions that each hold the writer's lock for a moment only.

Deleting 100,000 rows in one transaction held it for 1.8 seconds, and taking the words of 1,000 entries out of a large
index for as long. A step ends after so many rows or characters, whichever comes first; counted rather than timed, so
that a unit of work does the same each time it is run (docs/decisions/deletion.md).
"""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Table, Text, cast, func, literal

BATCH = 50
"""So many rows are looked at before the step's end is looked at again."""

_CHARACTERS_OF_MARKS = 100
"""What the shortest entry counts for in the index: whose it is, its session and its role are indexed with its words."""

_LONG = ("content", "parts", "message_metadata", "arguments", "result", "error")


@dataclass(slots=True)
class Step:
    """What is left to do of one step."""

    rows: int = 1_000
    characters: int = 4_000_000
    indexed_characters: int = 10_000

    @property
    def is_over(self) -> bool:
        """Tell whether nothing more is to be done in this transaction."""
        return self.rows <= 0 or self.characters <= 0 or self.indexed_characters <= 0

    def spend(self, rows: int, characters: int = 0) -> None:
        """Count what was done."""
        self.rows -= rows
        self.characters -= characters

    def spend_indexed(self, characters: int) -> None:
        """Count an entry whose words were taken out of the index."""
        self.indexed_characters -= characters + _CHARACTERS_OF_MARKS


def size_of(entries: Table) -> ColumnElement[int]:
    """Return the characters of all that may be long in an entry."""
    size: ColumnElement[int] = literal(0)
    for name in _LONG:
        if name in entries.c:
            size = size + func.coalesce(func.length(cast(entries.c[name], Text)), 0)
    return size
