"""Cursors of lists: opaque, bound to the list they came from, and made of keys that never change."""

import base64
import binascii
import hashlib

from chat_service.limits import MAX_PAGE
from models.errors import Invalid
from models.text import check_text

END = 2**53
"""Past every seq: the first integer that JSON's readers may not hold exactly (RFC 8259, section 6)."""


def check_limit(limit: int) -> int:
    """Return the limit; raises Invalid where it is not 1 to 500."""
    if not 1 <= limit <= MAX_PAGE:
        raise Invalid(f"limit must be between 1 and {MAX_PAGE}.")
    return limit


def check_filters(**filters: str | None) -> None:
    """Raise Invalid, naming the filter, where one is not text that could be stored."""
    for name, value in filters.items():
        try:
            check_text(value or "")
        except ValueError as error:
            raise Invalid(f"{name} {error}.") from None


def check_seq(name: str, seq: int | None, lowest: int = 0) -> None:
    """Raise Invalid, naming the argument, where a seq or an offset lies outside what there can be."""
    if seq is not None and not lowest <= seq < END:
        raise Invalid(f"{name} must be {lowest} or more, and less than 2 to the power of 53.")


def make_cursor(key: int, *of: object) -> str:
    """Return a cursor to what follows this key in the list that is described by the other arguments."""
    return make_cursor_of((key,), *of)


def read_cursor(cursor: str | None, *of: object) -> int | None:
    """Return the key that a cursor holds; raises Invalid where it was not made for this list."""
    keys = read_cursor_of(cursor, 1, *of)
    return None if keys is None else keys[0]


def make_cursor_of(keys: tuple[int, ...], *of: object) -> str:
    """Return a cursor that holds several keys, for a list that is read from several places."""
    body = b"".join(key.to_bytes(8) for key in keys)
    return base64.urlsafe_b64encode(body + _seal(body, of)).decode().rstrip("=")


def read_cursor_of(cursor: str | None, count: int, *of: object) -> tuple[int, ...] | None:
    """Return the keys that a cursor holds, so many; raises Invalid where it was not made for this list."""
    if cursor is None:
        return None
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    body, seal = data[: 8 * count], data[8 * count :]
    keys = tuple(int.from_bytes(body[start : start + 8], signed=True) for start in range(0, len(body), 8))
    # A key is a signed integer of eight bytes, and never negative.
    if len(body) < 8 * count or min(keys) < 0 or seal != _seal(body, of):
        raise Invalid("cursor is not one that this list gave: pass next_cursor unchanged, with the same filters.")
    return keys


def _seal(body: bytes, of: tuple[object, ...]) -> bytes:
    return hashlib.blake2b(body + repr(of).encode(errors="replace"), digest_size=8).digest()
