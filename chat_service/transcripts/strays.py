"""What stands between the conversations of a file and cannot be read: no conversation says that it is its own.

It is kept with the conversation before it in which something was said, or else with the first one after it.
"""

from collections.abc import Iterable, Iterator

from chat_service.transcripts.lines import MAX_RECORD
from chat_service.transcripts.neutral import COULD_NOT_BE_READ, Conversation, Ending, Record, Source
from chat_service.transcripts.turns import Keys, key_of_line

_MAX_WAITING = 1_000


class Strays:
    """Finds a conversation for each; where a file has none, they are counted in its source and not kept."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._beside: Conversation | None = None
        self._keys = Keys()
        self._waiting: list[tuple[str, str]] = []
        self._characters = 0

    def take(self, kind: str, raw: str) -> Iterator[Record]:
        """Take one, and give its record where there is a conversation for it."""
        if self._beside is not None:
            yield self._record(self._beside, kind, raw)
        elif len(self._waiting) < _MAX_WAITING and self._characters + len(raw) <= MAX_RECORD:
            self._waiting.append((kind, raw))
            self._characters += len(raw)
        else:
            self._source.unreadable[kind] += 1

    def pass_on(self, records: Iterable[Record | Ending]) -> Iterator[Record | Ending]:
        """Give the records of a conversation, and then of what waited for one."""
        for record in records:
            yield record
            if isinstance(record, Record) and record.entries and record.conversation is not self._beside:
                self._beside, self._keys = record.conversation, Keys()
        if self._beside is not None:
            for kind, raw in self._waiting:
                yield self._record(self._beside, kind, raw)
            self._waiting = []

    def end(self) -> None:
        """Count those for which no conversation has come."""
        self._source.unreadable.update(kind for kind, _ in self._waiting)

    def _record(self, beside: Conversation, kind: str, raw: str) -> Record:
        self._source.unparsed[kind] += 1
        # Not the id that it would have within the conversation.
        native_id = self._keys.new(key_of_line(f"beside it: {raw}"))
        return Record(beside, kind, native_id, raw, reason=COULD_NOT_BE_READ)
