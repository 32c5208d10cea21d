"""Reads a transcript of Claude Code: one JSON object a line, as it lies under `~/.claude/projects`.

The client writes a line for each block of an answer, a user line for each tool result, and lines of its own between
them (snapshots, titles, notices). Here a line that says something becomes a message, a tool call and its result become
one tool usage, and everything else is a record with a reason. What a subagent did (`isSidechain`) is a branch, and so
is what was said after going back to an earlier prompt: a second prompt after the same line.
"""

import io
from collections.abc import Iterable, Iterator
from typing import Any

from chat_service.transcripts.blocks import take_content
from chat_service.transcripts.lines import lines_of
from chat_service.transcripts.neutral import (
    REPEATS,
    Branch,
    Conversation,
    Ending,
    Entry,
    Record,
    Source,
    Transcript,
    collect,
)
from chat_service.transcripts.storable import (
    MAX_LINE,
    MAX_TITLE,
    Storable,
    digest_of_text,
    moment_of,
    usage_of,
)
from chat_service.transcripts.turns import RESULTS_WITHOUT_CALLS, SAYS_NOTHING, Talk, Turn, key_of_line, unparsed
from models.inputs import Role, Usage

NOT_SAID = "not part of what was said"

MAX_PATH = 4096

_TITLES = {"custom-title": "customTitle", "ai-title": "aiTitle", "summary": "summary"}
"""Lines that name the session, and under which key; what a person chose comes first."""

_TURNS: dict[str, Role] = {"user": "user", "assistant": "assistant"}
_FLAGS = ("isMeta", "isCompactSummary", "isApiErrorMessage")
_COUNTED_AS = {SAYS_NOTHING: "empty message", REPEATS: "repeated line"}


def read(lines: Iterable[str]) -> Transcript:
    """Read the lines of one session into memory; whatever they hold, nothing is raised.

    A tool usage stands where its result came, one whose result never came where the conversation went on, or at the
    end, with status `unknown`. What an answer cost is counted once: the client repeats it on each of its lines.
    """
    text = "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)
    source = Source(io.StringIO(text.removesuffix("\n") if text else text, newline="\n"), "")
    return collect(source, read_records(source), _COUNTED_AS | {RESULTS_WITHOUT_CALLS: ""})


def read_records(source: Source) -> Iterator[Record | Ending]:
    """Read the records of one session."""
    reader = _Reader(source)
    for record, line in lines_of(source):
        yield reader.take_unparsed(record, line) if isinstance(record, str) else reader.take(record, line)
    yield reader.ending()


