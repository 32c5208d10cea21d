"""Storing what was read of a transcript: one batch of records in one transaction, each of them once.

A session is known by the source and the source's own id of it, a branch by the id of its first record as well; a record
by its native id, a tool usage by its call. What is there already is passed over, so a batch may be stored again.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from chat_service import appends, blobs, import_sessions, messages, source_records, tool_usage
from chat_service.import_sessions import ImportSession, Origin
from chat_service.limits import MAX_BATCH
from chat_service.timeline import appended_keys
from chat_service.tombstones import DELETED_HERE
from chat_service.tool_usage_twins import Twins
from chat_service.transcripts.neutral import REPEATS, Branch, Conversation, Ending, Entry, Record
from chat_service.work import Work
from models.ids import UserId
from models.inputs import NewMessage, NewToolUsage

SILENCE = timedelta(days=1)
"""A conversation that says nothing for so long has ended, and with it the calls that got no result."""

ARCHIVED = "the session is archived"


@dataclass(slots=True)
class Tally:
    """What became of a batch, counted; of records by their kind."""

    stored: Counter[str] = field(default_factory=Counter)
    already_there: Counter[str] = field(default_factory=Counter)
    skipped: Counter[tuple[str, str]] = field(default_factory=Counter)
    added: Counter[str] = field(default_factory=Counter)
    waiting: int = 0
    held: list[Record] = field(default_factory=list)
    unplaced: list[Record] = field(default_factory=list)

    def __iadd__(self, other: "Tally") -> "Tally":
        self.stored += other.stored
        self.already_there += other.already_there
        self.skipped += other.skipped
        self.added += other.added
        self.waiting += other.waiting
        self.held += other.held
        self.unplaced += other.unplaced
        return self


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The records of an import that stay out, as their session was deleted here, and the branch that each was of.

    What follows them stays out as well, also where it comes in a later batch.
    """

    branches: dict[str, dict[str, str | None]]

    def of(self, conversation: Conversation) -> dict[str, str | None]:
        """Return the branch of each record of a conversation that stays out, by its native id, in their order."""
        return self.branches.setdefault(conversation.source_id, {})


def store(
    work: Work,
    user_id: UserId,
    origin: Origin,
    batch: Sequence[Record],
    left_out: LeftOut | None = None,
    *,
    force: bool = False,
) -> Tally:
    """Store records that follow each other in their source, and count them.

    Records before the first message of a conversation are handed back in `held`, unless `force`: no session is made
    for notes about nothing. So are, in `unplaced`, those of a branch that leaves after a record that has not come yet;
    with `force` it leaves where the time says. What was deleted here is passed over, and noted in `left_out`.
    """
    tally = Tally()
    for conversation, records in _by_conversation(batch):
        place = LeftOut({}) if left_out is None else left_out
        _store_conversation(work, user_id, origin, conversation, records, tally, place, force=force)
    return tally


def end(
    work: Work, user_id: UserId, origin: Origin, ending: Ending, unplaced: Sequence[Record], left_out: LeftOut
) -> Tally:
    """Store what waited for the end of a conversation, where it has ended: its branches, and calls without a result."""
    tally = Tally()
    conversation = ending.conversation
    late = [record for record in unplaced if record.conversation is conversation]
    tally.unplaced = [record for record in unplaced if record.conversation is not conversation]
    if conversation.last_moment is None or _is_over(conversation, work.now):
        tally += store(work, user_id, origin, late, left_out, force=True)
    else:
        tally.unplaced += late
    tally += _close(work, user_id, origin, ending, left_out)
    return tally


def _close(work: Work, user_id: UserId, origin: Origin, ending: Ending, left_out: LeftOut) -> Tally:
    """Store the calls that got no result, as `unknown`, each in the session of the record that asked for it."""
    tally = Tally()
    gone = left_out.of(ending.conversation)
    if all(native_id in gone for native_id, _ in ending.waiting):
        return tally
    if not _is_over(ending.conversation, work.now):
        tally.waiting += sum(native_id not in gone for native_id, _ in ending.waiting)
        return tally
    sessions = import_sessions.of_conversation(work.connection, user_id, origin, ending.conversation)
    by_key = {session.key: session for session in sessions}
    asked_in = source_records.known(work.connection, [*by_key], {native_id for native_id, _ in ending.waiting})
    for session in sessions:
        waiting: list[Entry] = [
            usage for native_id, usage in ending.waiting if asked_in.get(native_id, (None,))[0] == session.key
        ]
        if waiting and session.status == "active":
            _Appending(work, user_id, session, tally).append(waiting)
    return tally


