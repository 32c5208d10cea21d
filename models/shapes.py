"""The shapes that leave: plain dicts that are JSON as they stand.

Each key is selected by name (`models.rows.columns`), so what is promised here and what is read cannot drift apart.
Times are RFC 3339 strings in UTC, durations milliseconds, lengths characters.
"""

from typing import Any, Literal, final

from typing_extensions import TypedDict

from models.inputs import Author, ContextShape, Kind, RunState, SessionStatus, ToolStatus
from models.total_shapes import ToolCountsDict


class UserDict(TypedDict):
    """A user; `last_seen_at` is when a client last opened the record in their name."""

    id: str
    username: str
    email: str | None
    display_name: str | None
    created_at: str
    last_seen_at: str


class SessionDict(TypedDict):
    """A chat session; its timeline is numbered 1 to `last_seq` without gaps.

    A fork's timeline begins with entries 1 to `forked_from_seq` of the session `forked_from`; its counts are those of
    its own entries alone. `merged_into` is the session that took over all its entries.
    """

    id: str
    user_id: str
    title: str | None
    status: SessionStatus
    session_data: dict[str, Any] | None
    client: str | None
    last_seq: int
    message_count: int
    tool_usage_count: int
    created_at: str
    last_append_at: str | None
    source: str | None
    source_id: str | None
    forked_from: str | None
    forked_from_seq: int | None
    merged_into: str | None


@final
class MessageDict(TypedDict):
    """A message; `id` is made of session and seq, `message_type` is its role.

    What a fork inherits is shown as it is in the session that has it: its `id` and `session_id` are of that session.
    """

    id: str
    session_id: str
    user_id: str
    seq: int
    kind: Kind
    message_type: Literal["system", "user", "assistant", "tool"]
    content: str
    parts: list[dict[str, Any]] | None
    message_metadata: dict[str, Any] | None
    author: Author
    model: str | None
    usage: dict[str, Any] | None
    token_count: int | None
    replaces_seq: int | None
    created_at: str


@final
class ToolUsageDict(TypedDict):
    """A tool call and how it ended; `message_seq` is the message that asked for it, where that is known."""

    id: str
    session_id: str
    user_id: str
    seq: int
    message_seq: int | None
    tool_call_id: str | None
    server_name: str | None
    tool_name: str
    arguments: dict[str, Any]
    result: Any
    status: ToolStatus
    error: str | None
    started_at: str | None
    duration_ms: float | None
    origin: Author
    token_count: int | None
    call_metadata: dict[str, Any] | None
    created_at: str


class MessagePreviewDict(TypedDict):
    """The beginning of a message; `content_length` counts the whole."""

    seq: int
    kind: Kind
    message_type: str
    content: str
    content_length: int
    parts: str | None
    parts_length: int | None
    replaces_seq: int | None


class CorrectionDict(MessagePreviewDict):
    """The beginning of a message that corrects another one, directly or through corrections in between."""

    corrects_seq: int


class ToolUsagePreviewDict(TypedDict):
    """The beginning of a tool usage, arguments and result as JSON text; the lengths count the whole."""

    seq: int
    message_seq: int | None
    tool_call_id: str | None
    server_name: str | None
    tool_name: str
    arguments: str
    arguments_length: int
    result: str | None
    result_length: int | None
    status: ToolStatus
    error: str | None
    error_length: int | None
    duration_ms: float | None


class WindowDict(TypedDict):
    """Where a window of a session's timeline lies: how many entries are before and after it, and how to read on.

    `before_seq` reads on towards the start and is None where there is nothing more; `after_seq` reads on towards the
    end, and later what is appended.
    """

    session: SessionDict
    older: int
    newer: int
    before_seq: int | None
    after_seq: int


class HistoryDict(WindowDict):
    """A window of a session's timeline, oldest entry first; of the entries, messages alone have a `message_type`."""

    entries: list[MessageDict | ToolUsageDict]


class HistoryPreviewDict(WindowDict):
    """The same window, with the beginning of each text."""

    entries: list[MessagePreviewDict | ToolUsagePreviewDict]


class ReadDict(TypedDict):
    """A call that reads what was left out."""

    tool: Literal["get_session_history"]
    arguments: dict[str, Any]


class LeftOutDict(TypedDict):
    """A range of entries that a context does not hold, both ends included, and how to read it."""

    first_seq: int
    last_seq: int
    entries: int
    read: ReadDict


class CutDict(TypedDict):
    """An entry of which a context holds only a part, and how to read it whole."""

    seq: int
    read: ReadDict


class ManifestDict(TypedDict):
    """What a context holds of its session and what not: `shown` and `left_out` together are every entry.

    `shown` are ranges of seq, both ends included. `tool_names` and `tool_call_ids` map what is shown to what was
    recorded, where a provider would not have taken that. `corrected` are pairs: an entry, and the one whose text it
    has. `reasoning_left_out` are entries whose reasoning is not given.
    """

    last_seq: int
    entries_shown: int
    entries_left_out: int
    shown: list[list[int]]
    left_out: list[LeftOutDict]
    cut: list[CutDict]
    corrected: list[list[int]]
    reasoning_left_out: list[int]
    tool_names: dict[str, str]
    tool_call_ids: dict[str, str]


