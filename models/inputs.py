"""The shapes that enter: validated at the door, trusted inside.

Sizes are not judged here, since their limits are settings: `chat_service.limits` does that.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from models.text import check_json, check_text

MAX_LINE = 512
"""Characters of a title or another text of one line."""

Text = Annotated[str, AfterValidator(check_text)]
Line = Annotated[str, StringConstraints(min_length=1, max_length=MAX_LINE), AfterValidator(check_text)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(check_text)]
IdempotencyKey = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(check_text)]
JsonObject = Annotated[dict[str, Any], AfterValidator(check_json)]
JsonValue = Annotated[Any, AfterValidator(check_json)]
Seq = Annotated[int, Field(ge=1, lt=2**53)]
Tokens = Annotated[int, Field(ge=0, lt=2**53)]


ROLE_ALIASES = {"human": "user", "developer": "system", "ai": "assistant"}
"""What others call the roles of ours."""


def _role_of(value: Any) -> Any:
    return ROLE_ALIASES.get(value, value) if isinstance(value, str) else value


Role = Annotated[Literal["system", "user", "assistant", "tool"], BeforeValidator(_role_of)]
Kind = Literal["message", "summary", "pin", "replacement"]
Author = Literal["user", "agent", "import", "proxy"]
SessionStatus = Literal["active", "archived"]
ToolStatus = Literal["success", "error", "cancelled", "unknown"]
RunState = Literal["running", "done", "failed"]
TokenGroup = Literal["model", "day", "session"]
ContextShape = Literal["own", "openai_chat", "openai_responses", "anthropic"]


def _to_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("has no time zone: write it like 2026-01-31T12:00:00Z")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("lies outside the years 1 to 9999") from None


Timestamp = Annotated[datetime, AfterValidator(_to_utc)]


class Input(BaseModel):
    """What every input shares: unknown fields are refused, and an input never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NewUser(Input):
    """A user to find or create; `issuer` and `subject` are those of a verified token and come together."""

    username: Name
    email: Line | None = None
    display_name: Line | None = None
    issuer: Line | None = None
    subject: Line | None = None

    @model_validator(mode="after")
    def _token_is_whole(self) -> "NewUser":
        if (self.issuer is None) != (self.subject is None):
            raise ValueError("issuer and subject come together: give both or neither")
        return self


class UserChanges(Input):
    """What to change of a user; a field that is not given stays as it is, one given as null is cleared."""

    email: Line | None = None
    display_name: Line | None = None


class NewSession(Input):
    """A chat session to create; `source` and `source_id` say where an imported one came from."""

    title: Line | None = None
    session_data: JsonObject | None = None
    client: Line | None = None
    source: Line | None = None
    source_id: Line | None = None
    idempotency_key: IdempotencyKey | None = None

    @model_validator(mode="after")
    def _source_is_whole(self) -> "NewSession":
        if (self.source is None) != (self.source_id is None):
            raise ValueError("source and source_id come together: give both or neither")
        return self


class SessionChanges(Input):
    """What to change of a session; a field that is not given stays as it is, one given as null is cleared."""

    title: Line | None = None
    status: SessionStatus | None = None
    session_data: JsonObject | None = None


class TextPart(Input):
    """Plain text (OpenTelemetry GenAI part `text`)."""

    type: Literal["text"]
    content: Text


class ReasoningPart(Input):
    """What the model thought before it answered (OpenTelemetry GenAI part `reasoning`)."""

    type: Literal["reasoning"]
    content: Text
    signature: Text | None = None


class ToolCallPart(Input):
    """A reference to a tool call; its arguments and result are kept by the tool usage of the same tool_call_id."""

    type: Literal["tool_call"]
    id: Name
    name: Name | None = None


class ToolCallResponsePart(Input):
    """A reference to a tool call's result, which the tool usage of the same tool_call_id keeps."""

    type: Literal["tool_call_response"]
    id: Name


class BlobPart(Input):
    """Bytes in base64, with their media type (OpenTelemetry GenAI part `blob`)."""

    type: Literal["blob"]
    content: Text
    mime_type: Line | None = None
    modality: Line | None = None


