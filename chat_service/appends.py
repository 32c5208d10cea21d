"""Appends: messages enter a session's timeline, those of many callers by the statements of one.

Each caller's are stored all or none, and in the order in which the callers came (docs/decisions/appends-together.md).
"""

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, literal_column, update

from chat_service.messages import get_by_seqs, is_message
from chat_service.sessions import Timeline, digest_of
from chat_service.timeline import Keyed, Ledger, find_replay
from chat_service.tokens import count_message
from chat_service.work import Work
from models.errors import ChatError, Invalid
from models.ids import SessionId, UserId, entry_id
from models.inputs import KeptPart, NewMessage, ToolCallPart
from models.prepared import Prepared, PreparedInsert
from models.shapes import MessageDict
from models.tables import messages, tool_call_references, tool_usages

_INSERT = PreparedInsert(messages)
_INSERT_REFERENCE = PreparedInsert(tool_call_references)
_JOIN_USAGES = Prepared(
    update(tool_usages)
    .where(
        tool_usages.c.session_key == bindparam("of_session"),
        tool_usages.c.tool_call_id == bindparam("of_call"),
        tool_usages.c.message_seq.is_(None),
        # The sum keeps SQLite from walking all the session's records by their seq, where the id has an index.
        tool_usages.c.seq + literal_column("0") > bindparam("inherited"),
    )
    .values(message_seq=bindparam("asked_by"))
)


class Append(NamedTuple):
    """Messages to be appended to a session; with `expected_seq` only if the session's last seq is that one."""

    work: Work
    user_id: UserId
    session_id: SessionId
    new_messages: Sequence[NewMessage]
    expected_seq: int | None = None


def add(
    work: Work,
    user_id: UserId,
    session_id: SessionId,
    new_messages: Sequence[NewMessage],
    expected_seq: int | None = None,
) -> list[MessageDict]:
    """Append messages in this order, all or none, and return them; the replay of a batch returns the first result.

    Raises TooLarge, NotFound, Invalid (a key twice, a `replaces_seq` that is no message) and Conflict (an archived
    session, a stale `expected_seq`, a key used before for something else, a batch of which only a part is a replay).
    """
    (outcome,) = add_together(work.connection, [Append(work, user_id, session_id, new_messages, expected_seq)])
    if isinstance(outcome, ChatError):
        raise outcome
    return outcome


def add_together(connection: Connection, appends: Sequence[Append]) -> list[list[MessageDict] | ChatError]:
    """Append what several want, in this order, with the statements of one; return what `add` would return or raise.

    What is refused has written nothing, and takes nothing from the others.
    """
    appending = _Appending(connection)
    outcomes = [appending.take(append) for append in appends]
    appending.write()
    return outcomes


def refer_to_calls(connection: Connection, session_key: int, seq: int, parts: Iterable[KeptPart]) -> list[str]:
    """Note which tool calls a stored message asked for, and return their ids."""
    calls = list(dict.fromkeys(part.id for part in parts if isinstance(part, ToolCallPart)))
    for call in calls:
        reference = {"session_key": session_key, "tool_call_id": call, "message_seq": seq}
        _INSERT_REFERENCE.run(connection, reference)
    return calls


