"""The system prompt: what a model is told before the conversation.

A session that begins with a system message has its own, which holds however long the session grows; any other is asked
with the one of the settings. That one is not stored: it is a setting like the tools are, and holds from the next
question on.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chat_service.tokens import estimate_tokens
from models.errors import Invalid
from models.ids import SessionId, UserId
from models.text import check_text, to_json
from server.settings import PREFIX, Settings

if TYPE_CHECKING:
    from chat_service.service import ChatService
    from models.shapes import ContextDict


@dataclass(frozen=True, slots=True)
class Instructions:
    """A system prompt, and the seq of its message where it is the session's own."""

    text: str
    seq: int | None = None

    @property
    def tokens(self) -> int:
        """Return what it takes of a budget."""
        return estimate_tokens(to_json(self._message)) + 1 if self.text else 0

    def before(self, context: "ContextDict") -> dict[str, Any]:
        """Return the window of a context in the shape `openai_chat`, with these at its beginning."""
        window: dict[str, Any] = context["window"]
        shown = context["manifest"]["shown"]
        if not self.text or (self.seq is not None and shown and shown[0][0] == self.seq):
            return window
        return {**window, "messages": [self._message, *window["messages"]]}

    @property
    def _message(self) -> dict[str, str]:
        return {"role": "system", "content": self.text}


async def instructions_for(
    service: "ChatService", user_id: UserId, session_id: SessionId, settings: Settings, budget: int
) -> Instructions:
    """Return what a model is told before a session; raises Invalid where the settings name what cannot be read.

    A session's own may take half of the budget, as pins may; a longer one is there as long as the window reaches it.
    """
    page = await service.get_session_messages(user_id, session_id, 1, after_seq=0)
    for first in page["messages"]:
        # What we ourselves note of an interrupted answer is nobody's prompt.
        if first["message_type"] == "system" and first["author"] != "proxy":
            own = Instructions(first["content"], first["seq"])
            return own if own.tokens * 2 <= budget else Instructions("")
    return Instructions(_of_settings(settings))


def _of_settings(settings: Settings) -> str:
    text, file = settings.system_prompt, settings.system_prompt_file
    if file is None:
        return text or ""
    name = f"{PREFIX}SYSTEM_PROMPT_FILE"
    if text is not None:
        raise Invalid(f"{name} and {PREFIX}SYSTEM_PROMPT are both set: take one away.")
    try:
        return check_text(file.read_text(encoding="utf-8-sig")).strip()
    except OSError as error:
        raise Invalid(f"{name} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise Invalid(f"{name} is not UTF-8 text.") from None