class BlobReferencePart(Input):
    """Bytes that are kept once for all messages that hold them, by the digest of their content; made by an import."""

    type: Literal["blob_reference"]
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0, lt=2**53)]
    mime_type: Line | None = None
    modality: Line | None = None


class FilePart(Input):
    """A file that the provider keeps (OpenTelemetry GenAI part `file`)."""

    type: Literal["file"]
    file_id: Line
    mime_type: Line | None = None
    modality: Line | None = None


class UriPart(Input):
    """Something at an address (OpenTelemetry GenAI part `uri`)."""

    type: Literal["uri"]
    uri: Annotated[str, StringConstraints(min_length=1, max_length=8192), AfterValidator(check_text)]
    mime_type: Line | None = None
    modality: Line | None = None


Part = Annotated[
    TextPart | ReasoningPart | ToolCallPart | ToolCallResponsePart | BlobPart | FilePart | UriPart,
    Field(discriminator="type"),
]


KeptPart = Annotated[
    TextPart | ReasoningPart | ToolCallPart | ToolCallResponsePart | BlobPart | BlobReferencePart | FilePart | UriPart,
    Field(discriminator="type"),
]
"""A part as it may be stored; a client gives none that refers to a blob, since it could name one of somebody else."""


class TimeRange(Input):
    """A range of time; its beginning belongs to it, its end does not, and without one it is open."""

    since: Timestamp | None = None
    until: Timestamp | None = None

    @model_validator(mode="after")
    def _is_in_order(self) -> "TimeRange":
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError("until is not after since: swap them, or leave one out")
        return self


class Usage(Input):
    """Tokens that a model's answer cost, as its provider counted them."""

    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    cache_read_tokens: Tokens | None = None
    cache_write_tokens: Tokens | None = None
    """Within the input tokens with OpenAI, Codex and Google, beside them with Anthropic and Claude Code."""

    reasoning_tokens: Tokens | None = None
    """Within the output tokens; where Google counts them beside, `chat` has added them."""


def check_says_something(content: str, parts: Sequence[Part | KeptPart] | None) -> None:
    """Raise ValueError where a message has neither text nor parts."""
    if not content and not parts:
        raise ValueError("content is empty: give some text, or parts where text is not enough")


class NewMessage(Input):
    """A message to append; text goes into `content`, what text cannot hold into `parts`."""

    role: Role
    content: Text = ""
    parts: list[KeptPart] | None = None
    message_metadata: JsonObject | None = None
    kind: Kind = "message"
    author: Author = "agent"
    model: Line | None = None
    usage: Usage | None = None
    token_count: Tokens | None = None
    replaces_seq: Seq | None = None
    idempotency_key: IdempotencyKey | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "NewMessage":
        check_says_something(self.content, self.parts)
        if (self.kind == "replacement") != (self.replaces_seq is not None):
            raise ValueError("kind replacement and replaces_seq come together: give both or neither")
        return self


class NewToolUsage(Input):
    """A tool call that has ended; `status` is taken from `error` where it is not given."""

    tool_name: Name
    arguments: JsonObject
    result: JsonValue = None
    status: ToolStatus | None = None
    error: Text | None = None
    started_at: Timestamp | None = None
    duration_ms: Annotated[float, Field(ge=0, lt=1e12, allow_inf_nan=False)] | None = None
    tool_call_id: Name | None = None
    server_name: Name | None = None
    message_seq: Seq | None = None
    origin: Author = "agent"
    call_metadata: JsonObject | None = None
    idempotency_key: IdempotencyKey | None = None

    @property
    def outcome(self) -> ToolStatus:
        """How the call ended, as it is stored."""
        return self.status or ("error" if self.error is not None else "success")


class NewRun(Input):
    """A question to a model that is to be answered once; without `session_id` in a new session of this title."""

    message: NewMessage
    session_id: Name | None = None
    title: Line | None = None
    client: Line | None = None
    model: Line | None = None
    idempotency_key: IdempotencyKey


class Lease(Input):
    """Who is at work on a run, and for how many seconds from now unless it is renewed."""

    owner: Name
    seconds: Annotated[float, Field(gt=0, le=3_600)]


class RunCall(Input):
    """A tool call that a run is about to make; its record follows when it has ended."""

    tool_call_id: Name
    server_name: Name | None = None
    tool_name: Name
    arguments: JsonObject
