"""Results: structured content and text, both made of one plain dict.

Some clients hand the model only the structured content, some only the text, so each carries all that the other does. A
null is left out of both. Results are bounded: what does not fit is counted, and said how to get.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import pydantic_core

from models.text import to_json

MAX_CHARACTERS = 20_000
"""What one result may hold, as text or as JSON: about five thousand tokens, which every client takes whole."""

_SHORTEST_PREVIEW = 8
_PLAIN = re.compile(r"[\w:.+-]+")
"""Text that stands alone: letters, digits and what names and times have between them."""
_LINE_ENDS = "\x85\u2028\u2029"
_ESCAPED = {ord(each): f"\\u{ord(each):04x}" for each in _LINE_ENDS}

Shape = TypeVar("Shape")


@dataclass(frozen=True, slots=True)
class Reply(Generic[Shape]):
    """What a tool answers: the structured content, and the same as one or more texts.

    `is_final` where it would be answered like this for ever, so that a client may keep it; `is_error` where it tells of
    a failure.
    """

    structured: dict[str, Any]
    texts: tuple[str, ...]
    is_final: bool = False
    is_error: bool = False


class Shown(NamedTuple):
    """An item of a result: its fields, the same as text, and how many characters the fields have as JSON."""

    fields: dict[str, Any]
    text: str
    json_length: int


def reply(structured: Mapping[str, Any], *texts: str) -> Reply[Any]:
    """Return a reply; without texts of its own, the text is the fields, one after the other."""
    kept = without_nulls(structured)
    return Reply(kept, texts or (to_line(kept),))


def without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that have a value."""
    return {name: inner for name, inner in value.items() if inner is not None}


def to_line(fields: Mapping[str, Any]) -> str:
    """Write fields on one line: name=value, text in quotes where it would not stand alone."""
    return " ".join(f"{name}={to_value(inner)}" for name, inner in fields.items() if inner is not None)


def to_lines(heading: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> str:
    """Write a heading and a line for each item."""
    return "\n".join([to_line(heading), *(f"- {to_line(item)}" for item in items)])


def shorten(text: str | None, limit: int) -> str | None:
    """Return at most so many characters, marked where some were left out."""
    if text is None or len(text) <= limit:
        return text
    return text[: limit - 1] + "…"


def bounded(make: Callable[[int], Reply[Any]], longest: int) -> Reply[Any]:
    """Return the reply that is made with the longest previews that fit into one result."""
    while True:
        made = make(longest)
        size = max(sum(map(len, made.texts)), len(to_json(made.structured)))
        if size <= MAX_CHARACTERS or longest <= _SHORTEST_PREVIEW:
            return made
        longest //= 2


def take_fitting(items: Iterable[Shown], room: int = MAX_CHARACTERS - 2_000) -> list[Shown]:
    """Take as many items as fit into one result both as text and as JSON, and look at no more than one beyond them."""
    fitting: list[Shown] = []
    as_text = as_json = 0
    for item in items:
        as_text += len(item.text) + 1
        as_json += item.json_length + 1
        if as_text > room or as_json > room:
            break
        fitting.append(item)
    return fitting


def json_length(fields: Mapping[str, Any]) -> int:
    """Return how many characters fields have as JSON."""
    # Twice as fast as the standard library's, and equal but for how some floats are written.
    written = pydantic_core.to_json(fields)
    return len(written) if written.isascii() else len(written.decode())


def to_value(value: Any) -> str:
    """Write one value: text in quotes where it would not stand alone."""
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) else _quoted(value)
    return str(value) if type(value) is int else on_one_line(to_json(value))


def on_one_line(written: str) -> str:
    """Return JSON with those line ends escaped that JSON leaves as they are."""
    if written.isascii() or not any(each in written for each in _LINE_ENDS):
        return written
    return written.translate(_ESCAPED)


def _quoted(text: str) -> str:
    return on_one_line(json.dumps(text, ensure_ascii=False))
