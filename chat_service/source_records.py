"""Source records: what an imported session was made of, as its client wrote it, so that nothing is lost.

They also are the memory of the import: a record whose native id is here was imported before.
"""

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select

from chat_service.transcripts.neutral import ABOUT, LINE, Record
from models.ids import to_timestamp
from models.tables import source_records

CHANGED = "changed"
"""The kind of a record whose source says something else under the same native id than it did before."""

_INSERT = insert(source_records)
_LAST_NUMBER = select(func.coalesce(func.max(source_records.c.number), 0)).where(
    source_records.c.session_key == bindparam("session_key")
)
_KNOWN = select(source_records.c.session_key, source_records.c.native_id, source_records.c.digest).where(
    source_records.c.session_key.in_(bindparam("session_keys", expanding=True)),
    source_records.c.native_id.in_(bindparam("native_ids", expanding=True)),
)
_TIP = (
    select(source_records.c.native_id)
    .where(
        source_records.c.session_key == bindparam("session_key"),
        source_records.c.kind.not_in([ABOUT, CHANGED]),
        # Nothing follows what could not be read.
        source_records.c.native_id.not_like(f"{LINE}%"),
    )
    .order_by(source_records.c.number.desc())
    .limit(1)
)
_NUMBER = select(source_records.c.number).where(
    source_records.c.session_key == bindparam("session_key"), source_records.c.native_id == bindparam("native_id")
)
_SEQ_AT = select(func.coalesce(func.max(source_records.c.seq), 0)).where(
    source_records.c.session_key == bindparam("session_key")
)
_SEQ_AFTER = _SEQ_AT.where(source_records.c.number <= _NUMBER.scalar_subquery())
_SEQ_BY = _SEQ_AT.where(source_records.c.moment <= bindparam("moment", type_=source_records.c.moment.type))


def digest_of_raw(raw: str) -> bytes:
    """Return the digest under which a raw record is compared."""
    return hashlib.blake2b(raw.encode(errors="surrogatepass"), digest_size=16).digest()


def known(
    connection: Connection, session_keys: Sequence[int], native_ids: Iterable[str]
) -> dict[str, tuple[int, bytes]]:
    """Return which of these records sessions have: the session's key and the digest of each, by native id."""
    if not session_keys:
        return {}
    rows = connection.execute(_KNOWN, {"session_keys": [*session_keys], "native_ids": [*native_ids]})
    return {row.native_id: (row.session_key, row.digest) for row in rows}


def tip(connection: Connection, session_key: int) -> str | None:
    """Return the native id of the last message of a session, None where it has none."""
    found: str | None = connection.execute(_TIP, {"session_key": session_key}).scalar_one_or_none()
    return found


def seq_after(connection: Connection, session_key: int, native_id: str | None, moment: str | None) -> int:
    """Return the last seq of a session when this record had been read, or else at this moment; 0 at its beginning."""
    if native_id is not None:
        where: dict[str, Any] = {"session_key": session_key, "native_id": native_id}
        return int(connection.execute(_SEQ_AFTER, where).scalar_one())
    if moment is None:
        return 0
    return int(connection.execute(_SEQ_BY, {"session_key": session_key, "moment": moment}).scalar_one())


def last_number(connection: Connection, session_key: int) -> int:
    """Return the number of the last record of a session, 0 where it has none."""
    return int(connection.execute(_LAST_NUMBER, {"session_key": session_key}).scalar_one())


def add(connection: Connection, session_key: int, records: Sequence[tuple[Record, int | None]]) -> None:
    """Keep the raw text of records in this order, each with the last seq that it became."""
    last = last_number(connection, session_key)
    rows = [
        {
            "session_key": session_key,
            "number": number,
            "native_id": record.native_id,
            "kind": record.kind,
            "digest": digest_of_raw(record.raw),
            "seq": seq,
            "moment": None if record.moment is None else to_timestamp(record.moment),
            "data": pack(record.raw),
        }
        for number, (record, seq) in enumerate(records, start=last + 1)
    ]
    if rows:
        connection.execute(_INSERT, rows)


def pack(raw: str) -> bytes:
    """Compress the text of a record."""
    return zlib.compress(raw.encode(errors="surrogatepass"))


def unpack(data: bytes) -> str:
    """Return the text of a record."""
    return zlib.decompress(data).decode(errors="surrogatepass")
