"""The lines of a file, as far as they are whole, and the items of a JSON array, one at a time.

A file that a client is writing ends in a torn line as often as not: such a line waits until it is whole. No line and no
item is read that is larger than any real one.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple, TextIO

from chat_service.transcripts.neutral import Source
from chat_service.transcripts.storable import parse

MAX_RECORD = 64 * 1024 * 1024
"""So many characters one record may have."""

UNREADABLE = "unreadable line"
NO_UTF8 = "line that is no UTF-8"
TOO_LARGE = "line too large"
TORN = "torn last line"

_PIECE = 1024 * 1024
_OUTSIDE = re.compile(r'["{}\[\],]')
_INSIDE = re.compile(r'["\\]')


def objects_of(source: Source, longest: int = MAX_RECORD) -> Iterator[tuple[dict[str, Any], str]]:
    """Read the JSON object of each line, with its text; what is none is counted, and a torn last line waits."""
    for value, text in lines_of(source, longest):
        if isinstance(value, str):
            source.unreadable[value] += 1
        else:
            yield value, text


def lines_of(source: Source, longest: int = MAX_RECORD) -> Iterator[tuple[dict[str, Any] | str, str]]:
    """Read the JSON object of each line, or what kind of line it is that holds none, with its text.

    The text of a line that is neither JSON nor UTF-8 has a character for each byte (Latin-1), so that it can be kept.
    """
    for line in _lines_of(source.file, longest):
        text = line.text and _readable(line.text)
        value = None if text is None else parse(text)
        if value is not None and text is not None:
            yield value, text
        elif line.is_last:
            source.waiting[TORN] += 1
        elif line.text is None:
            source.unreadable[TOO_LARGE] += 1
        else:
            kept = as_it_stands(line.text)
            yield (UNREADABLE if kept == line.text else NO_UTF8), kept


def as_it_stands(text: str) -> str:
    """Return a text that was read as UTF-8 as it can be kept: where it is none, with a character for each byte."""
    return text if _readable(text) == text else text.encode(errors="surrogateescape").decode("latin-1")


def _readable(text: str) -> str:
    """Return a text with what stands for undecodable bytes replaced."""
    return text if text.isascii() else text.encode(errors="surrogateescape").decode(errors="replace")


class _Line(NamedTuple):
    """A line without its end; `is_last` where the file ends without ending it. `text` is None where it is too large."""

    text: str | None
    is_last: bool


def _lines_of(file: TextIO, longest: int) -> Iterator[_Line]:
    """Read the lines that are not blank."""
    while piece := file.readline(longest):
        if len(piece) == longest and not piece.endswith("\n"):
            while piece and not piece.endswith("\n"):
                piece = file.readline(longest)
            yield _Line(None, is_last=False)
            continue
        text = piece.removeprefix("\ufeff").strip()
        if text:
            yield _Line(text, is_last=not piece.endswith("\n"))


def items_of(file: TextIO) -> Iterator[str | None]:
    """Read the text of each item of the array that the file holds; None is an item that is too large or torn.

    Only brackets and strings are looked at: an item that is no JSON comes as it is. Raises ValueError where the file
    does not begin as an array does.
    """
    scan = _Scan()
    while piece := file.read(_PIECE):
        yield from scan.take(piece)
    if not scan.is_closed:
        yield None


class _Scan:
    """Where in an array we are, after so many characters."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._skip = 0
        self._held: list[str] = []
        self._size = 0
        self.is_closed = False

    def take(self, piece: str) -> Iterator[str | None]:
        """Read on, and return the items that are whole now."""
        start = at = self._skip
        self._skip = 0
        if self._depth == 0 and not self.is_closed:
            stripped = piece.removeprefix("\ufeff").lstrip()
            if not stripped:
                return
            if not stripped.startswith("["):
                raise ValueError("is not a JSON array")
            start = at = len(piece) - len(stripped) + 1
            self._depth = 1
        elif start:
            self._hold(piece[:start])
        while not self.is_closed:
            found = (_INSIDE if self._in_string else _OUTSIDE).search(piece, at)
            if found is None:
                break
            at = self._step(found)
            self.is_closed = self._depth == 0
            if self.is_closed or (self._depth == 1 and found[0] == ","):
                self._hold(piece[start : found.start()])
                start = at
                item = self._whole()
                if item != "":
                    yield item
        if not self.is_closed:
            self._hold(piece[start:])
            # What follows a backslash may stand in the next piece.
            self._skip = max(at - len(piece), 0)

    def _step(self, found: re.Match[str]) -> int:
        mark, after = found[0], found.end()
        if mark == '"':
            self._in_string = not self._in_string
        elif mark == "\\":
            # What follows a backslash says nothing.
            after += 1
        elif mark in "{[":
            self._depth += 1
        elif mark in "}]":
            self._depth -= 1
        return after

    def _hold(self, text: str) -> None:
        self._size += len(text)
        if self._size <= MAX_RECORD:
            self._held.append(text)
        else:
            self._held.clear()

    def _whole(self) -> str | None:
        text, size = "".join(self._held).strip(), self._size
        self._held, self._size = [], 0
        return text if size <= MAX_RECORD else None
