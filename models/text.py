"""What counts as storable text and JSON: whatever is accepted comes back equal, from every engine.

Lone surrogates cannot be encoded, NUL ends a string in some engines, NaN and infinity are not JSON (RFC 8259), and
nesting beyond any real use only breaks the readers that come after us.
"""

import json
from collections.abc import Iterable
from math import isfinite
from typing import Any

MAX_DEPTH = 64
MAX_INTEGER_BITS = 4096

_write_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def check_text(value: str) -> str:
    """Return the text as it is; raises ValueError where it cannot be stored."""
    if "\0" in value:
        raise ValueError("holds a NUL character (U+0000): remove it")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("holds half of a surrogate pair, which is not text: remove it") from None
    return value


def check_json(value: Any) -> Any:
    """Return the JSON value as it will be read back; raises ValueError where it cannot be stored."""
    level = [value]
    has_tuples = False
    for _ in range(MAX_DEPTH):
        has_tuples = has_tuples or any(isinstance(part, tuple) for part in level)
        level = [inner for part in level for inner in _inside(part)]
        if not level:
            # JSON has one kind of array.
            return json.loads(to_json(value)) if has_tuples else value
    raise ValueError(f"is nested more than {MAX_DEPTH} levels deep: flatten it, or send it as text")


def _inside(part: Any) -> Iterable[Any]:
    if isinstance(part, dict):
        for key in part:
            if not isinstance(key, str):
                raise ValueError("has a key that is not text: JSON objects have text keys")
            check_text(key)
        return part.values()
    if isinstance(part, (list, tuple)):
        return part
    _check_scalar(part)
    return ()


def _check_scalar(part: Any) -> None:
    if isinstance(part, str):
        check_text(part)
    elif isinstance(part, float):
        if not isfinite(part):
            raise ValueError("holds NaN or infinity, which JSON has not: send null or text")
    elif isinstance(part, int):
        if part.bit_length() > MAX_INTEGER_BITS:
            raise ValueError(f"holds an integer of more than {MAX_INTEGER_BITS} bits: send it as text")
    elif part is not None:
        raise ValueError(f"holds a {type(part).__name__}, which JSON has not")


def to_json(value: Any) -> str:
    """Write a JSON value in its shortest form, characters as they are and keys in their order."""
    return _write_json(value)


def to_canonical_json(value: Any) -> str:
    """Write a JSON value so that equal values are written equally, whatever the order of their keys."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, sort_keys=True)
