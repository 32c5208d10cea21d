"""The way to a model: its provider and name, its key from the environment, and a client that is closed again.

Nothing of the provider's library is imported before a model is asked. A provider's own error text may hold a part of a
key, so none of it is told: its status says what to do.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from models.errors import Invalid, Unavailable
from server.settings import PREFIX, Settings

if TYPE_CHECKING:
    from pydantic_ai.models import Model

KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY", "google": "GOOGLE_API_KEY"}
"""The providers, and the environment variable of each one's key."""

_LIBRARIES = {"openai": ("openai",), "anthropic": ("anthropic",), "google": ("google", "google.genai")}
_NOT_INSTALLED = "What asks a model is not installed: install mcp-chat-server[chat]."
_PATIENCE_SECONDS = 600.0
_REASONS = {
    401: "its key was refused",
    403: "its key may not be used for this",
    404: "there is no such model or address",
    413: "the request was too large",
    429: "too many requests, or the quota is used up",
}


def check_model(settings: Settings, name: str | None) -> str:
    """Return the model to ask, as `provider:name`; raises Invalid where it is none that the settings allow."""
    if settings.model is None:
        raise Unavailable(
            f"No model is set up: install mcp-chat-server[chat], then set {PREFIX}MODEL=provider:name (openai, "
            f"anthropic or google) and the provider's key, or {PREFIX}MODEL_URL for a model of your own; docs/chat.md "
            "says more."
        )
    chosen = name or settings.model
    if chosen not in (settings.model, *settings.other_models):
        allowed = ", ".join([settings.model, *settings.other_models])
        raise Invalid(f"model: this server asks {allowed}; {PREFIX}OTHER_MODELS allows more.")
    return chosen if ":" in chosen and chosen.partition(":")[0] in KEYS else f"openai:{chosen}"


def check_way(settings: Settings, name: str) -> tuple[str | None, str]:
    """Return the address, where it is another than the usual one, and the key of a model that `check_model` gave.

    Raises Unavailable where the library or the key is missing; nothing is imported for that.
    """
    provider = name.partition(":")[0]
    if not all(map(_is_installed, ("pydantic_ai", *_LIBRARIES[provider]))):
        raise Unavailable(_NOT_INSTALLED)
    # The address is that of the first model: another provider's key is not sent there.
    own = check_model(settings, None).partition(":")[0] == provider
    url = (settings.model_url or None) if own else None
    key = os.environ.get(KEYS[provider])
    if not key and url is None:
        raise Unavailable(f"The model's key is not set: put it into the environment variable {KEYS[provider]}.")
    return url, key or "none"


def load_library(name: str) -> None:
    """Import what asks a model, if it can be, so that the first question need not wait for that."""
    with suppress(ImportError):
        import_module(f"pydantic_ai.models.{name.partition(':')[0]}")


@asynccontextmanager
async def open_model(settings: Settings, name: str) -> AsyncIterator["Model"]:
    """Open the way to a model that `check_model` gave; raises Unavailable where its library or its key is missing."""
    provider, _, model = name.partition(":")
    url, key = check_way(settings, name)
    try:
        opening = {"openai": _openai, "anthropic": _anthropic, "google": _google}[provider](model, url, key)
        async with opening as opened:
            yield opened
    except ImportError:
        raise Unavailable(_NOT_INSTALLED) from None


def reason_of(error: BaseException) -> str:
    """Return why a model did not answer, without anything that its provider wrote."""
    from pydantic_ai.exceptions import ModelHTTPError

    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ModelHTTPError):
        told = _REASONS.get(error.status_code, "")
        return f"the model's provider answered {error.status_code}" + (f": {told}" if told else "")
    return f"the model's provider could not be reached, or broke off ({type(error).__name__})"


def _is_installed(library: str) -> bool:
    return find_spec(library) is not None


@asynccontextmanager
async def _openai(model: str, url: str | None, key: str) -> AsyncIterator["Model"]:
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    async with AsyncOpenAI(base_url=url, api_key=key) as client:
        yield OpenAIChatModel(model, provider=OpenAIProvider(openai_client=client))


@asynccontextmanager
async def _anthropic(model: str, url: str | None, key: str) -> AsyncIterator["Model"]:
    from anthropic import AsyncAnthropic
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    async with AsyncAnthropic(base_url=url, api_key=key) as client:
        yield AnthropicModel(model, provider=AnthropicProvider(anthropic_client=client))


@asynccontextmanager
async def _google(model: str, url: str | None, key: str) -> AsyncIterator["Model"]:
    import httpx2
    from google.genai.types import HttpRetryOptions
    from pydantic_ai.models.google import GoogleModel
    from pydantic_ai.providers.google import GoogleProvider

    # As patient, and as often, as the clients of the other two are by themselves.
    retries = HttpRetryOptions(attempts=3, initial_delay=0.5)
    async with httpx2.AsyncClient(timeout=httpx2.Timeout(_PATIENCE_SECONDS, connect=5.0)) as client:
        provider = GoogleProvider(api_key=key, base_url=url, http_client=client, retry_options=retries)
        yield GoogleModel(model, provider=provider)
