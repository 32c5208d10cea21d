"""Lines of bytes, whole or too large to be kept, and the id that a frame shows where it cannot be parsed."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

_KEPT_TAIL = 4_096
_SPACES = 64
# A string that is never closed is one token to the end, and no token is looked at twice: the scan takes time in
# proportion to the frame, whatever it holds.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[{}\[\]]', re.DOTALL)
_ID = rb'("(?:[^"\\]|\\.){0,200}"|-?\d{1,20})'
_ID_VALUE = re.compile(rb"\s*:\s*" + _ID + rb"(?=\s*[,}])")
_ID_AT_END = re.compile(rb'[{,]\s*"id"\s*:\s*' + _ID + rb"\s*\}\s*$")


@dataclass(frozen=True, slots=True)
class Oversized:
    """A frame that was too large to be kept: its beginning, its end, and how large it was."""

    head: bytes
    tail: bytes
    size: int

    def __len__(self) -> int:
        return self.size


class Lines:
    """Puts lines together from chunks: one of more than `limit` bytes comes as Oversized, an empty one not at all.

    `position` is where the line that was given last begins: so many bytes came before it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._next = 0
        self.position = 0
        self._begin()

    def feed(self, chunk: bytes) -> Iterator[bytes | Oversized]:
        """Take a chunk and give the lines that end in it."""
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            self._add(line)
            yield from self.end()
            self._next += 1
        if rest:
            self._add(rest)

    def end(self) -> Iterator[bytes | Oversized]:
        """End the line here, and give it."""
        parts, size, tail = self._parts, self._size, self._tail
        self.position, self._next = self._next, self._next + size
        self._begin()
        if size > self._limit:
            yield Oversized(b"".join(parts), tail, size)
        elif line := b"".join(parts).strip():
            yield line

    def skip(self, size: int) -> None:
        """Take note of bytes that are not fed."""
        self._next += size

    @property
    def is_oversized(self) -> bool:
        """Tell whether the line so far is larger than is kept."""
        return self._size > self._limit

    def _begin(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._tail = b""

    def _add(self, piece: bytes) -> None:
        self._parts.append(piece[: max(self._limit - self._size, 0)])
        self._size += len(piece)
        self._tail = (self._tail + piece[-_KEPT_TAIL:])[-_KEPT_TAIL:]


def find_id(head: bytes, tail: bytes = b"") -> str | int | None:
    """Return the id of a frame that cannot be parsed, or None where it shows none."""
    end = find_member(head, b'"id"')
    if end is not None:
        value = _ID_VALUE.match(head, end)
        return None if value is None else _id_of(value.group(1))
    found = _ID_AT_END.search(tail)
    return None if found is None else _id_of(found.group(1))


def find_member(head: bytes, name: bytes, level: int = 1) -> int | None:
    """Return where the name of a member ends, in a frame that cannot be parsed; the frame's own are of level 1."""
    depth = 0
    for token in _TOKEN.finditer(head):
        mark = token.group()
        if mark in (b"{", b"["):
            depth += 1
        elif mark in (b"}", b"]"):
            depth -= 1
        elif depth == level and mark == name and _begins_a_member(head, token.start()):
            return token.end()
    return None


def find_text(head: bytes, name: bytes, level: int = 1) -> str | None:
    """Return the text that stands under a name, in a frame that cannot be parsed."""
    end = find_member(head, name, level)
    value = None if end is None else _ID_VALUE.match(head, end)
    found = None if value is None else _id_of(value.group(1))
    return found if isinstance(found, str) else None


def _begins_a_member(frame: bytes, position: int) -> bool:
    before = frame[max(position - _SPACES, 0) : position].rstrip()
    return before.endswith((b"{", b","))


def _id_of(literal: bytes) -> str | int | None:
    try:
        value: str | int = json.loads(literal)
        json.dumps(value, ensure_ascii=False).encode()
    except ValueError:
        return None
    return value
