"""Turns: what a window says, in a form of which every provider's shape is made, with whatever is broken repaired.

A turn is a message with the calls it asked for, each with its result; so no window can separate them. Repairs are made
here, in the view, and each leaves a note in square brackets: a call without a record, a record without the message that
asked for it, an outcome that is not known, a text that was cut. Storage is never touched.
"""

import json
import re
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Literal

from models.inputs import Kind, ToolStatus

Role = Literal["system", "user", "assistant"]

# OpenAI refuses longer call ids (40) and tool names (64); Anthropic's pattern is the same.
_VALID_ID = re.compile(r"[a-zA-Z0-9_-]{1,40}\Z")
_VALID_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")
_ENDS: dict[ToolStatus, str] = {
    "success": "",
    "error": "[This call failed.]",
    "cancelled": "[This call was cancelled.]",
    "unknown": "[How this call ended is not known: it may have run, or not.]",
}
_UNNAMED = "unnamed_tool"


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A text, or its beginning; `length` counts the characters of the whole."""

    text: str
    length: int

    @property
    def is_cut(self) -> bool:
        """Tell whether it is only the beginning."""
        return len(self.text) < self.length

    def cut(self, limit: int) -> "Excerpt":
        """Return no more than so many characters of it."""
        return Excerpt(self.text[:limit], self.length)

    def shown(self, seq: int) -> str:
        """Return the text, with a note where it is only the beginning of an entry's."""
        if not self.is_cut:
            return self.text
        return f"{self.text}\n[Cut: {len(self.text)} of {self.length} characters; {how_to_read(seq)}.]"


NOTHING = Excerpt("", 0)


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call with its result; `seq` is that of its record, or None where there is none.

    `arguments` and `result` are JSON, `result` empty where there was none; a result that only a message held is plain
    text. `read_seq` is the entry that has the whole. `id` and `name` are the ones to show: those that were given where
    every provider takes them.
    """

    seq: int | None
    read_seq: int
    given_id: str | None
    given_name: str | None
    arguments: Excerpt
    result: Excerpt
    error: Excerpt
    status: ToolStatus
    result_is_text: bool = False
    id: str = ""
    name: str = ""

    @property
    def is_error(self) -> bool:
        """Tell whether it ended in any way but well."""
        return self.status != "success"

    def arguments_object(self) -> dict[str, Any]:
        """Return the arguments; where they are cut, an object that holds their beginning and says so."""
        if self.arguments.is_cut:
            return {"cut_arguments": self.arguments.shown(self.read_seq)}
        found: dict[str, Any] = json.loads(self.arguments.text)
        return found

    def result_value(self) -> Any:
        """Return the JSON value of the result; where it is cut, text that says so."""
        if self.result.is_cut or self.result_is_text:
            return self.result.shown(self.read_seq)
        return json.loads(self.result.text) if self.result.text else None

    def outcome(self) -> str:
        """Return what came of it as text that is never empty."""
        value = self.result_value()
        result = value if isinstance(value, str) else self.result.text if value is not None else ""
        texts = (self.note(), self.error.shown(self.read_seq), result)
        return "\n".join(text for text in texts if text.strip()) or "[The result is empty.]"

    def note(self) -> str:
        """Return what is to be said of how it ended, or nothing."""
        if self.seq is None and self.status == "unknown":
            return f"[No record of this call of entry {self.read_seq} here: still running, or never logged.]"
        return _ENDS[self.status]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one role says at `seq`, and the calls it asks for; `seqs` are all the entries that it stands for.

    `read_seq` is the entry whose text it is, another than `seq` where that was corrected. `given_role` is the role as
    recorded, `heading` says what the turn is where its role does not, and `note` what is not shown of it.
    """

    seq: int
    role: Role
    kind: Kind = "message"
    text: Excerpt = NOTHING
    reasoning: Excerpt = NOTHING
    given_role: str = ""
    heading: str = ""
    note: str = ""
    calls: tuple[Call, ...] = ()
    seqs: frozenset[int] = field(default=frozenset())
    read_seq: int = 0

    def said(self) -> str:
        """Return its text with its notes; empty only where it has calls."""
        texts = [self.heading, self.note, self.text.shown(self.read_seq)]
        said = "\n".join(text for text in texts if text.strip())
        return said or ("" if self.calls else f"[Entry {self.seq} has no text to show.]")

    def shortened(self, limit: int) -> "Turn":
        """Return it with at most so many characters of any of its texts."""
        calls = tuple(
            replace(
                call,
                arguments=call.arguments.cut(limit),
                result=call.result.cut(limit),
                error=call.error.cut(limit),
            )
            for call in self.calls
        )
        return replace(self, text=self.text.cut(limit), reasoning=self.reasoning.cut(limit), calls=calls)

    @property
    def longest(self) -> int:
        """The characters of its longest text."""
        texts = [self.text, self.reasoning]
        for call in self.calls:
            texts += [call.arguments, call.result, call.error]
        return max(len(text.text) for text in texts)

    @property
    def cut_seqs(self) -> set[int]:
        """The entries of which it shows only a part."""
        own = {self.read_seq} if self.text.is_cut or self.reasoning.is_cut else set()
        return own | {
            call.read_seq for call in self.calls if call.arguments.is_cut or call.result.is_cut or call.error.is_cut
        }


def how_to_read(seq: int) -> str:
    """Return how an entry is read whole."""
    return f"get_session_history with entry_seq={seq} reads it whole"


def with_names(turns: list[Turn]) -> list[Turn]:
    """Return the turns with the id and name under which each call is shown: valid everywhere, and no id twice."""
    calls = [call for turn in turns for call in turn.calls]
    given_ids = {call.given_id for call in calls}
    names = _names({call.given_name or _UNNAMED for call in calls})
    taken: set[str] = set()

    def named(call: Call) -> Call:
        shown = call.given_id or ""
        if not _VALID_ID.match(shown) or shown in taken:
            # A given id is left to the call that it was given to.
            number = 0
            shown = f"call_{call.read_seq}"
            while shown in taken or shown in given_ids:
                number += 1
                shown = f"call_{call.read_seq}_{number}"
        taken.add(shown)
        return replace(call, id=shown, name=names[call.given_name or _UNNAMED])

    return [replace(turn, calls=tuple(map(named, turn.calls))) if turn.calls else turn for turn in turns]


def _names(given: set[str]) -> dict[str, str]:
    names = {name: name for name in given if _VALID_NAME.match(name)}
    for name in sorted(given - names.keys()):
        shown = _NOT_IN_NAMES.sub("_", name)[:64]
        if shown in names.values():
            shown = f"{shown[:55]}_{blake2b(name.encode(), digest_size=4).hexdigest()}"
        names[name] = shown
    return names
