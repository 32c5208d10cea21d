"""What can be stored of the values in somebody else's transcript; the rest is replaced, and counted.

The formats are their clients' own and change without notice, so odd data is counted and never an error.
"""

import hashlib
import json
import re
from collections import Counter
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from models.inputs import Usage
from models.text import MAX_DEPTH, MAX_INTEGER_BITS, to_json

MAX_NAME = 200
MAX_LINE = 512
MAX_TITLE = 80
MAX_URI = 8192

_COUNTS = {
    "input_tokens": ("input_tokens", "prompt_tokens"),
    "output_tokens": ("output_tokens", "completion_tokens"),
    "cache_read_tokens": ("cache_read_input_tokens", "cached_input_tokens", "cached_tokens"),
    "cache_write_tokens": ("cache_creation_input_tokens", "cache_write_input_tokens", "cache_write_tokens"),
    "reasoning_tokens": ("reasoning_output_tokens", "reasoning_tokens", "thinking_tokens"),
}
"""What the providers and clients call the counts of `Usage`."""

_DETAILS = ("prompt_tokens_details", "completion_tokens_details", "input_tokens_details", "output_tokens_details")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


class Storable:
    """Turns odd values into what can be stored; `left_out` counts what was replaced on the way."""

    def __init__(self, left_out: Counter[str]) -> None:
        self.left_out = left_out

    def name(self, value: Any) -> str | None:
        """Return an id or a name: a long one is shortened so that it stays unique."""
        return short(self.text(value)) or None

    def line(self, value: Any, limit: int = MAX_LINE) -> str | None:
        """Return the beginning of a text, None where there is none."""
        return self.text(value)[:limit] or None

    def title(self, value: Any, limit: int = MAX_TITLE) -> str | None:
        """Return a text on one line, or its beginning up to a word's end with "…", None where there is none."""
        line = " ".join(self.text(value).split())
        if len(line) <= limit:
            return line or None
        words = line[:limit].rpartition(" ")[0]
        # Where words are not told apart by spaces, or one is very long, it ends anywhere.
        return f"{words if len(words) > limit // 2 else line[: limit - 1].rstrip()}…"

    def text(self, value: Any) -> str:
        """Return a text as it can be stored, an empty one where the value is none."""
        return self._without_odd_characters(value) if isinstance(value, str) else ""

    def json(self, value: Any, depth: int = 1) -> Any:
        """Return a JSON value as it can be stored."""
        if isinstance(value, str):
            return self._without_odd_characters(value)
        if isinstance(value, (dict, list)) and value and depth == MAX_DEPTH:
            self.left_out["nesting written as text"] += 1
            return self._without_odd_characters(_deep_json(value))
        if isinstance(value, dict):
            return {self._without_odd_characters(name): self.json(inner, depth + 1) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.json(inner, depth + 1) for inner in value]
        if _is_odd_number(value):
            self.left_out["number written as text"] += 1
            return str(value)
        return value

    def arguments(self, value: Any) -> dict[str, Any]:
        """Return the arguments of a tool call as an object, JSON text among them read."""
        if isinstance(value, str):
            read = parse(value)
            value = value if read is None else read
        given = value if isinstance(value, dict) else {} if value in (None, "") else {"input": value}
        kept: dict[str, Any] = self.json(given)
        return kept

    def _without_odd_characters(self, text: str) -> str:
        if text.isascii() and "\0" not in text:
            return text
        kept, replaced = _UNSTORABLE.subn("\ufffd", text)
        self.left_out["character replaced"] += replaced
        return kept


def parse(line: str) -> dict[str, Any] | None:
    """Read a JSON object, None where the text is none."""
    value = parse_json(line)
    return value if isinstance(value, dict) else None


def parse_json(text: str) -> Any:
    """Read a JSON value, None where the text is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def moment_of(value: Any) -> datetime | None:
    """Read a time: RFC 3339 with a zone, or seconds since 1970."""
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo is not None else None
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def usage_of(value: Any) -> Usage | None:
    """Read the tokens that an answer cost, None where no count can be read."""
    if not isinstance(value, dict):
        return None
    given = [value, *(details for name in _DETAILS if isinstance(details := value.get(name), dict))]
    known: dict[str, int] = {}
    for ours, theirs in _COUNTS.items():
        counts = (each.get(name) for each in given for name in theirs)
        count = next((count for count in counts if type(count) is int and 0 <= count < 2**53), None)
        if count is not None:
            known[ours] = count
    return Usage(**known) if known else None


def short(text: str) -> str:
    """Return a text of at most two hundred characters that is unique where the whole one is."""
    return text if len(text) <= MAX_NAME else f"{text[: MAX_NAME - 33]}:{digest_of_text(text)}"


def digest_of_text(text: str) -> str:
    """Return a digest in 32 characters."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _deep_json(value: Any) -> str:
    try:
        return to_json(value)
    except (ValueError, RecursionError):
        return "(nested too deeply)"


def _is_odd_number(value: Any) -> bool:
    if isinstance(value, float):
        return not isfinite(value)
    return isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS
