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
_ASCII = (
    (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"u", 18),
    (b"0123456789", b"d", 16),
    (b" ", b"s", 4),
    (b"\t\n\v\f\r", b"w", 10),
)
_PUNCTUATION = (b"p", 18)
# Leading bytes of UTF-8; those that continue a character weigh nothing.
_LEADING = (
    (range(0xC0, 0xD0), b"2", 28),  # Latin with accents, Greek
    (range(0xD0, 0xE0), b"3", 22),  # Cyrillic, Hebrew, Arabic
    (range(0xE0, 0xE3), b"4", 44),  # the scripts of India, Thai, symbols
    (range(0xE3, 0xF0), b"5", 30),  # Chinese, Japanese, Korean
    (range(0xF0, 0x100), b"6", 58),  # emoji
)
_LONG_WORD, _LONG_WORD_WEIGHT = 8, 7
"""Letters of a word that vocabularies have, and what each letter beyond that weighs: nobody's word is that long."""


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text takes, rather more than fewer; 0 for an empty text alone."""
    encoded = text.encode()
    kinds = encoded.translate(_KINDS, _LETTERS)
    letters = len(encoded) - len(kinds)
    total = others = 0
    for kind, weight in _WEIGHTS:
        count = kinds.count(kind)
        total += count * weight
        others += count
    total += letters * _LETTER_WEIGHT + max(0, letters - _LONG_WORD * (others + 1)) * _LONG_WORD_WEIGHT
    return -(-total // _SCALE)


def count_message(count: TokenCounter, message: NewMessage) -> int:
    """Return the tokens of a message: its content, or where it has parts their texts if those say more."""
    texts = [part.content for part in message.parts or () if isinstance(part, (TextPart, ReasoningPart))]
    return max(count(message.content), sum(map(count, texts))) if texts else count(message.content)


def count_tool_usage(count: TokenCounter, usage: NewToolUsage) -> int:
    """Return the tokens of a tool call with what came of it."""
    result = "" if usage.result is None else to_json(usage.result)
    return count(usage.tool_name) + count(to_json(usage.arguments)) + count(result) + count(usage.error or "")


def _kinds() -> bytes:
    table = bytearray(_PUNCTUATION[0] * 0x80 + b"c" * 0x80)
    for members, kind, _ in (*_ASCII, *_LEADING):
        for byte in members:
            table[byte] = kind[0]
    return bytes(table)


_KINDS = _kinds()
_WEIGHTS = (*((kind, weight) for _, kind, weight in (*_ASCII, *_LEADING)), _PUNCTUATION)
