"""The audit log: what was done, in a chain in which no row can be changed, removed or moved without a trace.

`digest` is that of a row's salt, user and detail; `chain` goes over the chain of the row before it, the row's other
fields and the digest. So the detail of a row can be erased, with its salt and its user, and the chain still holds: what
is left tells nothing of them. A chain cannot show that rows at its end are missing: who wants to know that compares its
head with one that was written down elsewhere.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import BigInteger, Connection, bindparam, insert, select, type_coerce, update

from chat_service.paging import check_limit, make_cursor, read_cursor
from chat_service.users import USER_KEY, get, get_user_key
from chat_service.work import Work
from models.ids import UserId, pack_id, to_microseconds
from models.rows import page_rows
from models.shapes import AuditCheckDict, AuditEntryDict, AuditPageDict
from models.tables import audit_log, users
from models.text import to_canonical_json

Action = Literal["session_deleted", "user_deleted", "erased"]

CHUNK = 500
"""So many rows are verified in one read."""

_START = bytes(32)
_SALT_BYTES = 16
# A row that was moved before the first is looked at as well.
_LOWEST = -(2**63)
_LAST = select(audit_log.c.key, audit_log.c.chain).order_by(audit_log.c.key.desc()).limit(1)
_PAGE = (
    select(audit_log.c.key, audit_log.c.key.label("id"), audit_log.c.created_at, audit_log.c.action, audit_log.c.detail)
    .where(audit_log.c.user_key == USER_KEY)
    .order_by(audit_log.c.key.desc())
)
_ERASE = (
    update(audit_log).where(audit_log.c.user_key == bindparam("of_user")).values(user_key=None, salt=None, detail=None)
)
_CHUNK = (
    select(
        audit_log.c.key,
        type_coerce(audit_log.c.created_at, BigInteger).label("created_at"),
        audit_log.c.action,
        audit_log.c.user_key,
        users.c.id.label("user_id"),
        audit_log.c.salt,
        audit_log.c.detail,
        audit_log.c.digest,
        audit_log.c.chain,
    )
    .outerjoin(users, users.c.key == audit_log.c.user_key)
    .where(audit_log.c.key >= bindparam("first"))
    .order_by(audit_log.c.key)
    .limit(CHUNK)
)


@dataclass(frozen=True, slots=True)
class Verified:
    """How far the chain was followed; `broken_at` is the key of the first row that is wrong, where one was."""

    rows: int = 0
    erased: int = 0
    next_key: int = _LOWEST
    head: bytes = _START
    broken_at: int | None = None
    is_over: bool = False

    def to_dict(self) -> AuditCheckDict:
        """Return it as it is told."""
        return {"rows": self.rows, "erased": self.erased, "head": self.head.hex(), "broken_at": self.broken_at}


def add(work: Work, action: Action, detail: Mapping[str, int], user_id: UserId | None) -> int:
    """Add a row, of a user or of nobody, and return its key."""
    last = work.connection.execute(_LAST).one_or_none()
    key, before = (1, _START) if last is None else (last.key + 1, last.chain)
    salt, text = secrets.token_bytes(_SALT_BYTES), to_canonical_json(detail)
    digest = _digest(salt, user_id, text)
    row = {
        "key": key,
        "created_at": work.now,
        "action": action,
        "user_key": None if user_id is None else get_user_key(work.connection, user_id),
        "salt": salt,
        "detail": text,
        "digest": digest,
        "chain": _chain(before, key, to_microseconds(work.now), action, digest),
    }
    work.connection.execute(insert(audit_log), row)
    return key


def erase_of_user(work: Work, user_key: int) -> None:
    """Take user and detail out of all rows of a user."""
    work.connection.execute(_ERASE, {"of_user": user_key})


def list_entries(connection: Connection, user_id: UserId, limit: int = 20, cursor: str | None = None) -> AuditPageDict:
    """Return a page of the user's own rows, newest first; raises NotFound and Invalid."""
    get(connection, user_id)
    before = read_cursor(cursor, "audit", user_id)
    page = _PAGE if before is None else _PAGE.where(audit_log.c.key < before)
    entries, last = page_rows(connection, AuditEntryDict, page, check_limit(limit), {"user_id": user_id})
    for entry in entries:
        entry["detail"] = None if entry["detail"] is None else json.loads(str(entry["detail"]))
    return {"entries": entries, "next_cursor": None if last is None else make_cursor(last, "audit", user_id)}


def verify_some(connection: Connection, so_far: Verified) -> Verified:
    """Follow the chain for some rows more."""
    rows = connection.execute(_CHUNK, {"first": so_far.next_key}).all()
    erased, head, next_key = so_far.erased, so_far.head, so_far.next_key
    for count, row in enumerate(rows, start=so_far.rows):
        if not _follows(row, count, head):
            return Verified(count, erased, next_key, head, row.key, is_over=True)
        erased += row.salt is None
        head, next_key = row.chain, row.key + 1
    return Verified(so_far.rows + len(rows), erased, next_key, head, is_over=len(rows) < CHUNK)


def _follows(row: Any, rows_before: int, head: bytes) -> bool:
    if not isinstance(row.digest, bytes) or row.key != rows_before + 1:
        return False
    if row.chain != _chain(head, row.key, row.created_at, row.action, row.digest):
        return False
    if (row.user_key, row.salt, row.detail) == (None, None, None):
        return True
    if (
        not isinstance(row.salt, bytes)
        or not isinstance(row.detail, str)
        or (row.user_key is None) != (row.user_id is None)
    ):
        return False
    return bool(row.digest == _digest(row.salt, row.user_id, row.detail))


def _digest(salt: bytes, user_id: str | None, detail: str) -> bytes:
    return hashlib.sha256(salt + (bytes(16) if user_id is None else pack_id(user_id)) + detail.encode()).digest()


def _chain(before: bytes, key: int, created_at: object, action: object, digest: bytes) -> bytes:
    return hashlib.sha256(before + f"{key} {created_at} {action}\n".encode() + digest).digest()
