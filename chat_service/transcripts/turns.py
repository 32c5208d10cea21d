"""A turn that is being read: what somebody said in one record, and the tool usages that ended in it."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from chat_service.transcripts.calls import Call, Calls
from chat_service.transcripts.neutral import COULD_NOT_BE_READ, LINE, Branch, Conversation, Entry, Record, Source
from chat_service.transcripts.storable import MAX_NAME, Storable, digest_of_text, short
from models.inputs import (
    NewMessage,
    NewToolUsage,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolCallResponsePart,
    Usage,
)

SAYS_NOTHING = "says nothing"
RESULTS_WITHOUT_CALLS = "holds results without calls"


class Keys:
    """The keys of a conversation: each is given once, a repeated one with its number."""

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._repeats: Counter[str] = Counter()

    def new(self, wanted: str) -> str:
        """Return the key that is wanted, or the next one like it where that was given before."""
        key = short(wanted)
        while key in self._given:
            self._repeats[wanted] += 1
            key = short(f"{wanted}:{self._repeats[wanted] + 1}")
        self._given.add(key)
        return key


@dataclass(slots=True)
class Talk:
    """What the turns of one conversation share."""

    storable: Storable
    calls: Calls = field(default_factory=Calls)
    keys: Keys = field(default_factory=Keys)
    asked: int = 0


@dataclass(slots=True)
class Turn:
    """What one record says so far; `key` is the idempotency key of its message."""

    talk: Talk
    key: str
    moment: datetime | None
    branch: Branch | None = None
    parts: list[Part] = field(default_factory=list)
    usages: list[NewToolUsage] = field(default_factory=list)
    results: int = 0
    asks: bool = False

    def say(self, text: str) -> bool:
        """Add text; tells whether there was any."""
        if text:
            self.parts.append(TextPart(type="text", content=text))
        return bool(text)

    def think(self, text: str, signature: str | None = None) -> bool:
        """Add what the model thought; tells whether there was anything."""
        if text:
            self.parts.append(ReasoningPart(type="reasoning", content=text, signature=signature or None))
        return bool(text)

    def ask(self, call_id: Any, name: Any, arguments: Any) -> bool:
        """Add a tool call, which waits for its result."""
        talk = self.talk
        talk.asked += 1
        known_id = talk.storable.name(call_id) or short(f"{self.key}:{talk.asked}")
        known_name = talk.storable.line(name, MAX_NAME) or "unknown"
        key = talk.keys.new(f"tool:{known_id}")
        given = talk.storable.arguments(arguments)
        talk.calls.ask(Call(known_id, known_name, given, key, self.moment, self.key, self.branch))
        self.parts.append(ToolCallPart(type="tool_call", id=known_id, name=known_name))
        self.asks = True
        return True

    def answer(self, call_id: Any, result: Any, *, failed: bool = False, name: str | None = None) -> bool:
        """Add the result of a call; one without its call is counted."""
        self.results += 1
        storable = self.talk.storable
        usage = self.talk.calls.answer(
            storable.name(call_id), storable.json(result), self.moment, self.branch, failed=failed, name=name
        )
        if usage is None:
            storable.left_out["tool result without a call"] += 1
            return True
        self.usages.append(usage)
        if usage.tool_call_id is not None:
            self.parts.append(ToolCallResponsePart(type="tool_call_response", id=usage.tool_call_id))
        return True

    @property
    def content(self) -> str:
        """The text of all parts."""
        return "\n\n".join(part.content for part in self.parts if isinstance(part, TextPart))

    def is_said(self) -> bool:
        """Tell whether there is more than results."""
        return not all(isinstance(part, ToolCallResponsePart) for part in self.parts)

    def entries(
        self, role: Role, metadata: dict[str, Any] | None = None, model: str | None = None, usage: Usage | None = None
    ) -> list[Entry]:
        """Return the message, if anything was said, and the tool usages: after it if it asked for them, else before."""
        if not self.is_said():
            return [*self.usages]
        message = NewMessage(
            role=role,
            content=self.content,
            parts=None if all(isinstance(part, TextPart) for part in self.parts) else self.parts,
            message_metadata=metadata or None,
            author="import",
            model=model,
            usage=usage,
            idempotency_key=self.key,
        )
        return [message, *self.usages] if self.asks else [*self.usages, message]

    def reason(self) -> str | None:
        """Say why nothing became of the record, None where something did."""
        if self.is_said() or self.usages:
            return None
        return RESULTS_WITHOUT_CALLS if self.results else SAYS_NOTHING


def key_of_line(line: str) -> str:
    """Return the native id of a record that has none: it is made of what it says."""
    return f"{LINE}{digest_of_text(line)}"


def unparsed(source: Source, talk: Talk, conversation: Conversation, kind: str, line: str) -> Record:
    """Return the record of a line of a conversation that holds nothing that can be read, and count it."""
    source.unparsed[kind] += 1
    return Record(conversation, kind, talk.keys.new(key_of_line(line)), line, reason=COULD_NOT_BE_READ)
