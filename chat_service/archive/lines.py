"""The lines of an archive: what each may hold, checked at the door, since a file may come from anywhere.

What is written is what stands in the rows, field by field; a field that is null is left out.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter, model_validator

from models.ids import from_microseconds, is_id, to_microseconds
from models.inputs import (
    Author,
    IdempotencyKey,
    Input,
    JsonObject,
    JsonValue,
    Line,
    Name,
    NewMessage,
    Seq,
    SessionStatus,
    Text,
    ToolStatus,
)

FORMAT = "mcp-chat-server"
VERSION = 1


def _check_id(value: str) -> str:
    if not is_id(value):
        raise ValueError("is not a session's id")
    return value


def _check_time(value: str) -> str:
    try:
        is_ours = from_microseconds(to_microseconds(value)) == value
    except (ValueError, TypeError, OverflowError):
        is_ours = False
    if not is_ours:
        raise ValueError("is not a time as it is written here: 2026-01-31T12:00:00.000000Z")
    return value


Id = Annotated[str, AfterValidator(_check_id)]
Time = Annotated[str, AfterValidator(_check_time)]
Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]
Count = Annotated[int, Field(ge=0, lt=2**53)]


class HeaderLine(Input):
    """The first line: what this is, and in which version it is written."""

    type: Literal["archive"]
    format: Literal["mcp-chat-server"]
    version: Literal[1]


class ForkLine(Input):
    """Where a session left another one."""

    session_id: Id
    seq: Count


class SessionLine(Input):
    """A session, before its entries."""

    type: Literal["session"]
    id: Id
    title: Line | None = None
    status: SessionStatus
    client: Line | None = None
    last_seq: Count
    created_at: Time
    last_append_at: Time | None = None
    forked_from: ForkLine | None = None
    source: Line | None = None
    source_id: Line | None = None
    idempotency_key: IdempotencyKey | None = None
    digest: Digest | None = None
    session_data: JsonObject | None = None
    merged_into: Id | None = None


class BlobLine(Input):
    """Bytes in base64, before the first message that refers to them."""

    type: Literal["blob"]
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    media_type: Line | None = None
    content: Text


class MessageLine(NewMessage):
    """A message as it is stored."""

    type: Literal["message"]
    role: Literal["system", "user", "assistant", "tool"]
    session_id: Id
    seq: Seq
    created_at: Time
    digest: Digest | None = None

    @model_validator(mode="after")
    def _replaces_an_earlier_one(self) -> "MessageLine":
        if self.replaces_seq is not None and self.replaces_seq >= self.seq:
            raise ValueError("replaces_seq is not the seq of an earlier message")
        return self


class ToolUsageLine(Input):
    """A tool call as it is stored."""

    type: Literal["tool_usage"]
    session_id: Id
    seq: Seq
    message_seq: Seq | None = None
    tool_call_id: Name | None = None
    server_name: Name | None = None
    tool_name: Name
    status: ToolStatus
    started_at: Time | None = None
    duration_ms: Annotated[float, Field(ge=0, lt=1e12, allow_inf_nan=False)] | None = None
    origin: Author
    idempotency_key: IdempotencyKey | None = None
    digest: Digest | None = None
    created_at: Time
    error: Text | None = None
    arguments: JsonObject
    result: JsonValue = None
    token_count: Count | None = None
    call_metadata: JsonObject | None = None


class SourceRecordLine(Input):
    """A record of the transcript that a session was imported from, as its client wrote it."""

    type: Literal["source_record"]
    session_id: Id
    number: Seq
    native_id: Text
    kind: Text
    seq: Count | None = None
    moment: Time | None = None
    content: str


class SessionEndLine(Input):
    """The end of a session: everything of it stands before this line."""

    type: Literal["session_end"]
    session_id: Id
    entries: Count
    source_records: Count


ArchiveLine = HeaderLine | SessionLine | BlobLine | MessageLine | ToolUsageLine | SourceRecordLine | SessionEndLine

LINE: TypeAdapter[ArchiveLine] = TypeAdapter(Annotated[ArchiveLine, Field(discriminator="type")])
"""Checks a line; what is stored of it is what it said, value by value."""


def without_nulls(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line without the fields that are null."""
    return {name: value for name, value in line.items() if value is not None}
