"""The shapes in which a window is given: our own, and those that the interfaces of model providers take as they stand.

Each renders turns into the arguments of one call to its provider. What an interface demands (roles that alternate, no
empty text, a result for every call) is met by construction, in these files and nowhere else.
"""

from collections.abc import Callable, Sequence
from typing import Any

from chat_service.provider_shapes import anthropic, openai_chat, openai_responses, own
from chat_service.turns import Turn
from models.inputs import ContextShape

Render = Callable[[Sequence[Turn]], dict[str, Any]]

RENDERERS: dict[ContextShape, Render] = {
    "own": own.render,
    "openai_chat": openai_chat.render,
    "openai_responses": openai_responses.render,
    "anthropic": anthropic.render,
}
