"""The one ordered timeline of a session: gives out seq, and knows which entries were appended before.

Messages and tool usage share a gapless counter, given out inside the write transaction. The order inside an append is:
look up the idempotency keys, then check `expected_seq`, then give out seq; so a replay burns no seq, and is not refused
for an `expected_seq` that has become stale meanwhile. A fork goes on numbering after its fork point; idempotency keys
are each session's own, so that what its parent was given under a key may be said in the fork once more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select, union_all, update

from chat_service.events import Event
from chat_service.paging import check_seq
from chat_service.sessions import OWNED, TIMELINE, Timeline, check_ids, get_session, not_found, refuse_merged
from chat_service.work import Work
from models.errors import ChatError, Conflict
from models.ids import SessionId, UserId
from models.prepared import Prepared
from models.tables import chat_sessions, messages, tool_usages

_END = Prepared(select(*TIMELINE, chat_sessions.c.last_seq, chat_sessions.c.status).where(OWNED))
_ADVANCE = Prepared(
    update(chat_sessions)
    .where(chat_sessions.c.key == bindparam("session_key"))
    .values(
        last_seq=chat_sessions.c.last_seq + bindparam("new_entries"),
        message_count=chat_sessions.c.message_count + bindparam("new_messages"),
        tool_usage_count=chat_sessions.c.tool_usage_count + bindparam("new_tool_usages"),
        last_append_at=bindparam("now"),
    )
)
_APPENDED = union_all(
    *(
        select(entries.c.seq, entries.c.idempotency_key, entries.c.digest, bindparam(name, name).label("entry_type"))
        .join(chat_sessions, chat_sessions.c.key == entries.c.session_key)
        .where(OWNED, entries.c.idempotency_key.in_(bindparam("keys", expanding=True)))
        for name, entries in (("message", messages), ("tool_usage", tool_usages))
    )
)


class Claim(NamedTuple):
    """Numbers that were given out: `first_seq` and those after it."""

    timeline: Timeline
    first_seq: int


class Keyed(NamedTuple):
    """An entry to append: its idempotency key, if it has one, and the digest of what it says."""

    idempotency_key: str | None
    digest: bytes | None


def find_replay(
    connection: Connection, user_id: UserId, session_id: SessionId, entry_type: str, entries: Sequence[Keyed]
) -> list[int] | None:
    """Return the seqs under which these entries were appended before, or None where they are new.

    Raises Conflict where a key was used for something else, or where only some of the entries were appended.
    """
    keys = [entry.idempotency_key for entry in entries if entry.idempotency_key is not None]
    if not keys:
        return None
    rows = connection.execute(_APPENDED, check_ids(user_id, session_id) | {"keys": keys})
    appended = {row.idempotency_key: row for row in rows}
    if not appended:
        return None
    seqs = []
    for index, entry in enumerate(entries):
        first = appended.get(entry.idempotency_key)
        if first is None:
            raise Conflict(
                f"A part of this batch was appended before, and entry {index} was not: "
                "repeat a batch whole, or append the new entries in a batch of their own."
            )
        if first.entry_type != entry_type or first.digest != entry.digest:
            raise Conflict(f"idempotency_key of entry {index} was used for another entry: take a new key.")
        seqs.append(first.seq)
    return seqs


def appended_keys(
    connection: Connection, user_id: UserId, session_id: SessionId, keys: Sequence[str]
) -> dict[str, int]:
    """Return which of these idempotency keys a session has, and the seq of each."""
    if not keys:
        return {}
    rows = connection.execute(_APPENDED, check_ids(user_id, session_id) | {"keys": [*keys]})
    return {row.idempotency_key: row.seq for row in rows}


@dataclass(slots=True)
class _Counts:
    """Where a session's timeline ends, and what was given out since that was last written."""

    timeline: Timeline
    last_seq: int
    is_active: bool
    new_messages: int = 0
    new_tool_usages: int = 0
    now: str = ""


class Ledger:
    """Gives out the numbers of timelines within one transaction, and writes what it gave out in one statement.

    The transaction holds the lock on the database, so what was read of a session once is true until its end. Whatever
    else reads sessions or entries in between calls `write` first.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sessions: dict[tuple[UserId, SessionId], _Counts] = {}

    def claim(
        self,
        work: Work,
        user_id: UserId,
        session_id: SessionId,
        *,
        new_messages: int = 0,
        new_tool_usages: int = 0,
        expected_seq: int | None = None,
    ) -> Claim:
        """Give out the next numbers of the session's timeline; raises NotFound or Conflict, and then gives out none."""
        check_seq("expected_seq", expected_seq)
        ids = check_ids(user_id, session_id)
        counts = self._sessions.get((user_id, session_id))
        if counts is None:
            counts = self._sessions[user_id, session_id] = self._read(ids)
        if not counts.is_active or (expected_seq is not None and expected_seq != counts.last_seq):
            raise self._refusal(user_id, session_id, counts, expected_seq)
        first_seq = counts.last_seq + 1
        counts.last_seq += new_messages + new_tool_usages
        counts.new_messages += new_messages
        counts.new_tool_usages += new_tool_usages
        counts.now = work.now
        work.tell(Event(user_id, session_id, "appended", counts.last_seq))
        return Claim(counts.timeline, first_seq)

    def write(self) -> None:
        """Write how far the timelines go by now, and read them anew from here on."""
        advanced = [
            {
                "session_key": counts.timeline.session_key,
                "new_entries": counts.new_messages + counts.new_tool_usages,
                "new_messages": counts.new_messages,
                "new_tool_usages": counts.new_tool_usages,
                "now": counts.now,
            }
            for counts in self._sessions.values()
            if counts.now
        ]
        self._sessions.clear()
        if advanced:
            _ADVANCE.run(self._connection, *advanced)

    def _read(self, ids: dict[str, str]) -> _Counts:
        row = _END.first(self._connection, ids)
        if row is None:
            raise not_found()
        session_key, inherited, last_seq, status = row
        return _Counts(Timeline(session_key, inherited), last_seq, status == "active")

    def _refusal(self, user_id: UserId, session_id: SessionId, counts: _Counts, expected_seq: int | None) -> ChatError:
        if counts.is_active:
            return Conflict(
                f"expected_seq is {expected_seq}, but the session's last entry is {counts.last_seq}: "
                "read on with after_seq, then append."
            )
        refuse_merged(get_session(self._connection, user_id, session_id))
        return Conflict("The session is archived: set its status to active with update_session, then append.")


def claim(
    work: Work, user_id: UserId, session_id: SessionId, *, new_tool_usages: int, expected_seq: int | None = None
) -> Claim:
    """Give out and write the next numbers of one timeline; raises NotFound or Conflict, and then gives out none."""
    ledger = Ledger(work.connection)
    claimed = ledger.claim(work, user_id, session_id, new_tool_usages=new_tool_usages, expected_seq=expected_seq)
    ledger.write()
    return claimed
