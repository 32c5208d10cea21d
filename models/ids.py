"""Public ids and times: what they look like outside, and how they are made.

Ids are UUIDs of version 7 (RFC 9562), so that they sort by creation; times are RFC 3339 strings in UTC with six digits
of a second, so that they sort as text. The same few ids and seconds come again and again, so their other forms are
remembered.
"""

import os
import time
import uuid
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NewType

UserId = NewType("UserId", str)
SessionId = NewType("SessionId", str)
RunId = NewType("RunId", str)

_FIRST, _LAST = str(uuid.UUID(int=0)), str(uuid.UUID(int=2**128 - 1))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def new_id() -> str:
    """Make a UUID of version 7."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds << 80) | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) & ~(0x3 << 62) | (0x7 << 76) | (0x2 << 62)
    return str(uuid.UUID(int=value))


def is_id(value: str) -> bool:
    """Tell whether a text is a UUID in its usual form, 36 characters in lower case."""
    return isinstance(value, str) and len(value) == 36 and _is_usual(value)


@lru_cache(maxsize=4096)
def pack_id(value: str) -> bytes:
    """Return the 16 bytes of an id."""
    return uuid.UUID(value).bytes


@lru_cache(maxsize=4096)
def unpack_id(packed: bytes) -> str:
    """Return the id of 16 bytes."""
    return str(uuid.UUID(bytes=packed))


def ids_beginning(text: str) -> tuple[str, str] | None:
    """Return the first and the last id that begin with a text, or None where no id does."""
    first, last = (text + edge[len(text) :] for edge in (_FIRST, _LAST))
    return (first, last) if is_id(first) and is_id(last) else None


def entry_id(session_id: str, seq: int) -> str:
    """Return the public id of an entry, which is made of its session and seq."""
    return f"{session_id}:{seq}"


def utc_now() -> str:
    """Read the clock."""
    return from_microseconds(time.time_ns() // 1_000)


def to_timestamp(moment: datetime) -> str:
    """Write an aware time as RFC 3339 in UTC: 2026-01-31T12:00:00.000000Z."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


@lru_cache(maxsize=256)
def to_microseconds(timestamp: str) -> int:
    """Count the microseconds since 1970 of an RFC 3339 time."""
    return (datetime.fromisoformat(timestamp) - _EPOCH) // timedelta(microseconds=1)


@lru_cache(maxsize=4096)
def from_microseconds(microseconds: int) -> str:
    """Write microseconds since 1970 as an RFC 3339 time."""
    seconds, rest = divmod(microseconds, 1_000_000)
    return f"{_second(seconds)}.{rest:06d}Z"


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat().removesuffix("+00:00")


@lru_cache(maxsize=4096)
def _is_usual(value: str) -> bool:
    try:
        return str(uuid.UUID(value)) == value
    except ValueError:
        return False
