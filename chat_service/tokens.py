"""Tokens: how much of a model's window a text takes, estimated without any vocabulary.

A counter is any function from text to a number of tokens; `estimate_tokens` is the one that is used where no other is
given. It weighs the bytes of a text by their kind. The weights were fitted to the vocabularies cl100k, o200k and the
last one that Anthropic published, so that prose, code and JSON come out a tenth to a third above the most expensive of
the three; docs/decisions/token-estimate.md has the figures, and where it is further off.
"""

from collections.abc import Callable

from models.inputs import NewMessage, NewToolUsage, ReasoningPart, TextPart
from models.text import to_json

TokenCounter = Callable[[str], int]

_SCALE = 20
_LETTERS, _LETTER_WEIGHT = b"abcdefghijklmnopqrstuvwxyz", 5
_APART = _LETTERS + bytes(range(0x80, 0xC0))
"""Small letters, weighed by their number, and bytes of UTF-8 that continue a character, which weigh nothing."""
_PUNCTUATION_WEIGHT = 18
_WEIGHTS = (
    (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", 18),
    (b"0123456789", 16),
    (b" ", 4),
    (b"\t\n\v\f\r", 10),
    # Leading bytes of UTF-8.
    (range(0xC0, 0xD0), 28),  # Latin with accents, Greek
    (range(0xD0, 0xE0), 22),  # Cyrillic, Hebrew, Arabic
    (range(0xE0, 0xE3), 44),  # the scripts of India, Thai, symbols
    (range(0xE3, 0xF0), 30),  # Chinese, Japanese, Korean
    (range(0xF0, 0x100), 58),  # emoji
)
_LONG_WORD, _LONG_WORD_WEIGHT = 8, 7
"""Letters of a word that vocabularies have, and what each letter beyond that weighs: nobody's word is that long."""


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text takes, rather more than fewer; 0 for an empty text alone."""
    weights = text.encode().translate(_WEIGHT_OF, _APART)
    letters = len(text) - len(weights)
    unlikely = max(0, letters - _LONG_WORD * (len(weights) + 1))
    return -(-(sum(weights) + letters * _LETTER_WEIGHT + unlikely * _LONG_WORD_WEIGHT) // _SCALE)


def count_message(count: TokenCounter, message: NewMessage) -> int:
    """Return the tokens of a message: its content, or where it has parts their texts if those say more."""
    texts = [part.content for part in message.parts or () if isinstance(part, (TextPart, ReasoningPart))]
    return max(count(message.content), sum(map(count, texts))) if texts else count(message.content)


def count_tool_usage(count: TokenCounter, usage: NewToolUsage) -> int:
    """Return the tokens of a tool call with what came of it."""
    result = "" if usage.result is None else to_json(usage.result)
    return count(usage.tool_name) + count(to_json(usage.arguments)) + count(result) + count(usage.error or "")


def _weight_of() -> bytes:
    table = bytearray([_PUNCTUATION_WEIGHT] * 0x100)
    for members, weight in _WEIGHTS:
        for byte in members:
            table[byte] = weight
    return bytes(table)


_WEIGHT_OF = _weight_of()
