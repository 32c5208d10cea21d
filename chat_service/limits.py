"""How large what enters may be; a setting, so judged here and not by the inputs' types."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chat_service.tokens import TokenCounter, estimate_tokens
from models.errors import Invalid, TooLarge
from models.inputs import NewMessage, NewToolUsage
from models.text import to_json

MAX_BATCH = 500
MAX_PAGE = 500
MAX_WAIT_SECONDS = 60
MAX_LISTENERS = 256
MAX_LISTENED = 1_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes of UTF-8.

    `content` is for a message's content, its parts, and the arguments, result and error of a tool call, each;
    `metadata` for message_metadata, call_metadata and session_data. `count_tokens` says how many tokens a text takes:
    at each append, and when a context window is fitted to its budget.
    """

    content: int = 1_048_576
    metadata: int = 16_384
    count_tokens: TokenCounter = estimate_tokens

    def check_messages(self, messages: Sequence[NewMessage]) -> None:
        """Raise TooLarge or Invalid, naming the message and the field."""
        if not messages:
            raise Invalid("messages is empty: give at least one message.")
        if len(messages) > MAX_BATCH:
            raise TooLarge(f"messages holds {len(messages)} messages, at most {MAX_BATCH} fit in one call: split it.")
        for index, message in enumerate(messages):
            if _exceeds(message.content, self.content):
                raise _too_large(f"messages[{index}].content", self.content)
            if message.parts:
                parts = [part.model_dump() for part in message.parts]
                self._check_json(f"messages[{index}].parts", parts, self.content)
            if message.message_metadata is not None:
                self.check_metadata(f"messages[{index}].metadata", message.message_metadata)

    def check_tool_usage(self, usage: NewToolUsage) -> None:
        """Raise TooLarge, naming the field."""
        self._check_json("arguments", usage.arguments, self.content)
        self._check_json("result", usage.result, self.content)
        self._check_text("error", usage.error or "", self.content)
        self.check_metadata("call_metadata", usage.call_metadata)

    def check_metadata(self, field: str, value: dict[str, Any] | None) -> None:
        """Raise TooLarge, naming the field."""
        if value is not None:
            self._check_json(field, value, self.metadata)

    def _check_json(self, field: str, value: Any, limit: int) -> None:
        self._check_text(field, to_json(value), limit)

    def _check_text(self, field: str, value: str, limit: int) -> None:
        if _exceeds(value, limit):
            raise _too_large(field, limit)


def _exceeds(value: str, limit: int) -> bool:
    # A character is one to four bytes: most texts need no encoding to be judged.
    return len(value) * 4 > limit and (len(value) > limit or len(value.encode()) > limit)


def _too_large(field: str, limit: int) -> TooLarge:
    return TooLarge(f"{field} is larger than {limit} bytes: split it into several, in order.")
