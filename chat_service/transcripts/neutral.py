"""The one form that every transcript is read into, whatever client wrote it.

A source is a file of records: lines, or the messages of a tree. Each becomes a `Record`, which says what it is, what
became of it (messages and tool calls, in order) or why nothing did, and keeps its raw text. Nothing of a source is
passed over: what is no record of a conversation is a record with a reason.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, TextIO

from models.inputs import NewMessage, NewToolUsage, Usage

Entry = NewMessage | NewToolUsage

ABOUT = "conversation"
"""The kind of a record that is about a conversation as a whole, and nothing that was said in it."""


COULD_NOT_BE_READ = "could not be read"
"""The reason of a record that is kept for what it may have said."""

LINE = "line:"
"""So begins the native id of a record that has none of its own, and of each that could not be read."""

REPEATS = "repeats a record"
"""The reason of a record that stands in its source before, word for word."""


@dataclass(slots=True)
class Conversation:
    """A session of the source, as far as it has been read; `source_id` is the client's own id of it.

    `workspace` is the folder in which the client was working. `is_finished` where the source is an export and holds all
    that there is: a call without a result gets none any more.
    """

    source_id: str
    title: str | None = None
    workspace: str | None = None
    last_moment: datetime | None = None
    is_finished: bool = False


class Branch(NamedTuple):
    """A line of talk beside the main one: it leaves `parent` (None is the main one) after the record `after`.

    Where it `begins_anew`, who speaks in it knows nothing of what was said before.
    """

    id: str
    parent: str | None = None
    after: str | None = None
    begins_anew: bool = False


@dataclass(slots=True)
class Record:
    """One record of a source.

    `native_id` is unique in its conversation and stays the same whenever the source is read. Where `is_node`, the
    record is one of a tree and follows the record `follows`: which branch it belongs to is decided when it is stored.
    `reason` says why nothing became of it. `costs` says what messages before it cost, by their idempotency keys, where
    the source tells that afterwards.
    """

    conversation: Conversation
    kind: str
    native_id: str
    raw: str
    entries: list[Entry] = field(default_factory=list)
    reason: str | None = None
    moment: datetime | None = None
    branch: Branch | None = None
    is_node: bool = False
    follows: str | None = None
    costs: dict[str, Usage] = field(default_factory=dict)


@dataclass(slots=True)
class Ending:
    """The calls that wait for a result at the end of the source, each with the native id of the record that asked.

    They are closed as `unknown`, for those who know that nothing more will come.
    """

    conversation: Conversation
    waiting: list[tuple[str, NewToolUsage]]


@dataclass(slots=True)
class Source:
    """A file to read: `name` is unique to it, and `unreadable` and `left_out` fill as it is read.

    `left_out` counts by kind what is less than a record; `unreadable` counts records that belong to no conversation,
    since they could not be read, and `unparsed` those that are kept with one all the same.
    """

    file: TextIO
    name: str
    left_out: Counter[str] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)
    unparsed: Counter[str] = field(default_factory=Counter)
    waiting: Counter[str] = field(default_factory=Counter)


Read = Callable[[Source], Iterator[Record | Ending]]


@dataclass(frozen=True, slots=True)
class Transcript:
    """A conversation in memory: entries of its main line in order, and counts of what was left out, by kind."""

    source_id: str | None
    title: str | None
    workspace: str | None
    entries: list[Entry]
    left_out: dict[str, int]


def collect(source: Source, records: Iterable[Record | Ending], reasons: dict[str, str]) -> Transcript:
    """Read a source of one conversation to its end.

    `reasons` says under what a record without entries is counted, if not its kind; empty where it is counted already.
    """
    conversation = Conversation(source.name)
    entries: list[Entry] = []
    elsewhere: set[str] = set()
    left_out: Counter[str] = Counter()
    for record in records:
        conversation = record.conversation
        if isinstance(record, Ending):
            entries += [usage for asked_in, usage in record.waiting if asked_in not in elsewhere]
        elif record.branch is not None:
            elsewhere.add(record.native_id)
            left_out["sidechain"] += 1
        elif record.reason is None:
            entries += record.entries
        elif reasons.get(record.reason) != "":
            left_out[reasons.get(record.reason, record.kind)] += 1
    left_out += source.left_out + source.unreadable + source.waiting
    kept = {kind: count for kind, count in left_out.items() if count}
    source_id = None if conversation.source_id == source.name else conversation.source_id
    return Transcript(source_id, conversation.title, conversation.workspace, entries, kept)
