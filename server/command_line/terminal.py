"""What a terminal may be shown of stored text: no escape sequences, no controls, nothing that reorders or hides.

Stored text comes from models and tools; printed as it is, it could move the cursor, set the window's title or show the
reader something other than what is there (CVE-2021-42574 for the bidirectional controls).
"""

import json
import os
import re
import sys
from contextlib import suppress
from datetime import datetime
from typing import Any

_ESCAPE = re.compile(
    r"\x1b(?:"
    r"\[[0-?]*[ -/]*[@-~]"  # control sequences: colours, the cursor
    r"|\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # operating system commands: titles, links
    r"|[PX^_][^\x1b]*(?:\x1b\\)?"  # device control and other strings
    r"|[ -/]*[0-~]?)"
)
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, but for tab and line feed
    "\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u206f\ufeff"  # direction, and what has no width
    "\U000e0000-\U000e007f]"  # tags
)

_OPEN = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]*|[PX^_][^\x1b]*|[ -/]*)\Z")
"""The beginning of an escape sequence at the end of a text."""

_LONGEST_ESCAPE = 4_096


def printable(text: str) -> str:
    """Return the text without what a terminal would obey rather than show; line ends and tabs stay."""
    return _UNSEEN.sub("", _ESCAPE.sub("", text.replace("\r\n", "\n")))


def in_one_line(text: str) -> str:
    """Return the same on one line."""
    return " ".join(printable(text).split())


def local_time(moment: str) -> str:
    """Return a moment in the time of the one who reads, to the minute, where it is one; else as it stands."""
    with suppress(ValueError, OverflowError):
        return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M")
    return moment


def say(text: str) -> None:
    """Print a line of text that may be stored text."""
    sys.stdout.write(printable(text) + "\n")


def say_json(value: Any) -> None:
    """Print a value for programs, on one line, in ASCII."""
    sys.stdout.write(json.dumps(value) + "\n")


def complain(text: str) -> None:
    """Print a line on stderr."""
    sys.stderr.write(f"mcp-chat-server: {printable(text)}\n")


class Growing:
    """Makes text printable that comes in pieces, which may end in the middle of an escape sequence."""

    def __init__(self) -> None:
        self._held = ""

    def more(self, piece: str) -> str:
        """Return what can be shown by now."""
        text = self._held + piece
        start = text.rfind("\x1b")
        is_open = start >= 0 and len(text) - start < _LONGEST_ESCAPE and _OPEN.match(text, start) is not None
        self._held = text[start:] if is_open else ""
        return printable(text[:start] if is_open else text)


def is_coloured() -> bool:
    """Tell whether what is printed may have colours (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
