"""Blobs: what was attached to messages, kept once by its content, for as long as a message refers to it."""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, bindparam, delete, exists, insert, select

from chat_service.work import Work
from models.errors import NotFound
from models.ids import SessionId, UserId
from models.inputs import BlobPart, BlobReferencePart, KeptPart, NewMessage
from models.tables import blob_references, blobs, chat_sessions, users

_KEY = select(blobs.c.key).where(blobs.c.sha256 == bindparam("sha256"))
_DATA = (
    select(blobs.c.data)
    .join(blob_references, blob_references.c.blob_key == blobs.c.key)
    .join(chat_sessions, chat_sessions.c.key == blob_references.c.session_key)
    .join(users, users.c.key == chat_sessions.c.user_key)
    .where(
        blobs.c.sha256 == bindparam("sha256"),
        chat_sessions.c.id == bindparam("session_id"),
        users.c.id == bindparam("user_id"),
    )
    .limit(1)
)
_REFERRED_TO = select(blob_references.c.blob_key).where(
    blob_references.c.session_key.in_(bindparam("session_keys", expanding=True))
)
_INSERT = insert(blobs)
_REFERENCE = insert(blob_references)
_MANY = 500


def keep(work: Work, message: NewMessage) -> NewMessage:
    """Keep the bytes that a message carries, and return the message with references in their place.

    What says that it is base64 and is not stays as it is.
    """
    if not any(isinstance(part, BlobPart) for part in message.parts or ()):
        return message
    parts = [_keep_part(work.connection, part) if isinstance(part, BlobPart) else part for part in message.parts or ()]
    return message.model_copy(update={"parts": parts})


def keep_bytes(connection: Connection, data: bytes, media_type: str | None) -> str:
    """Keep bytes, where they are not kept already, and return their SHA-256 in hexadecimal."""
    digest = hashlib.sha256(data)
    if connection.execute(_KEY, {"sha256": digest.digest()}).scalar_one_or_none() is None:
        row = {"sha256": digest.digest(), "media_type": media_type, "size": len(data), "data": data}
        connection.execute(_INSERT, row)
    return digest.hexdigest()


def is_kept(connection: Connection, sha256: str) -> bool:
    """Tell whether there is a blob with this content."""
    return connection.execute(_KEY, {"sha256": bytes.fromhex(sha256)}).first() is not None


def refer(work: Work, session_key: int, message_seq: int, parts: Iterable[KeptPart]) -> None:
    """Note which blobs a stored message refers to."""
    digests = dict.fromkeys(part.sha256 for part in parts if isinstance(part, BlobReferencePart))
    for sha256 in digests:
        blob_key = work.connection.execute(_KEY, {"sha256": bytes.fromhex(sha256)}).scalar_one()
        reference = {"session_key": session_key, "message_seq": message_seq, "blob_key": blob_key}
        work.connection.execute(_REFERENCE, reference)


def read(connection: Connection, user_id: UserId, session_id: SessionId, sha256: str) -> bytes:
    """Return the bytes of a blob that a message of the session refers to; raises NotFound."""
    where = {"user_id": user_id, "session_id": session_id, "sha256": bytes.fromhex(sha256)}
    data: bytes | None = connection.execute(_DATA, where).scalar()
    if data is None:
        raise NotFound("No message of the session refers to such a blob: read its history, and take one from there.")
    return data


def referred_to(connection: Connection, session_keys: Sequence[int]) -> Sequence[int]:
    """Return the keys of the blobs that sessions refer to, to be looked at once those are deleted."""
    found: dict[int, None] = {}
    for start in range(0, len(session_keys), _MANY):
        rows = connection.execute(_REFERRED_TO, {"session_keys": session_keys[start : start + _MANY]})
        found |= dict.fromkeys(rows.scalars())
    return [*found]


def remove_unreferenced(connection: Connection, blob_keys: Sequence[int]) -> None:
    """Remove those of the blobs to which nothing refers any more."""
    still = exists().where(blob_references.c.blob_key == blobs.c.key)
    for start in range(0, len(blob_keys), _MANY):
        some = blob_keys[start : start + _MANY]
        connection.execute(delete(blobs).where(blobs.c.key.in_(some), ~still))


def _keep_part(connection: Connection, part: BlobPart) -> KeptPart:
    try:
        data = base64.b64decode(part.content, validate=True)
    except (binascii.Error, ValueError):
        return part
    if base64.b64encode(data).decode() != part.content:
        # Written in another way than its bytes would be again: what was said is kept as it was.
        return part
    sha256 = keep_bytes(connection, data, part.mime_type)
    return BlobReferencePart(
        type="blob_reference", sha256=sha256, size=len(data), mime_type=part.mime_type, modality=part.modality
    )