class _Reader:
    """What is known after so many lines."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._storable = Storable(source.left_out)
        self._talk = Talk(self._storable)
        self._conversation = Conversation(source.name)
        self._is_named = False
        self._lines: set[tuple[str, str]] = set()
        self._titles: dict[str, str] = {}
        self._counted: dict[str, dict[str, int]] = {}
        self._branches: dict[str, Branch | None] = {}
        self._prompted: set[str] = set()
        self._last_key: str | None = None

    def take(self, record: dict[str, Any], line: str) -> Record:
        """Read one line."""
        conversation = self._conversation
        session_id = self._storable.name(record.get("sessionId"))
        if session_id and not self._is_named:
            conversation.source_id, self._is_named = session_id, True
        conversation.workspace = conversation.workspace or self._storable.line(record.get("cwd"), MAX_PATH)
        kind = self._storable.line(record.get("type"), MAX_TITLE) or "line without a type"
        uuid = self._storable.name(record.get("uuid"))
        digest = digest_of_text(line)
        taken = Record(conversation, kind, uuid or key_of_line(line), line, moment=moment_of(record.get("timestamp")))
        if uuid is not None and (uuid, digest) in self._lines:
            taken.reason = REPEATS
            return taken
        if uuid is not None:
            self._lines.add((uuid, digest))
        taken.native_id = self._talk.keys.new(taken.native_id)
        taken.branch = self._branch_of(record, uuid)
        if kind in _TURNS:
            self._take_turn(_TURNS[kind], record, taken)
        else:
            taken.reason = NOT_SAID
            if kind in _TITLES:
                self._entitle(kind, self._storable.title(record.get(_TITLES[kind]), MAX_LINE))
        if taken.branch is None:
            self._last_key = taken.native_id
            conversation.last_moment = taken.moment or conversation.last_moment
        self._is_named = self._is_named or bool(taken.entries)
        return taken

    def take_unparsed(self, kind: str, line: str) -> Record:
        """Take a line that holds nothing that can be read."""
        return unparsed(self._source, self._talk, self._conversation, kind, line)

    def ending(self) -> Ending:
        """Return what is still open."""
        return Ending(self._conversation, self._talk.calls.waiting())

    def _branch_of(self, record: dict[str, Any], uuid: str | None) -> Branch | None:
        parent = self._storable.name(record.get("parentUuid"))
        branch = self._branches.get(parent or "")
        if record.get("isSidechain") is True:
            agent = self._storable.name(record.get("agentId"))
            if agent is not None:
                branch = Branch(agent, None, self._branches_at(agent), begins_anew=True)
            elif branch is None:
                branch = Branch(uuid or "sidechain", None, self._last_key, begins_anew=True)
        elif parent is not None and _is_prompt(record):
            if parent in self._prompted:
                branch = Branch(uuid or key_of_line(parent), branch.id if branch else None, parent)
            self._prompted.add(parent)
        if branch is not None and uuid is not None:
            self._branches[uuid] = branch
        return branch

    def _branches_at(self, agent: str) -> str | None:
        known = self._branches.setdefault(f"agent:{agent}", Branch(agent, None, self._last_key, begins_anew=True))
        return known.after if known else None

    def _take_turn(self, role: Role, record: dict[str, Any], taken: Record) -> None:
        message = record.get("message")
        if not isinstance(message, dict):
            message = {}
        turn = Turn(self._talk, taken.native_id, taken.moment, taken.branch)
        take_content(turn, message.get("content"))
        taken.reason = turn.reason()
        is_meta = record.get("isMeta") is True
        closed: list[Entry] = []
        if role == "user" and turn.is_said() and not turn.results and not is_meta:
            closed = [*self._talk.calls.close(taken.branch)]
            if "user" not in self._titles and taken.branch is None:
                self._entitle("user", self._storable.title(turn.content))
        usage = self._usage(message) if turn.is_said() else None
        model = self._storable.line(message.get("model"))
        taken.entries = closed + turn.entries(role, self._metadata(record, message), model, usage)

    def _entitle(self, kind: str, title: str | None) -> None:
        if title:
            self._titles[kind] = title
            self._conversation.title = next(self._titles[kind] for kind in (*_TITLES, "user") if kind in self._titles)

    def _metadata(self, record: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
        said = {name: record.get(name) for name in ("uuid", "parentUuid", "timestamp", "requestId")}
        lines = {name: self._storable.line(value) for name, value in (said | {"messageId": message.get("id")}).items()}
        flags = {flag: True for flag in _FLAGS if record.get(flag) is True}
        return {name: value for name, value in lines.items() if value} | flags

    def _usage(self, message: dict[str, Any]) -> Usage | None:
        """Return what the line adds to what the lines of the same answer have said that it cost."""
        usage, message_id = usage_of(message.get("usage")), self._storable.name(message.get("id"))
        if usage is None or message_id is None:
            return usage
        before = self._counted.setdefault(message_id, {})
        counts = usage.model_dump(exclude_none=True)
        more = {name: max(0, count - before.get(name, 0)) for name, count in counts.items()}
        before.update({name: before.get(name, 0) + count for name, count in more.items()})
        return Usage(**more)


def _is_prompt(record: dict[str, Any]) -> bool:
    """Tell whether a person says something here, rather than a tool or the client."""
    if record.get("type") != "user" or record.get("isMeta") is True:
        return False
    message = record.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        return not any(isinstance(block, dict) and block.get("type") == "tool_result" for block in content)
    return isinstance(content, str)
