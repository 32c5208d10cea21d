"""Tombstones: what was deleted here stays out of later imports, unless it is brought back on purpose.

A tombstone is a digest under a key of this database, so that it tells nobody what it stands for: of a session's id, by
which an archive knows it, and of a source and the source's own id, by which an import does. The latter is of one user,
who is known by name or token, not by id: whoever deletes their record and comes back has deleted it all the same.
"""

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select

from chat_service.work import Work
from models.ids import SessionId, UserId, pack_id
from models.tables import chat_sessions, erasures, salts, tombstones, users

DELETED_HERE = "deleted here"
"""Why a record is not imported whose session was deleted."""

_SALT_NAME = "tombstones"
_SALT = select(salts.c.salt).where(salts.c.name == _SALT_NAME)
_IDENTITY = select(users.c.username, users.c.issuer, users.c.subject).where(users.c.id == bindparam("user_id"))
_FOUND = select(tombstones.c.digest).where(tombstones.c.digest.in_(bindparam("digests", expanding=True)))
_FORGET = delete(tombstones).where(tombstones.c.digest.in_(bindparam("digests", expanding=True)))
_TO_BURY = (
    select(chat_sessions.c.id, chat_sessions.c.source, chat_sessions.c.source_id, erasures.c.scope)
    .join(users, users.c.key == chat_sessions.c.user_key)
    .outerjoin(erasures, erasures.c.receipt == users.c.erasure)
    .where(chat_sessions.c.key == bindparam("session_key"))
)
# What is not removed yet has no tombstone yet.
_BEING_DELETED = select(chat_sessions.c.key).join(users, users.c.key == chat_sessions.c.user_key).limit(1)
_SESSION_BEING_DELETED = _BEING_DELETED.where(
    chat_sessions.c.id == bindparam("session_id"), users.c.deleted_at.is_not(None)
)
_SOURCE_BEING_DELETED = _BEING_DELETED.join(erasures, erasures.c.receipt == users.c.erasure).where(
    users.c.deleted_at.is_not(None),
    erasures.c.scope == bindparam("scope"),
    chat_sessions.c.source == bindparam("source"),
    chat_sessions.c.source_id.in_(bindparam("source_ids", expanding=True)),
)


def scope_of(work: Work, user_id: UserId) -> bytes:
    """Return what stands for a user in tombstones."""
    return _scope(_key(work), work.connection, user_id)


def bury(work: Work, session_key: int) -> None:
    """Leave a tombstone for a session that is about to be removed."""
    session = work.connection.execute(_TO_BURY, {"session_key": session_key}).one()
    key = _key(work)
    digests = {_of_session(key, session.id)}
    if session.source is not None and session.source_id is not None and session.scope is not None:
        digests.add(_of_source(key, session.scope, session.source, session.source_id))
    digests -= _found(work.connection, digests)
    if digests:
        work.connection.execute(insert(tombstones), [{"digest": digest} for digest in digests])


def is_deleted(connection: Connection, session_id: SessionId) -> bool:
    """Tell whether a session of this id was deleted here."""
    key = _known_key(connection)
    if key is None:
        return False
    if connection.execute(_SESSION_BEING_DELETED, {"session_id": session_id}).first() is not None:
        return True
    return bool(_found(connection, {_of_session(key, session_id)}))


def is_source_deleted(connection: Connection, user_id: UserId, source: str, source_ids: Iterable[str]) -> bool:
    """Tell whether the user has deleted a session that one of these was imported as."""
    key = _known_key(connection)
    if key is None:
        return False
    scope, wanted = _scope(key, connection, user_id), [*source_ids]
    where: Mapping[str, Any] = {"scope": scope, "source": source, "source_ids": wanted}
    if connection.execute(_SOURCE_BEING_DELETED, where).first() is not None:
        return True
    return bool(_found(connection, {_of_source(key, scope, source, each) for each in wanted}))


def forget_session(work: Work, session_id: SessionId) -> None:
    """Take the tombstone of a session away."""
    work.connection.execute(_FORGET, {"digests": [_of_session(_key(work), session_id)]})


def forget_source(work: Work, user_id: UserId, source: str, source_ids: Iterable[str]) -> None:
    """Take the user's tombstones of what was imported as these away."""
    key = _key(work)
    scope = _scope(key, work.connection, user_id)
    work.connection.execute(_FORGET, {"digests": [_of_source(key, scope, source, each) for each in source_ids]})


def _key(work: Work) -> bytes:
    key = _known_key(work.connection)
    if key is None:
        key = secrets.token_bytes(32)
        work.connection.execute(insert(salts), {"name": _SALT_NAME, "salt": key})
    return key


def _known_key(connection: Connection) -> bytes | None:
    key: bytes | None = connection.execute(_SALT).scalar_one_or_none()
    return key


def _found(connection: Connection, digests: Iterable[bytes]) -> set[bytes]:
    return set(connection.execute(_FOUND, {"digests": [*digests]}).scalars())


def _scope(key: bytes, connection: Connection, user_id: UserId) -> bytes:
    user = connection.execute(_IDENTITY, {"user_id": user_id}).one()
    identity = ("name", user.username) if user.issuer is None else ("token", user.issuer, user.subject)
    return _digest(key, "user", *(each.encode() for each in identity))


def _of_session(key: bytes, session_id: str) -> bytes:
    return _digest(key, "session", pack_id(session_id))


def _of_source(key: bytes, scope: bytes, source: str, source_id: str) -> bytes:
    return _digest(key, "source", scope, source.encode(), source_id.encode())


def _digest(key: bytes, person: str, *parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16, key=key, person=person.encode())
    for part in parts:
        digest.update(len(part).to_bytes(8) + part)
    return digest.digest()
