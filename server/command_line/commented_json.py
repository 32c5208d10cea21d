"""JSON as people keep it in their settings, with comments and a comma at an end: read with the place of each value.

So a new value can be written into that place, and all the rest stays as it is (`rewriting`).
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

_SPACE = re.compile(r"[ \t\r\n\ufeff]+|(?P<line>//[^\n]*)|/\*.*?\*/", re.DOTALL)
_SCALAR = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null')
_CLOSES = {"{": "}", "[": "]"}


class NotJson(ValueError):
    """What stands at `line` is no JSON."""

    def __init__(self, line: int) -> None:
        super().__init__(f"line {line}")
        self.line = line


@dataclass(slots=True)
class Place:
    """A value and where it stands; what an object or an array holds, each with its key and the comma that follows."""

    value: Any
    start: int
    end: int = 0
    children: "list[Child]" = field(default_factory=list)


@dataclass(slots=True)
class Child:
    """A value within another: `start` is that of its key, where it has one, and `comma` the place of that, or -1."""

    key: str
    start: int
    place: Place
    comma: int = -1


@dataclass(frozen=True, slots=True)
class Document:
    """A text, what it says, and where in it comments stand that end with their line."""

    text: str
    root: Place
    line_comments: list[range]


def parse(text: str) -> Document:
    """Read a text; raises NotJson."""
    reader = _Reader(text)
    return Document(text, reader.read(), reader.line_comments)


class _Reader:
    def __init__(self, text: str) -> None:
        self.line_comments: list[range] = []
        self._text = text
        self._at = 0

    def read(self) -> Place:
        try:
            self._skip()
            place = self._value()
            self._skip()
        except RecursionError:
            raise self._wrong() from None
        if self._at < len(self._text):
            raise self._wrong()
        return place

    def _value(self) -> Place:
        if self._next() in _CLOSES:
            return self._container()
        found = _SCALAR.match(self._text, self._at)
        if found is None:
            raise self._wrong()
        try:
            place = Place(json.loads(found[0]), found.start(), found.end())
        except ValueError:
            raise self._wrong() from None
        self._at = found.end()
        return place

    def _container(self) -> Place:
        opening = self._next()
        place = Place({} if opening == "{" else [], self._at)
        self._at += 1
        self._skip()
        while self._next() != _CLOSES[opening]:
            if place.children and place.children[-1].comma < 0:
                raise self._wrong()
            place.children.append(child := self._child(has_key=opening == "{"))
            if opening == "{":
                place.value[child.key] = child.place.value
            else:
                place.value.append(child.place.value)
            self._skip()
            if self._next() == ",":
                child.comma = self._at
                self._at += 1
                self._skip()
        self._at += 1
        place.end = self._at
        return place

    def _child(self, *, has_key: bool) -> Child:
        start, key = self._at, ""
        if has_key:
            key = self._value().value
            self._skip()
            if not isinstance(key, str) or self._next() != ":":
                raise self._wrong()
            self._at += 1
            self._skip()
        return Child(key, start, self._value())

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip(self) -> None:
        while (found := _SPACE.match(self._text, self._at)) is not None:
            self._at = found.end()
            if found["line"] is not None:
                self.line_comments.append(range(found.start(), found.end() + 1))

    def _wrong(self) -> NotJson:
        return NotJson(self._text.count("\n", 0, self._at) + 1)
