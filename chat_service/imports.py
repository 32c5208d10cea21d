"""Imports: transcripts of other clients are read file by file, and stored in batches, each record once.

A file may be imported as often as one likes: what was stored is passed over, what has come since is added. A batch is
one transaction of bounded size, so that others get to write in between; where an import ends in the middle, the next
one goes on. What a file holds and does not become a message or a tool call is counted by its type, with the reason.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

from chat_service import import_batches
from chat_service.import_batches import LeftOut, Tally
from chat_service.import_sessions import Origin
from chat_service.limits import Limits
from chat_service.service import ChatService
from chat_service.transcripts.formats import Format
from chat_service.transcripts.neutral import COULD_NOT_BE_READ, Conversation, Ending, Record, Source
from chat_service.work import Work
from models.errors import ChatError, Invalid, TooLarge
from models.ids import UserId
from models.inputs import NewMessage
from models.shapes import ImportDict, SkippedDict

MAX_ENTRIES = 500
"""So many entries, and so many records, are stored in one transaction at most."""

MAX_CHARACTERS = 8 * 1024 * 1024
"""So many characters of records are stored in one transaction, unless one alone has more."""

MAX_HELD = 5_000
"""So many records wait for the first message of their conversation, before a session is made for them alone."""

LIMITS = Limits(content=64 * 1024 * 1024)
"""What an imported entry may hold: it was said, so it is kept, also where a client could not send it in one call."""

CALLS = "tool calls without a result"
NO_CONVERSATION = "nothing was said in this conversation"
UNPLACED = "waits for the record that it follows"

Progress = Callable[[int], None]


@dataclass(slots=True)
class Report:
    """What became of an import so far, counted: files, records by their kind, what they became, and what was wrong."""

    files: int = 0
    tally: Tally = field(default_factory=Tally)
    waiting: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def to_dict(self) -> ImportDict:
        """Return the report as it is shown; what it counts adds up."""
        tally = self.tally
        skipped: list[SkippedDict] = [
            {"type": kind, "reason": reason, "records": count}
            for (kind, reason), count in sorted(tally.skipped.items())
        ]
        return {
            "files": self.files,
            "records": tally.stored.total() + tally.already_there.total() + tally.skipped.total(),
            "stored": dict(sorted(tally.stored.items())),
            "already_there": dict(sorted(tally.already_there.items())),
            "skipped": skipped,
            "waiting": dict(sorted((+(self.waiting + Counter({CALLS: tally.waiting}))).items())),
            "added": dict(sorted((+tally.added).items())),
            "left_out": dict(sorted((+self.left_out).items())),
            "problems": [{"file": file, "problem": problem} for file, problem in self.problems],
        }


async def import_file(
    service: ChatService,
    user_id: UserId,
    origin: Origin,
    form: Format,
    path: Path,
    report: Report,
    *,
    progress: Progress = lambda _: None,
) -> None:
    """Import a file, and add to the report what became of it; `progress` hears how many bytes were read so far."""
    report.files += 1
    try:
        with path.open("rb") as bytes_of_file:
            file = io.TextIOWrapper(bytes_of_file, encoding="utf-8", errors="surrogateescape", newline="\n")
            source = Source(file, form.name_of(path))
            await _import(
                _Importing(service, user_id, origin, report), form, source, lambda: progress(bytes_of_file.tell())
            )
    except OSError as error:
        report.problems.append((str(path), f"{COULD_NOT_BE_READ} ({error.strerror})"))
        return
    except ChatError as error:
        report.problems.append((str(path), str(error)))
    _report_source(report, path, source)


async def import_lines(
    service: ChatService, user_id: UserId, origin: Origin, form: Format, file: TextIO, name: str
) -> ImportDict:
    """Import an open file under a name, and return what became of it."""
    report, source = Report(files=1), Source(file, name)
    await _import(_Importing(service, user_id, origin, report), form, source)
    _report_source(report, Path(name), source)
    return report.to_dict()


async def _import(
    importing: "_Importing", form: Format, source: Source, progressed: Callable[[], None] = lambda: None
) -> None:
    """Store all records of a source, and tell after each batch."""
    for record in form.read(source):
        await importing.take(record)
        if importing.is_new_batch:
            progressed()
    await importing.finish()


def _report_source(report: Report, path: Path, source: Source) -> None:
    report.waiting += source.waiting
    report.left_out += source.left_out
    unreadable = +source.unreadable
    for kind, count in unreadable.items():
        report.tally.skipped[kind, COULD_NOT_BE_READ] += count
    if unreadable or source.unparsed:
        counts = ", ".join(f"{kind}: {count}" for kind, count in sorted((unreadable + source.unparsed).items()))
        report.problems.append((str(path), f"{COULD_NOT_BE_READ} in full ({counts})"))


class _Importing:
    """Gathers records into batches, and stores them."""

    def __init__(self, service: ChatService, user_id: UserId, origin: Origin, report: Report) -> None:
        self._service = service
        self._user_id = user_id
        self._origin = origin
        self._report = report
        self._records: list[Record] = []
        self._endings: list[Ending] = []
        self._held: list[Record] = []
        self._unplaced: list[Record] = []
        self._left_out = LeftOut({})
        self._entries = 0
        self._characters = 0
        self.is_new_batch = False

    async def take(self, record: Record | Ending) -> None:
        """Read on: store the batch where it is full."""
        if isinstance(record, Ending):
            self._endings.append(record)
        else:
            _make_fit(record)
            self._records.append(record)
            self._entries += len(record.entries)
            self._characters += len(record.raw)
        self.is_new_batch = (
            max(self._entries, len(self._records), len(self._endings)) >= MAX_ENTRIES
            or self._characters >= MAX_CHARACTERS
        )
        if self.is_new_batch:
            await self._store()

    async def finish(self) -> None:
        """Store what is left."""
        await self._store()
        self._skip(self._held, NO_CONVERSATION)
        self._skip(self._unplaced, UNPLACED)

    async def _store(self) -> None:
        batch, endings = self._held + self._unplaced + self._records, self._endings
        self._records, self._endings, self._entries, self._characters = [], [], 0, 0
        force = len(self._held) + len(self._unplaced) > MAX_HELD
        user_id, origin, left_out = self._user_id, self._origin, self._left_out

        def unit(work: Work) -> Tally:
            importing = replace(work, limits=LIMITS)
            tally = import_batches.store(importing, user_id, origin, batch, left_out, force=force)
            for ending in endings:
                unplaced, tally.unplaced = tally.unplaced, []
                tally += import_batches.end(importing, user_id, origin, ending, unplaced, left_out)
            return tally

        if batch or endings:
            tally = await self._service.transaction(unit)
            over: list[Conversation] = [ending.conversation for ending in endings]
            self._held = self._unless_over(tally.held, over, NO_CONVERSATION)
            self._unplaced = self._unless_over(tally.unplaced, over, UNPLACED)
            tally.held, tally.unplaced = [], []
            self._report.tally += tally

    def _unless_over(self, records: list[Record], over: list[Conversation], reason: str) -> list[Record]:
        """Return what may still come in, and count the rest as skipped."""
        self._skip((record for record in records if _is_of(record, over)), reason)
        return [record for record in records if not _is_of(record, over)]

    def _skip(self, records: Iterable[Record], reason: str) -> None:
        for record in records:
            is_unparsed = record.reason == COULD_NOT_BE_READ
            self._report.tally.skipped[record.kind, COULD_NOT_BE_READ if is_unparsed else reason] += 1


def _is_of(record: Record, conversations: list[Conversation]) -> bool:
    return any(record.conversation is conversation for conversation in conversations)


def _make_fit(record: Record) -> None:
    """Leave the entries of a record out, and say why, where they are larger than what can be kept."""
    try:
        for entry in record.entries:
            if isinstance(entry, NewMessage):
                LIMITS.check_messages([entry])
            else:
                LIMITS.check_tool_usage(entry)
    except (TooLarge, Invalid):
        record.entries, record.reason = [], "too large to be kept as an entry"