class _Appending:
    """Takes messages for the sessions of one transaction, and writes those of many appends at once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ledger = Ledger(connection)
        self._rows: list[dict[str, Any]] = []
        self._asking: list[tuple[Timeline, int, NewMessage]] = []

    def take(self, append: Append) -> list[MessageDict] | ChatError:
        """Return the messages as they are going to be stored, or why they are not."""
        try:
            return self._take(append)
        except ChatError as error:
            return error

    def write(self) -> None:
        """Write what was taken."""
        rows, asking = self._rows, self._asking
        self._rows, self._asking = [], []
        self._ledger.write()
        if rows:
            _INSERT.run(self._connection, *rows)
        for timeline, seq, message in asking:
            _join_tool_usages(self._connection, timeline, seq, message)

    def _take(self, append: Append) -> list[MessageDict]:
        work, user_id, session_id, new_messages, expected_seq = append
        work.limits.check_messages(new_messages)
        is_keyed = _are_keyed(new_messages)
        edited = [message.replaces_seq for message in new_messages if message.replaces_seq is not None]
        if is_keyed or edited:
            # These ask for what is in the session.
            self.write()
        digests = [digest_of(message) if is_keyed else None for message in new_messages]
        if is_keyed:
            keyed = [Keyed(each.idempotency_key, digest) for each, digest in zip(new_messages, digests, strict=True)]
            seqs = find_replay(self._connection, user_id, session_id, "message", keyed)
            if seqs is not None:
                return get_by_seqs(self._connection, user_id, session_id, seqs)
        if not all(is_message(self._connection, user_id, session_id, seq) for seq in edited):
            raise Invalid("replaces_seq is not the seq of an earlier message of this session.")
        counted = [
            count_message(work.limits.count_tokens, message) if message.token_count is None else message.token_count
            for message in new_messages
        ]
        timeline, first_seq = self._ledger.claim(
            work, user_id, session_id, new_messages=len(new_messages), expected_seq=expected_seq
        )
        taken: list[MessageDict] = []
        for seq, message, digest, token_count in zip(count(first_seq), new_messages, digests, counted, strict=False):
            row = _row(message, digest, timeline.session_key, seq, token_count, work.now)
            self._rows.append(row)
            if message.parts:
                self._asking.append((timeline, seq, message))
            taken.append(_shape(row, user_id, session_id))
        return taken


def _are_keyed(new_messages: Sequence[NewMessage]) -> bool:
    keys = [message.idempotency_key for message in new_messages if message.idempotency_key is not None]
    if len(set(keys)) < len(keys):
        raise Invalid("idempotency_key stands twice in this batch: each message needs its own.")
    if keys and len(keys) < len(new_messages):
        raise Invalid("idempotency_key is missing on some messages: give it on all of a batch or on none.")
    return bool(keys)


def _row(
    message: NewMessage, digest: bytes | None, session_key: int, seq: int, token_count: int, now: str
) -> dict[str, Any]:
    return {
        "session_key": session_key,
        "seq": seq,
        "kind": message.kind,
        "role": message.role,
        "content": message.content,
        "parts": [part.model_dump(exclude_none=True) for part in message.parts] if message.parts else None,
        "message_metadata": message.message_metadata,
        "author": message.author,
        "model": message.model,
        "usage": message.usage.model_dump(exclude_none=True) if message.usage else None,
        "token_count": token_count,
        "replaces_seq": message.replaces_seq,
        "idempotency_key": message.idempotency_key,
        "digest": digest,
        "created_at": now,
    }


def _shape(row: dict[str, Any], user_id: UserId, session_id: SessionId) -> MessageDict:
    return {
        "id": entry_id(session_id, row["seq"]),
        "session_id": session_id,
        "user_id": user_id,
        "seq": row["seq"],
        "kind": row["kind"],
        "message_type": row["role"],
        "content": row["content"],
        "parts": row["parts"],
        "message_metadata": row["message_metadata"],
        "author": row["author"],
        "model": row["model"],
        "usage": row["usage"],
        "token_count": row["token_count"],
        "replaces_seq": row["replaces_seq"],
        "created_at": row["created_at"],
    }


def _join_tool_usages(connection: Connection, timeline: Timeline, seq: int, message: NewMessage) -> None:
    # What a fork inherits stays as it was: only its own records are joined.
    session_key, own_after = timeline
    for call in refer_to_calls(connection, session_key, seq, message.parts or ()):
        joined = {"of_session": session_key, "of_call": call, "asked_by": seq, "inherited": own_after}
        _JOIN_USAGES.run(connection, joined)