def _is_over(conversation: Conversation, now: str) -> bool:
    """Tell whether nothing more will come: an export is whole, and who was silent for a day has gone."""
    last = conversation.last_moment
    return conversation.is_finished or (last is not None and datetime.fromisoformat(now) - last > SILENCE)


def _by_conversation(batch: Iterable[Record]) -> Iterable[tuple[Conversation, list[Record]]]:
    found: dict[int, tuple[Conversation, list[Record]]] = {}
    for record in batch:
        found.setdefault(id(record.conversation), (record.conversation, []))[1].append(record)
    return found.values()


def _store_conversation(
    work: Work,
    user_id: UserId,
    origin: Origin,
    conversation: Conversation,
    records: list[Record],
    tally: Tally,
    left_out: LeftOut,
    *,
    force: bool,
) -> None:
    gone = left_out.of(conversation)
    sessions = {
        session.branch_id: session
        for session in import_sessions.of_conversation(work.connection, user_id, origin, conversation)
    }
    if any(record.is_node for record in records):
        records = _placed(work.connection, records, sessions, gone)
    by_branch: dict[Branch | None, list[Record]] = {}
    for record in records:
        by_branch.setdefault(record.branch, []).append(record)
    # Those first that have a session, or something to say: the others may branch from them, or go without.
    groups = [(None if branch is None else branch.id, branch, some) for branch, some in by_branch.items()]
    needed = _needed(groups) | {*sessions}
    groups.sort(key=lambda group: group[0] not in needed)
    for branch_id, branch, some in groups:
        session = sessions.get(branch_id)
        if import_sessions.is_deleted(work.connection, user_id, origin, conversation, branch_id, sessions):
            gone.update((record.native_id, branch_id) for record in some)
            _skip(some, DELETED_HERE, tally)
            continue
        if session is None and not force and branch_id not in needed:
            tally.held += some
            continue
        if session is None and branch is not None and not import_sessions.is_placed(work.connection, branch, sessions):
            parent = sessions.get(branch.parent) or sessions.get(None)
            if parent is not None and parent.status != "active":
                _skip(some, ARCHIVED, tally)
                continue
            if not force:
                tally.unplaced += some
                continue
        if session is None:
            before = len(sessions)
            session = import_sessions.make(work, user_id, origin, conversation, branch, sessions, some)
            tally.added["sessions"] += len(sessions) - before
        _store_strand(work, user_id, session, some, tally)
        import_sessions.touch(work, user_id, session, conversation, some)


def _needed(groups: Sequence[tuple[str | None, Branch | None, list[Record]]]) -> set[str | None]:
    """Return which branches have something to say, and those that they leave."""
    needed: set[str | None] = set()
    for branch_id, branch, some in reversed(groups):
        if branch_id in needed or any(record.entries for record in some):
            needed |= {branch_id} if branch is None else {branch_id, branch.parent}
    return needed


def _skip(records: Iterable[Record], reason: str, tally: Tally) -> None:
    for record in records:
        tally.skipped[record.kind, reason] += 1


def _placed(
    connection: Connection,
    records: list[Record],
    sessions: dict[str | None, ImportSession],
    gone: Mapping[str, str | None],
) -> list[Record]:
    """Return the records of a tree with their branches: each goes on where the one that it follows is the last.

    Records that are known stay where they are, whatever the main line of the source is by now, and so do those that
    are gone.
    """
    wanted = {record.native_id for record in records} | {record.follows for record in records if record.follows}
    by_key = {session.key: branch_id for branch_id, session in sessions.items()}
    found = source_records.known(connection, [*by_key], wanted)
    branch_of = {**gone} | {native_id: by_key[session_key] for native_id, (session_key, _) in found.items()}
    branches: dict[str | None, Branch | None] = {None: None}
    tips = {branch_id: source_records.tip(connection, session.key) for branch_id, session in sessions.items()}
    tips |= {branch_id: native_id for native_id, branch_id in gone.items() if branch_id not in sessions}
    placed = []
    for record in records:
        if not record.is_node:
            placed.append(record)
            continue
        branch_id = branch_of.get(record.native_id)
        if record.native_id not in branch_of:
            follows = record.follows if record.follows in branch_of else None
            parent_id = branch_of.get(follows) if follows is not None else None
            if tips.get(parent_id) == follows:
                branch_id = parent_id
            else:
                branch_id = record.native_id
                branches[branch_id] = Branch(branch_id, parent_id, follows, begins_anew=follows is None)
            branch_of[record.native_id] = branch_id
            tips[branch_id] = record.native_id
        placed.append(replace(record, branch=branches.setdefault(branch_id, Branch(branch_id or ""))))
    return placed


