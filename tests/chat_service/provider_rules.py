"""The published rules of model providers about the messages they take, written down as code.

Each function raises AssertionError where a request would be refused. The rules were read off these pages:

- OpenAI Chat Completions, https://platform.openai.com/docs/api-reference/chat/create and
  https://platform.openai.com/docs/guides/function-calling: an assistant message with `tool_calls` must be followed by
  tool messages that answer each `tool_call_id`, and a tool message answers a call of the message before it. Names of
  functions: a-z, A-Z, 0-9, underscores and dashes, 64 characters at most. Ids of calls: 40 characters at most, as the
  interface says where one is longer ("Expected a string with maximum length 40").
- OpenAI Responses, https://platform.openai.com/docs/api-reference/responses/create: the input items, each
  function_call with its function_call_output ("No tool output found for function call"), and the other way round.
- Anthropic Messages, https://docs.anthropic.com/en/api/messages and
  https://docs.anthropic.com/en/docs/agents-and-tools/tool-use/implement-tool-use: roles user and assistant by turns,
  user first; content is never empty, text never blank; each tool_use is answered in the very next message, whose
  tool_result blocks come first; ids match ^[a-zA-Z0-9_-]+$ and are unique; an assistant's last text does not end in
  white space.
"""

import json
import re
from typing import Any

_OPENAI_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")
_ANTHROPIC_ID = re.compile(r"[a-zA-Z0-9_-]+\Z")
_ANTHROPIC_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}\Z")


def check_openai_chat(window: dict[str, Any]) -> None:
    """Check the arguments of a Chat Completions request."""
    assert set(window) == {"messages"}
    waiting: list[str] = []
    for message in window["messages"]:
        role = message["role"]
        assert role in ("system", "user", "assistant", "tool")
        if role == "tool":
            assert set(message) == {"role", "tool_call_id", "content"}
            assert message["tool_call_id"] in waiting, "a result without its call"
            waiting.remove(message["tool_call_id"])
            assert_text(message["content"])
            continue
        assert not waiting, "a call without its result"
        if role != "assistant" or "tool_calls" not in message:
            assert set(message) == {"role", "content"}
            assert_text(message["content"])
            continue
        assert set(message) == {"role", "content", "tool_calls"}
        assert message["tool_calls"]
        if message["content"] is not None:
            assert_text(message["content"])
        for call in message["tool_calls"]:
            assert set(call) == {"id", "type", "function"}
            assert call["type"] == "function"
            assert set(call["function"]) == {"name", "arguments"}
            check_function(call["function"]["name"], call["function"]["arguments"])
            assert 1 <= len(call["id"]) <= 40
            waiting.append(call["id"])
        assert len(set(waiting)) == len(waiting)
    assert not waiting, "a call without its result"


def check_openai_responses(window: dict[str, Any]) -> None:
    """Check the arguments of a Responses request."""
    assert set(window) == {"input"}
    called: list[str] = []
    answered: list[str] = []
    for item in window["input"]:
        if item["type"] == "message":
            assert set(item) == {"type", "role", "content"}
            assert item["role"] in ("system", "developer", "user", "assistant")
            assert_text(item["content"])
        elif item["type"] == "function_call":
            assert set(item) == {"type", "call_id", "name", "arguments"}
            check_function(item["name"], item["arguments"])
            assert 1 <= len(item["call_id"]) <= 64
            called.append(item["call_id"])
        else:
            assert item["type"] == "function_call_output"
            assert set(item) == {"type", "call_id", "output"}
            assert_text(item["output"])
            assert item["call_id"] in called, "a result before its call"
            answered.append(item["call_id"])
    assert len(set(called)) == len(called)
    assert sorted(called) == sorted(answered), "a call without its result"


def check_anthropic(window: dict[str, Any]) -> None:
    """Check the arguments of a Messages request."""
    assert set(window) <= {"system", "messages"}
    if "system" in window:
        assert_text(window["system"])
    messages = window["messages"]
    assert messages, "at least one message is required"
    used: list[str] = []
    waiting: list[str] = []
    for index, message in enumerate(messages):
        assert set(message) == {"role", "content"}
        assert message["role"] == ("assistant" if index % 2 else "user"), "roles alternate, user first"
        assert isinstance(message["content"], list)
        assert message["content"]
        results = [block["tool_use_id"] for block in message["content"] if block["type"] == "tool_result"]
        assert sorted(results) == sorted(waiting), "each call is answered in the next message, and nothing else is"
        kinds = [block["type"] for block in message["content"]]
        assert kinds[: len(results)] == ["tool_result"] * len(results), "results come first"
        waiting = []
        for block in message["content"]:
            if block["type"] == "text":
                assert set(block) == {"type", "text"}
                assert_text(block["text"])
            elif block["type"] == "tool_use":
                assert message["role"] == "assistant"
                assert set(block) == {"type", "id", "name", "input"}
                assert _ANTHROPIC_ID.match(block["id"])
                assert _ANTHROPIC_NAME.match(block["name"])
                assert isinstance(block["input"], dict)
                waiting.append(block["id"])
            else:
                assert block["type"] == "tool_result"
                assert message["role"] == "user"
                assert set(block) - {"is_error"} == {"type", "tool_use_id", "content"}
                assert block.get("is_error", True) is True
                assert_text(block["content"])
        used += waiting
    assert not waiting, "a call without its result"
    assert len(set(used)) == len(used), "tool_use ids must be unique"
    if messages[-1]["role"] == "assistant":
        last = messages[-1]["content"][-1]["text"]
        assert last == last.rstrip()


def check_function(name: str, arguments: str) -> None:
    """Check what both of OpenAI's interfaces say about a call."""
    assert _OPENAI_NAME.match(name)
    assert isinstance(json.loads(arguments), dict)


def assert_text(text: Any) -> None:
    """Check that a text says something."""
    assert isinstance(text, str)
    assert text.strip()


CHECKS = {
    "openai_chat": check_openai_chat,
    "openai_responses": check_openai_responses,
    "anthropic": check_anthropic,
}