class ContextDict(TypedDict):
    """A window of a session that fits a budget of tokens, in the shape that was asked for.

    `window` is what the shape's provider takes; `token_count` counts it, as JSON, and is never above `token_budget`.
    """

    session_id: str
    shape: ContextShape
    token_budget: int
    token_count: int
    window: dict[str, Any]
    manifest: ManifestDict


class EntryPieceDict(TypedDict):
    """A piece of one entry's text, to be joined with those before and after it.

    The text is the message's content where that is all there is to it (`text/plain`), else the whole entry as JSON
    (`application/json`). Offsets and lengths count characters.
    """

    session_id: str
    seq: int
    content_type: Literal["text/plain", "application/json"]
    content: str
    content_offset: int
    content_length: int
    next_content_offset: int | None


class MessagePageDict(TypedDict):
    """A page of a session's messages, oldest first."""

    messages: list[MessageDict]
    before_seq: int | None
    after_seq: int | None


class SessionPageDict(TypedDict):
    """A page of sessions, newest first; `next_cursor` is None on the last page."""

    sessions: list[SessionDict]
    next_cursor: str | None


class ActiveSessionDict(TypedDict):
    """The active session with the newest append, and how many other active ones there are."""

    session: SessionDict | None
    other_active: int


class ToolUsagePageDict(TypedDict):
    """A page of tool usage, newest first; `next_cursor` is None on the last page."""

    tool_usages: list[ToolUsageDict]
    next_cursor: str | None


class ToolUsageLineDict(TypedDict):
    """A tool usage in a list; `arguments` and `result` are JSON text, and like `error` only its beginning."""

    session_id: str
    seq: int
    tool_name: str
    server_name: str | None
    status: ToolStatus
    arguments: str
    result: str | None
    error: str | None
    duration_ms: float | None
    started_at: str | None
    created_at: str


class ToolUsageListDict(TypedDict):
    """A list of tool usage, newest first; the counts of all that fits its filters are on the first page alone."""

    tool_usages: list[ToolUsageLineDict]
    next_cursor: str | None
    counts: ToolCountsDict | None


class SearchHitDict(TypedDict):
    """An entry that was found: a message has a `role`, a tool usage a `tool_name`.

    `created_at` is when it was stored; `said_at` is when an imported message was said, or a call began, where known.
    `snippet` is one line of some 300 characters at most, with what was found marked **like this**.
    """

    session_id: str
    session_title: str | None
    seq: int
    entry_type: Literal["message", "tool_usage"]
    role: str | None
    tool_name: str | None
    created_at: str
    said_at: str | None
    snippet: str


class SearchPageDict(TypedDict):
    """A page of hits, the best of the newest first; it may be short although more follow.

    `next_cursor` is None on the last page. `is_complete` is False where the newest entries could not be searched, since
    nothing can be written and so they are not indexed.
    """

    hits: list[SearchHitDict]
    next_cursor: str | None
    is_complete: bool


class SkippedDict(TypedDict):
    """Records of a type that became neither message nor tool call, and why."""

    type: str
    reason: str
    records: int


class ImportProblemDict(TypedDict):
    """A file that could not be read, or not all of it."""

    file: str
    problem: str


class ImportDict(TypedDict):
    """What became of an import: `records` are those stored, those that were there already, and those skipped.

    `stored` and `already_there` count records by their type. `waiting` is what is not whole yet and comes with the next
    import, `added` what was stored, `left_out` what is less than a record and could not be kept as it was.
    """

    files: int
    records: int
    stored: dict[str, int]
    already_there: dict[str, int]
    skipped: list[SkippedDict]
    waiting: dict[str, int]
    added: dict[str, int]
    left_out: dict[str, int]
    problems: list[ImportProblemDict]


class RunDict(TypedDict):
    """An answer that is being made or was made; `message_seq` is the question, `result` what came of it once done.

    While its state is running, the process that holds the lease is at work, until `lease_expires_at`.
    """

    id: str
    session_id: str
    user_id: str
    state: RunState
    message_seq: int
    lease_expires_at: str
    result: dict[str, Any] | None
    created_at: str


class DeletedDict(TypedDict):
    """What was deleted: its id, how many sessions and entries of theirs are gone, and the receipt in the audit log.

    Once every byte of it is overwritten, the log has a row more, `erased`, that names the receipt.
    """

    deleted: str
    sessions: int
    messages: int
    tool_usages: int
    receipt: int


class AuditEntryDict(TypedDict):
    """A row of the audit log; `detail` has counts and never content, and is None where it was erased."""

    id: int
    created_at: str
    action: Literal["session_deleted", "user_deleted", "erased"]
    detail: dict[str, int] | None


class AuditPageDict(TypedDict):
    """A page of the audit log, newest first; `next_cursor` is None on the last one."""

    entries: list[AuditEntryDict]
    next_cursor: str | None


class AuditCheckDict(TypedDict):
    """Whether the audit log is as it was written: its rows, those among them whose detail was erased, and its head.

    `broken_at` is the id of the first row that is not as it was written, or does not follow the one before it.
    """

    rows: int
    erased: int
    head: str
    broken_at: int | None


class HealthDict(TypedDict):
    """How the database is kept; `reason` says why it is not kept the usual way, where that is so."""

    status: Literal["ok"]
    engine: str
    library: str
    library_version: str
    journal_mode: str
    synchronous: str
    schema_version: int
    reason: str | None
