"""Text that is changed where what it says changes, and nowhere else."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from server.command_line.commented_json import Document, Place


@dataclass(frozen=True, slots=True)
class _Edit:
    start: int
    end: int
    text: str = ""


def rewritten(document: Document, value: Any) -> str:
    """Return the text of another value; what is equal in both stands as it was, to the byte, comments too."""
    text = document.text
    edits = _Writer(document).edits(document.root, value)
    for edit in sorted(edits, key=lambda each: (each.start, each.end), reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


class _Writer:
    def __init__(self, document: Document) -> None:
        self._text = document.text
        self._line_comments = document.line_comments
        self._line_end = "\r\n" if "\r\n" in self._text else "\n"
        indented = re.search(r"\n([ \t]+)\S", self._text)
        self._indent = indented[1] if indented else "  "

    def edits(self, place: Place, value: Any) -> list[_Edit]:
        """Return what makes this value of what stands there."""
        if _same(place.value, value):
            return []
        if isinstance(value, dict) and isinstance(place.value, dict) and len(place.value) == len(place.children):
            return self._edits_of_object(place, value)
        if isinstance(value, list) and isinstance(place.value, list):
            more, fewer = len(value) - len(place.value), len(place.value) - len(value)
            if more > 0 and place.children and _same(value[more:], place.value):
                return [self._first_items(place, value[:more])]
            if fewer > 0 and value and _same(place.value[fewer:], value):
                return [_Edit(place.children[0].start, place.children[fewer].start)]
        return [_Edit(place.start, place.end, self._written(value, place))]

    def _edits_of_object(self, place: Place, value: dict[str, Any]) -> list[_Edit]:
        children, edits = place.children, list[_Edit]()
        last = max((number for number, child in enumerate(children) if child.key in value), default=-1)
        for number, child in enumerate(children):
            is_kept = child.key in value
            if is_kept:
                edits += self.edits(child.place, value[child.key])
            else:
                edits.append(_Edit(self._space_before(child.start), child.place.end))
            # What stays are the commas between those that are kept, and one at the end where there was one.
            is_needless = last < 0 or (number < last and not is_kept) or last <= number < len(children) - 1
            if is_needless and child.comma >= 0:
                edits.append(_Edit(child.comma, child.comma + 1))
        added = {key: inner for key, inner in value.items() if key not in place.value}
        if added:
            edits.append(self._new_members(place, children[last].place if last >= 0 else None, added))
        return edits

    def _new_members(self, place: Place, last: Place | None, added: dict[str, Any]) -> _Edit:
        gap = self._gap(place)
        separator = f",{gap or ' '}"
        beside = place.children[0].place if place.children else place
        members = separator.join(f"{_dumped(key)}: {self._written(inner, beside)}" for key, inner in added.items())
        if last is None:
            return _Edit(place.start + 1, place.start + 1, gap + members)
        return _Edit(last.end, last.end, separator + members)

    def _first_items(self, place: Place, items: Sequence[Any]) -> _Edit:
        first, gap = place.children[0].place, self._gap(place) or " "
        return _Edit(first.start, first.start, "".join(f"{self._written(item, first)},{gap}" for item in items))

    def _gap(self, place: Place) -> str:
        """Return what stands before the first child: a line's end and indentation, a space, or nothing."""
        if not place.children:
            return ""
        before = self._text[place.start + 1 : place.children[0].start]
        lines = re.findall(r"\r?\n[ \t]*", before)
        return lines[-1] if lines else " " if before else ""

    def _space_before(self, start: int) -> int:
        end = len(self._text[:start].rstrip(" \t\r\n"))
        # The line's end belongs to a comment that it ends.
        return start if any(end in comment for comment in self._line_comments) else end

    def _written(self, value: Any, beside: Place) -> str:
        """Write a value as deep as one that begins its line, or on one line where that does not."""
        line = self._text[self._text.rfind("\n", 0, beside.start) + 1 : beside.start]
        depth = line[: len(line) - len(line.lstrip(" \t"))]
        if isinstance(value, list) or not re.fullmatch(r'[ \t]*("[^"]*"[ \t]*:[ \t]*)?', line):
            return _dumped(value)
        lines = json.dumps(value, ensure_ascii=False, indent=self._indent).split("\n")
        return (self._line_end + depth).join(lines)


def _same(one: Any, other: Any) -> bool:
    # 1, 1.0 and true are equal, and not the same.
    return bool(one == other) and _dumped(one) == _dumped(other)


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
