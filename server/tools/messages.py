"""The tool that appends messages."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import TypedDict

from models.ids import SessionId
from models.inputs import (
    IdempotencyKey,
    JsonObject,
    Line,
    NewMessage,
    Part,
    Role,
    Seq,
    Text,
    Usage,
    check_says_something,
)
from server.record import Caller
from server.results import Reply, reply
from server.tools.arguments import SessionIdArgument


class MessageArgument(BaseModel):
    """A message to append."""

    model_config = ConfigDict(extra="forbid")

    role: Annotated[Role, Field(description="Who speaks.")]
    content: Annotated[Text, Field(description="The text, at most 1 MiB unless the server is set otherwise.")] = ""
    parts: Annotated[
        list[Part] | None,
        Field(
            description="Where text is not enough: OpenTelemetry GenAI parts in order. "
            "A tool_call names only its id; log_tool_usage keeps its arguments and result."
        ),
    ] = None
    metadata: Annotated[JsonObject | None, Field(description="Anything to keep with it, at most 16 KiB.")] = None
    model: Annotated[Line | None, Field(description="The model that wrote it.")] = None
    usage: Annotated[Usage | None, Field(description="Tokens, as the provider counted them.")] = None
    kind: Annotated[
        Literal["message", "summary", "pin"],
        Field(description="pin: every get_context gives it. summary: of what came before it; the newest one is given."),
    ] = "message"
    replaces_seq: Annotated[
        Seq | None, Field(description="The message that this one corrects; it stays the kind that it is.")
    ] = None
    idempotency_key: Annotated[
        IdempotencyKey | None, Field(description="Your own unique key, which makes repeating the call safe.")
    ] = None

    @model_validator(mode="after")
    def _says_something(self) -> "MessageArgument":
        check_says_something(self.content, self.parts)
        if self.replaces_seq is not None and self.kind != "message":
            raise ValueError("kind and replaces_seq exclude each other: a corrected message stays the kind that it is")
        return self

    def to_input(self) -> NewMessage:
        """Return the message as the service takes it."""
        return NewMessage(
            role=self.role,
            content=self.content,
            parts=None if self.parts is None else [*self.parts],
            message_metadata=self.metadata,
            kind=self.kind if self.replaces_seq is None else "replacement",
            model=self.model,
            usage=self.usage,
            replaces_seq=self.replaces_seq,
            idempotency_key=self.idempotency_key,
        )


class StoredMessage(TypedDict):
    """A message that is stored now, under its number in the session's timeline."""

    seq: int
    role: Literal["system", "user", "assistant", "tool"]


class AddMessagesReply(TypedDict):
    """What was stored; last_seq of these is the expected_seq of the next append, if you make it conditional."""

    session_id: str
    created_at: str
    messages: list[StoredMessage]


async def add_messages(
    caller: Caller,
    session_id: SessionIdArgument,
    messages: Annotated[
        list[MessageArgument], Field(min_length=1, max_length=500, description="1 to 500 messages, in order.")
    ],
    expected_seq: Annotated[
        int | None, Field(ge=0, description="Append only if the session's last seq is this; else nothing is stored.")
    ] = None,
) -> Reply[AddMessagesReply]:
    """Append messages to a session, all of them or none, and return the seq of each.

    When this has answered, they are durable. Give each message an idempotency_key: then a call that timed out can be
    repeated as it was, and stores nothing twice. Tool calls and their results go to log_tool_usage.
    """
    stored = await caller.service.add_messages(
        caller.user_id, SessionId(session_id), [message.to_input() for message in messages], expected_seq
    )
    created_at = stored[0]["created_at"]
    rows: list[StoredMessage] = [{"seq": message["seq"], "role": message["message_type"]} for message in stored]
    listed = ", ".join(f"{row['seq']} {row['role']}" for row in rows)
    return reply(
        {"session_id": session_id, "created_at": created_at, "messages": rows},
        f"stored in session {session_id} at {created_at}, seq and role: {listed}",
    )