def _store_strand(work: Work, user_id: UserId, session: ImportSession, records: Sequence[Record], tally: Tally) -> None:
    digests = {record.native_id: source_records.digest_of_raw(record.raw) for record in records}
    changed_ids = [_changed_id(record, digests) for record in records]
    found = source_records.known(work.connection, [session.key], [*digests, *changed_ids])
    fresh: list[Record] = []
    seen: set[str] = set()
    for record in records:
        first = found.get(record.native_id)
        if first is None and session.status != "active":
            _skip([record], ARCHIVED, tally)
        elif first is None and record.native_id not in seen:
            seen.add(record.native_id)
            fresh.append(record)
            if record.entries:
                tally.stored[record.kind] += 1
            else:
                tally.skipped[record.kind, record.reason or "nothing became of it"] += 1
        elif first is None or record.reason == REPEATS:
            tally.skipped[record.kind, record.reason or REPEATS] += 1
        else:
            tally.already_there[record.kind] += 1
            changed_id = _changed_id(record, digests)
            if first[1] != digests[record.native_id] and not {changed_id} & {*found, *seen}:
                seen.add(changed_id)
                tally.added["changed records"] += 1
                fresh.append(replace(record, native_id=changed_id, kind=source_records.CHANGED, entries=[]))
    appending = _Appending(work, user_id, session, tally)
    seqs = appending.append([entry for record in fresh for entry in record.entries])
    for record in fresh:
        if record.costs:
            messages.note_costs(work, user_id, session.id, record.costs)
    kept: list[tuple[Record, int | None]] = []
    for record in fresh:
        became = [seqs[entry.idempotency_key] for entry in record.entries if entry.idempotency_key in seqs]
        kept.append((record, max(became, default=None)))
    source_records.add(work.connection, session.key, kept)
    tally.added["records kept"] += len(kept)


def _changed_id(record: Record, digests: dict[str, bytes]) -> str:
    return f"{record.native_id}@{digests[record.native_id].hex()}"


class _Appending:
    """Appends entries to one session in their order, and knows which were there before."""

    def __init__(self, work: Work, user_id: UserId, session: ImportSession, tally: Tally) -> None:
        self._work = work
        self._user_id = user_id
        self._session = session
        self._tally = tally
        self._pending: list[NewMessage] = []
        self._seqs: dict[str, int] = {}
        self._twins: Twins

    def append(self, entries: Sequence[Entry]) -> dict[str, int]:
        """Append what is new, and return the seq of each entry by its idempotency key."""
        keys = [entry.idempotency_key for entry in entries if entry.idempotency_key is not None]
        self._seqs = appended_keys(self._work.connection, self._user_id, self._session.id, keys)
        new = [each for each in entries if isinstance(each, NewToolUsage) and each.idempotency_key not in self._seqs]
        self._twins = Twins(self._work.connection, self._session.key, new)
        for entry in entries:
            key = entry.idempotency_key
            if isinstance(entry, NewToolUsage):
                self._flush()
                self._append_usage(entry)
            elif key is not None and key not in self._seqs:
                self._seqs[key] = 0
                self._pending.append(blobs.keep(self._work, entry))
                if len(self._pending) == MAX_BATCH:
                    # With what has waited for its place, there may be more than one call takes.
                    self._flush()
        self._flush()
        return self._seqs

    def _append_usage(self, usage: NewToolUsage) -> None:
        work, session, key = self._work, self._session, usage.idempotency_key
        if key is None:
            return
        if key in self._seqs:
            if usage.outcome != "unknown":
                completed = tool_usage.complete(work, self._user_id, session.id, self._seqs[key], usage)
                self._tally.added["tool calls completed"] += completed
            return
        twin = self._twins.take(usage)
        if twin is not None:
            self._tally.added["tool calls joined"] += tool_usage.adopt(work, self._user_id, session.id, twin, usage)
            self._seqs[key] = twin
            return
        self._seqs[key] = tool_usage.add(work, self._user_id, session.id, usage)["seq"]
        self._tally.added["tool calls"] += 1

    def _flush(self) -> None:
        if not self._pending:
            return
        stored = appends.add(self._work, self._user_id, self._session.id, self._pending)
        for message, row in zip(self._pending, stored, strict=True):
            blobs.refer(self._work, self._session.key, row["seq"], message.parts or ())
            if message.idempotency_key is not None:
                self._seqs[message.idempotency_key] = row["seq"]
        self._tally.added["messages"] += len(stored)
        self._pending = []
