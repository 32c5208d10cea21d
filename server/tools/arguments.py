"""Arguments that several tools take, described once."""

from typing import Annotated

from pydantic import Field

from models.inputs import IdempotencyKey, JsonObject

SessionIdArgument = Annotated[
    str, Field(description="The session's handle: the `id` that start_session or list_sessions gave.")
]
MetadataArgument = Annotated[
    JsonObject | None, Field(description="Anything to keep with it, a JSON object of at most 16 KiB.")
]
IdempotencyKeyArgument = Annotated[
    IdempotencyKey | None,
    Field(description="Your own unique key: repeating the call with it is safe and returns the first result."),
]
CursorArgument = Annotated[str | None, Field(description="next_cursor of the page before, unchanged.")]
LimitArgument = Annotated[int, Field(ge=1, le=30, description="How many at most, 1 to 30.")]
