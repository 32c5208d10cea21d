"""Reading an archive: line by line, checked, and restored in batches; what is wrong with a session ends that session.

The others are restored all the same. Nothing is restored of a batch in which a line is wrong.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from chat_service.archive.entries import Differs, Restored
from chat_service.archive.lines import (
    LINE,
    VERSION,
    ArchiveLine,
    BlobLine,
    HeaderLine,
    MessageLine,
    SessionEndLine,
    SessionLine,
    SourceRecordLine,
    ToolUsageLine,
)
from chat_service.archive.restore import Checked, DeletedHere, restore
from chat_service.imports import MAX_CHARACTERS, MAX_ENTRIES, Report
from chat_service.service import ChatService
from chat_service.tombstones import DELETED_HERE
from chat_service.transcripts.lines import MAX_RECORD, objects_of
from chat_service.transcripts.neutral import COULD_NOT_BE_READ, Source
from models.errors import ChatError
from models.ids import UserId

MAX_LINE = 4 * MAX_RECORD
"""A line holds the record of a source as text of its own, in which every quote is two characters."""

NOT_OURS = "line that is none of an archive"
_SHAPES = (HeaderLine, SessionLine, BlobLine, MessageLine, ToolUsageLine, SourceRecordLine, SessionEndLine)
_ADDED = {
    "session": "sessions",
    "message": "messages",
    "tool_usage": "tool calls",
    "source_record": "records kept",
    "blob": "attachments",
}
"""What other imports call the same."""

_FIELDS = {name for shape in _SHAPES for name in shape.model_fields}
"""Names that may be told: those of our own fields, and none that a file made up."""

OF_ANOTHER = "line of a session that could not be restored"


async def restore_file(
    service: ChatService,
    user_id: UserId,
    path: Path,
    report: Report,
    *,
    brings_back: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Restore an archive, and add to the report what became of it; `progress` hears how many bytes were read so far.

    What was deleted here is passed over, unless with `brings_back`.
    """
    report.files += 1
    source: Source | None = None
    try:
        with path.open("rb") as bytes_of_file:
            file = io.TextIOWrapper(bytes_of_file, encoding="utf-8", errors="replace", newline="\n")
            source = Source(file, str(path))
            restoring = _Restoring(service, user_id, path, report, brings_back=brings_back)
            for given, text in objects_of(source, MAX_LINE):
                if not await restoring.take(given, len(text)):
                    break
                progress(bytes_of_file.tell())
            await restoring.store()
    except OSError as error:
        report.problems.append((str(path), f"{COULD_NOT_BE_READ} ({error.strerror})"))
        return
    report.waiting += source.waiting
    for kind, count in (+source.unreadable).items():
        report.tally.skipped[kind, COULD_NOT_BE_READ] += count
        report.problems.append((str(path), f"{COULD_NOT_BE_READ} in full ({kind}: {count})"))


class _Restoring:
    """Gathers checked lines into batches, and restores them."""

    def __init__(self, service: ChatService, user_id: UserId, path: Path, report: Report, *, brings_back: bool) -> None:
        self._service = service
        self._user_id = user_id
        self._path = path
        self._report = report
        self._brings_back = brings_back
        self._lines: list[Checked] = []
        self._characters = 0
        self._has_header = False
        self._refused_as: str | None = None
        self._session_id = ""
        self._restored_to = 0
        # Up to which entry a session that was refused is here as the archive has it.
        self._alike_to: dict[str, int] = {}

    async def take(self, given: dict[str, object], size: int) -> bool:
        """Read one line; tells whether there is any use in reading on."""
        try:
            line = LINE.validate_python(given, strict=True)
        except ValidationError as error:
            return self._refuse(given, error)
        if isinstance(line, HeaderLine) or not self._has_header:
            self._has_header = isinstance(line, HeaderLine)
            if not self._has_header:
                self._complain(f"is no archive of version {VERSION}: its first line says what it is")
            return self._has_header
        if isinstance(line, SessionLine):
            await self.store()
            self._begin(line.id, 0 if line.forked_from is None else line.forked_from.seq)
        if self._refused_as is not None:
            self._skip(line, self._refused_as)
            return True
        self._lines.append((line, given))
        self._characters += size
        is_full = len(self._lines) >= MAX_ENTRIES or self._characters >= MAX_CHARACTERS
        # A blob and the message that refers to it are restored together.
        if isinstance(line, SessionEndLine) or (is_full and not isinstance(line, BlobLine)):
            await self.store()
        return True

    async def store(self) -> None:
        """Restore what was gathered."""
        lines, self._lines, self._characters = self._lines, [], 0
        if not lines:
            return
        user_id, brings_back, alike_to = self._user_id, self._brings_back, self._alike_to
        try:
            restored: Restored = await self._service.transaction(
                lambda work: restore(work, user_id, lines, alike_to, brings_back=brings_back)
            )
        except ChatError as error:
            self._complain(str(error))
            self._refuse_all(lines, OF_ANOTHER, alike_to=error.seq - 1 if isinstance(error, Differs) else None)
            return
        except DeletedHere:
            self._refuse_all(lines, DELETED_HERE)
            return
        self._restored_to = max(self._restored_to, restored.last_seq)
        tally = self._report.tally
        tally.stored += restored.stored
        tally.already_there += restored.already_there
        tally.added.update({_ADDED.get(kind, kind): count for kind, count in restored.stored.items()})

    def _refuse(self, given: dict[str, object], error: ValidationError) -> bool:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in problem["loc"] if isinstance(part, int) or part in _FIELDS)
        if not self._has_header:
            self._complain(f"is no archive of version {VERSION}: its first line says what it is")
            return False
        self._complain(f"holds a line that is none of an archive ({place or 'type'}: {problem['msg']})")
        self._report.tally.skipped[NOT_OURS, COULD_NOT_BE_READ] += 1
        lines, self._lines, self._characters = self._lines, [], 0
        self._refuse_all(lines, OF_ANOTHER)
        if given.get("type") == "session":
            self._begin(str(given.get("id")), 0)
            self._refuse_all([], OF_ANOTHER)
        return True

    def _begin(self, session_id: str, after_seq: int) -> None:
        self._session_id, self._restored_to, self._refused_as = session_id, after_seq, None

    def _refuse_all(self, lines: Sequence[Checked], reason: str, alike_to: int | None = None) -> None:
        """Leave these lines out, and what follows of their session, of which so much is here as the archive has it."""
        self._refused_as = reason
        self._alike_to[self._session_id] = self._restored_to if alike_to is None else alike_to
        for line, _ in lines:
            self._skip(line, reason)

    def _skip(self, line: ArchiveLine, reason: str) -> None:
        self._report.tally.skipped[line.type, reason] += 1

    def _complain(self, problem: str) -> None:
        self._report.problems.append((str(self._path), problem))
