"""Reads a rollout of the Codex command line: one JSON object a line, as it lies under `~/.codex/sessions`.

A line of type `response_item` holds an item as the Responses API knows it, and the first line says which session it is.
Lines of other types repeat the items for the screen, or say how the turn was run: records with a reason. One of them
counts, after each answer, the tokens of the whole session until there: the answer cost what the count has grown by.
"""

from collections.abc import Iterator
from typing import Any

from chat_service.transcripts.items import take_item
from chat_service.transcripts.lines import lines_of
from chat_service.transcripts.neutral import Conversation, Ending, Entry, Record, Source
from chat_service.transcripts.storable import MAX_TITLE, Storable, moment_of, usage_of
from chat_service.transcripts.turns import Talk, Turn, key_of_line, unparsed
from models.inputs import NewMessage, Usage

NOT_SAID = "not part of what was said"

_ITEM = "response_item"


def read_records(source: Source) -> Iterator[Record | Ending]:
    """Read the records of one session."""
    storable = Storable(source.left_out)
    talk = Talk(storable)
    conversation = Conversation(source.name)
    costs = _Costs()
    model: str | None = None
    is_named = False
    for line, text in lines_of(source):
        if isinstance(line, str):
            yield unparsed(source, talk, conversation, line, text)
            continue
        item, kind = _unwrap(line)
        record = Record(conversation, storable.line(kind, MAX_TITLE) or "line without a type", "", text)
        record.native_id = talk.keys.new(storable.name(item.get("id")) or key_of_line(text))
        record.moment = moment_of(line.get("timestamp"))
        conversation.last_moment = record.moment or conversation.last_moment
        if kind == "session_meta" and not is_named:
            session_id = storable.name(item.get("id")) or storable.name(item.get("session_id"))
            conversation.source_id = session_id or conversation.source_id
            conversation.workspace = storable.line(item.get("cwd"), 4096)
            is_named = True
        elif kind == "turn_context":
            model = storable.line(item.get("model")) or model
        if kind == _ITEM:
            record.kind = f"{_ITEM} {storable.line(item.get('type'), MAX_TITLE) or 'message'}"
            _take_item(talk, record, item, model)
            costs.note(record.entries)
            is_named = is_named or bool(record.entries)
        else:
            record.reason = NOT_SAID
            if item.get("type") == "token_count":
                record.costs = costs.of_answer(item.get("info"))
        yield record
    yield Ending(conversation, talk.calls.waiting())


class _Costs:
    """What answers cost: the messages since the last count, and what had been counted until there."""

    def __init__(self) -> None:
        self._waiting: list[str] = []
        self._counted: dict[str, int] = {}

    def note(self, entries: list[Entry]) -> None:
        """Remember the messages of an answer."""
        for entry in entries:
            if isinstance(entry, NewMessage) and entry.role == "assistant" and entry.idempotency_key is not None:
                self._waiting.append(entry.idempotency_key)

    def of_answer(self, info: Any) -> dict[str, Usage]:
        """Return by message what the answer cost: all of it with its last message, which the count stands after.

        A count that has not grown repeats the one before; one that shrank begins anew.
        """
        total = usage_of(info.get("total_token_usage")) if isinstance(info, dict) else None
        if total is None:
            return {}
        counts = total.model_dump(exclude_none=True)
        if any(counts[name] < self._counted.get(name, 0) for name in counts.keys() & _WHOLE):
            self._counted = {}
        more = {name: max(0, count - self._counted.get(name, 0)) for name, count in counts.items()}
        if not self._waiting or not any(more.values()):
            return {}
        nothing = Usage(**dict.fromkeys(more, 0))
        found = dict.fromkeys(self._waiting, nothing) | {self._waiting[-1]: Usage(**more)}
        self._counted |= {name: self._counted.get(name, 0) + count for name, count in more.items()}
        self._waiting = []
        return found


_WHOLE = {"input_tokens", "output_tokens"}
"""The counts that tell whether a session's count begins anew: the others are parts of them."""


def _unwrap(line: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return what a line holds and its type; rollouts of earlier versions hold the items themselves."""
    payload = line.get("payload")
    if isinstance(payload, dict):
        return payload, line.get("type")
    if "type" not in line and "id" in line:
        return line, "session_meta"
    return line, line.get("type") if "payload" in line or line.get("type") not in _BARE else _ITEM


_BARE = ("message", "reasoning", "function_call", "function_call_output", "local_shell_call")


def _take_item(talk: Talk, record: Record, item: dict[str, Any], model: str | None) -> None:
    turn = Turn(talk, record.native_id, record.moment)
    role, reason = take_item(turn, item)
    closed: list[Entry] = []
    is_prompt = role == "user" and turn.is_said() and not _is_context(turn.content)
    if is_prompt:
        closed = [*talk.calls.close(None)]
        record.conversation.title = record.conversation.title or talk.storable.title(turn.content)
    timestamp = None if record.moment is None else record.moment.isoformat()
    metadata = {"timestamp": timestamp} if timestamp else None
    record.entries = closed + turn.entries(role, metadata, model if role == "assistant" else None)
    record.reason = reason if not record.entries else None


def _is_context(text: str) -> bool:
    """Tell whether the client says this in the user's name: where it works, what the rules are."""
    return text.lstrip().startswith(("<environment_context>", "<user_instructions>", "# AGENTS.md instructions"))
