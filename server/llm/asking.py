"""One question to a model: the window of a session as its provider takes it, and its answer as it grows."""

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from models.inputs import Usage
from server.llm.models import reason_of
from server.llm.toolbox import OfferedTool
from server.upstream.outcome import storable_text

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage, ModelResponse
    from pydantic_ai.models import Model

_BEGINNING = "[The conversation goes on.]"
_INTERRUPTED = "[The answer above was interrupted. Go on.]"

OnText = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Asking:
    """A tool call that a model asks for; `arguments` is what it wrote, which may be no JSON."""

    id: str
    name: str
    arguments: str


@dataclass(slots=True)
class Answer:
    """What a model says: its text, which grows, and at its end what it asks for and what it cost.

    `tokens` are all that went to and fro, however the provider counts those of its cache.
    """

    text: str = ""
    reasoning: str = ""
    calls: list[Asking] = field(default_factory=list)
    usage: Usage | None = None
    tokens: int = 0
    finish_reason: str = ""


class Interrupted(Exception):
    """The model did not answer, or not to the end; the text of this error says why, and names nothing."""


async def ask(
    model: "Model",
    window: dict[str, Any],
    tools: Sequence[OfferedTool],
    max_tokens: int,
    answer: Answer,
    on_text: OnText,
) -> None:
    """Ask a model to go on with a window in the shape `openai_chat`, and fill the answer as it comes.

    Raises Interrupted; what had come by then is in the answer.
    """
    from pydantic_ai.direct import model_request_stream
    from pydantic_ai.messages import PartDeltaEvent, PartStartEvent, TextPart, TextPartDelta
    from pydantic_ai.models import ModelRequestParameters
    from pydantic_ai.settings import ModelSettings
    from pydantic_ai.tools import ToolDefinition

    offered = [
        ToolDefinition(name=tool.name, description=tool.description, parameters_json_schema=tool.input_schema)
        for tool in tools
    ]
    parameters = ModelRequestParameters(function_tools=offered)
    settings = ModelSettings(max_tokens=max_tokens)
    try:
        request = model_request_stream(
            model, messages_of(window), model_settings=settings, model_request_parameters=parameters
        )
        async with request as stream:
            async for event in stream:
                grown = ""
                if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
                    grown = event.part.content
                elif isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
                    grown = event.delta.content_delta
                if grown := storable_text(grown):
                    answer.text += grown
                    await on_text(grown)
            response = stream.get()
    except Exception as error:
        raise Interrupted(reason_of(error)) from None
    # Where the provider gave no reason, the library may have put one in its place; a refusal needs none.
    given = response.finish_reason == "content_filter" or (response.provider_details or {}).get("finish_reason")
    if not given:
        raise Interrupted("the model's answer broke off")
    _fill(answer, response)


def messages_of(window: dict[str, Any]) -> "list[ModelMessage]":
    """Return the messages of a window, which then begin and end with what a model may answer."""
    from pydantic_ai.messages import (
        ModelRequest,
        ModelResponse,
        SystemPromptPart,
        TextPart,
        ToolCallPart,
        ToolReturnPart,
        UserPromptPart,
    )

    messages: list[Any] = []
    names: dict[str, str] = {}

    def add_request(part: Any) -> None:
        if messages and isinstance(messages[-1], ModelRequest):
            messages[-1].parts = [*messages[-1].parts, part]
        else:
            messages.append(ModelRequest(parts=[part]))

    for message in window["messages"]:
        content = message["content"] or ""
        match message["role"]:
            case "system":
                add_request(SystemPromptPart(content))
            case "user":
                add_request(UserPromptPart(content))
            case "tool":
                call_id = message["tool_call_id"]
                add_request(ToolReturnPart(tool_name=names[call_id], content=content, tool_call_id=call_id))
            case _:
                parts: list[Any] = [TextPart(content)] if content else []
                for call in message.get("tool_calls", ()):
                    name, arguments = call["function"]["name"], call["function"]["arguments"]
                    names[call["id"]] = name
                    parts.append(ToolCallPart(tool_name=name, args=json.loads(arguments), tool_call_id=call["id"]))
                if not any(_is_said(each) for each in messages):
                    add_request(UserPromptPart(_BEGINNING))
                messages.append(ModelResponse(parts=parts))
    if not messages or not isinstance(messages[-1], ModelRequest) or not _is_said(messages[-1]):
        add_request(UserPromptPart(_INTERRUPTED))
    return messages


def _is_said(message: Any) -> bool:
    # System prompts are put apart by some providers: they alone ask for nothing.
    return any(part.part_kind != "system-prompt" for part in message.parts)


def _fill(answer: Answer, response: "ModelResponse") -> None:
    answer.reasoning = storable_text(response.thinking or "")
    answer.usage, answer.tokens = _usage_of(response), response.usage.total_tokens
    answer.finish_reason = str(response.finish_reason)
    taken: set[str] = set()
    for number, call in enumerate(response.tool_calls):
        call_id = storable_text(call.tool_call_id)[:200]
        if not call_id or call_id in taken:
            call_id = f"call_{number}"
        taken.add(call_id)
        arguments = call.args if isinstance(call.args, str) else json.dumps(call.args or {})
        answer.calls.append(Asking(call_id, storable_text(call.tool_name)[:200] or "unnamed", arguments or "{}"))


def _usage_of(response: "ModelResponse") -> Usage | None:
    counted = response.usage
    # No answer is free of tokens: a provider that says nothing of them comes out as zero.
    if not counted.total_tokens:
        return None
    # The library adds to the input tokens what Anthropic counts beside them; here it stays as the provider says it.
    beside = counted.cache_read_tokens + counted.cache_write_tokens if response.provider_name == "anthropic" else 0
    return Usage(
        input_tokens=counted.input_tokens - beside,
        output_tokens=counted.output_tokens,
        cache_read_tokens=counted.cache_read_tokens or None,
        cache_write_tokens=counted.cache_write_tokens or None,
        reasoning_tokens=counted.output_reasoning_tokens or None,
    )
