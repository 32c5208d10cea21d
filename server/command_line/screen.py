"""How a conversation looks in a terminal: what was said, the answer as it grows, each tool call on a line."""

import sys
from collections.abc import Sequence
from typing import Any, TextIO

from models.shapes import MessageDict, SessionDict, ToolUsageDict
from models.text import to_json
from server.command_line.terminal import Growing, in_one_line, printable

_LONGEST_LINE = 100
_CUT = 1_000
_DIM, _BOLD, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"


class Screen:
    """Shows a conversation; a terminal that has gone is shown nothing, and is no error."""

    def __init__(self, out: TextIO | None = None, *, is_coloured: bool = False) -> None:
        self._out = out or sys.stdout
        self._is_coloured = is_coloured
        self._growing = Growing()
        self._at_start = True

    def grow(self, text: str) -> None:
        """Show more of the answer."""
        self._write(self._growing.more(text))

    def end_line(self) -> None:
        """Let what comes next begin on a line of its own."""
        self._growing = Growing()
        if not self._at_start:
            self._write("\n")

    def calling(self, name: str, arguments: dict[str, Any]) -> None:
        """Show that a tool call begins."""
        self.end_line()
        self._write(self._dim(f"· {_line(f'{name} {to_json(arguments)}')}"))

    def called(self, status: str, duration_ms: float | None) -> None:
        """Show how the call ended."""
        took = "" if duration_ms is None else f", {_duration(duration_ms)}"
        self._write(self._dim(f" → {printable(status)}{took}") + "\n")

    def note(self, text: str) -> None:
        """Show a line of our own."""
        self.end_line()
        self._write(self._dim(printable(text)) + "\n")

    def head(self, session: SessionDict) -> None:
        """Show which session this is."""
        self._write(f"{self._styled(_BOLD, _line(session['title'] or 'Untitled'))}\n")
        self._write(self._dim(f"{session['id']}, {session['last_seq']} entries") + "\n")

    def entries(self, entries: Sequence[MessageDict | ToolUsageDict]) -> None:
        """Show what was said and done before."""
        for entry in entries:
            if "message_type" not in entry:
                self.calling(_named(entry), entry["arguments"])
                self.called(entry["status"], entry["duration_ms"])
            elif (text := _cut(printable(entry["content"]).strip())) and entry["message_type"] == "user":
                self._write(f"\n> {text.replace(chr(10), f'{chr(10)}… ')}\n")
            elif text and entry["message_type"] == "assistant":
                self._write(f"{text}\n")
            elif text:
                self.note(text)

    def _write(self, text: str) -> None:
        if not text:
            return
        self._at_start = text.endswith("\n")
        try:
            self._out.write(text)
            self._out.flush()
        except OSError:
            # The signal that says so ends the program.
            return

    def _dim(self, text: str) -> str:
        return self._styled(_DIM, text)

    def _styled(self, style: str, text: str) -> str:
        return f"{style}{text}{_PLAIN}" if self._is_coloured else text


class CallsAlone(Screen):
    """Shows what is done, and not what is said."""

    def grow(self, text: str) -> None:
        """Leave the answer to those who print it."""


def _named(usage: ToolUsageDict) -> str:
    return usage["tool_name"] if usage["server_name"] is None else f"{usage['server_name']}: {usage['tool_name']}"


def _line(text: str) -> str:
    flat = in_one_line(text)
    return flat if len(flat) <= _LONGEST_LINE else flat[:_LONGEST_LINE] + "…"


def _cut(text: str) -> str:
    return text if len(text) <= _CUT else f"{text[:_CUT]}…"


def _duration(duration_ms: float) -> str:
    return f"{duration_ms:.0f} ms" if duration_ms < 1_000 else f"{duration_ms / 1_000:.1f} s"
