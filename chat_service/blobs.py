"""Blobs: what was attached to messages or given by tools, kept once by its content while an entry refers to it."""

import base64
import binascii
import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, FromClause, Select, bindparam, delete, exists, insert, select
from typing_extensions import TypedDict

from chat_service.lineage import Statements, inherited, read_entries, within
from chat_service.paging import END
from chat_service.sessions import get_timeline
from chat_service.users import USER_KEY
from chat_service.work import Work
from models.errors import NotFound
from models.ids import SessionId, UserId
from models.inputs import BlobPart, BlobReferencePart, KeptPart, NewMessage
from models.tables import blob_references, blobs, chat_sessions

_KEY = select(blobs.c.key).where(blobs.c.sha256 == bindparam("sha256"))


class _Data(TypedDict):
    data: bytes


def _data(references: FromClause, *inside: ColumnElement[bool]) -> Select[Any]:
    wanted = blobs.c.sha256 == bindparam("sha256")
    referring = references.join(blobs, blobs.c.key == blob_references.c.blob_key)
    return select(blobs.c.data).select_from(referring).where(wanted, *inside).limit(1)


_DATA = Statements(
    _data(blob_references, within(blob_references, "message_seq")), _data(inherited(blob_references, "message_seq"))
)
_OF_USER = (
    select(blobs.c.key)
    .join(blob_references, blob_references.c.blob_key == blobs.c.key)
    .join(chat_sessions, chat_sessions.c.key == blob_references.c.session_key)
    .where(blobs.c.sha256 == bindparam("sha256"), chat_sessions.c.user_key == USER_KEY)
    .limit(1)
)
_OF_SESSION = (
    select(blobs.c.key, blobs.c.size)
    .join(blob_references, blob_references.c.blob_key == blobs.c.key)
    .where(blob_references.c.session_key == bindparam("session_key"))
    .limit(1)
)
_FORGET = delete(blob_references).where(
    blob_references.c.session_key == bindparam("of_session"), blob_references.c.blob_key == bindparam("of_blob")
)
_REMOVE = delete(blobs).where(
    blobs.c.key == bindparam("of_blob"), ~exists().where(blob_references.c.blob_key == blobs.c.key)
)
_INSERT = insert(blobs)
_REFERENCE = insert(blob_references)


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


def is_of_user(connection: Connection, user_id: UserId, sha256: str) -> bool:
    """Tell whether an entry of the user refers to a blob with this content."""
    return connection.execute(_OF_USER, {"sha256": bytes.fromhex(sha256), "user_id": user_id}).first() is not None


def refer(work: Work, session_key: int, seq: int, parts: Iterable[KeptPart]) -> None:
    """Note which blobs a stored message refers to."""
    refer_to(work.connection, session_key, seq, [part.sha256 for part in parts if isinstance(part, BlobReferencePart)])


def refer_to(connection: Connection, session_key: int, seq: int, digests: Iterable[str]) -> None:
    """Note which blobs a stored entry refers to."""
    for sha256 in dict.fromkeys(digests):
        blob_key = connection.execute(_KEY, {"sha256": bytes.fromhex(sha256)}).scalar_one()
        connection.execute(_REFERENCE, {"session_key": session_key, "message_seq": seq, "blob_key": blob_key})


def read(connection: Connection, user_id: UserId, session_id: SessionId, sha256: str) -> bytes:
    """Return the bytes of a blob that a message of the session refers to; raises NotFound."""
    timeline = get_timeline(connection, user_id, session_id)
    where = {"low": 0, "high": END, "sha256": bytes.fromhex(sha256)}
    found = read_entries(connection, _Data, _DATA, timeline, where)
    if not found:
        raise NotFound("No message of the session refers to such a blob: read its history, and take one from there.")
    return found[0]["data"]


class Forgotten(NamedTuple):
    """A blob that a session does not refer to any more: its size in bytes, and whether it was removed."""

    size: int
    is_removed: bool


def remove_one_of(connection: Connection, session_key: int) -> Forgotten | None:
    """Forget one blob of a session, and remove it where nothing else refers to it.

    None says that the session refers to no blob any more.
    """
    found = connection.execute(_OF_SESSION, {"session_key": session_key}).one_or_none()
    if found is None:
        return None
    where = {"of_session": session_key, "of_blob": found.key}
    connection.execute(_FORGET, where)
    removed = connection.execute(_REMOVE, where).rowcount
    return Forgotten(found.size, removed == 1)


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
