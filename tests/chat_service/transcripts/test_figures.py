"""What answers cost, in each shape that providers and clients tell it in."""

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chat_service.service import ChatService
from chat_service.transcripts.storable import usage_of
from models.ids import UserId
from tests.chat_service.summaries import COUNTS
from tests.chat_service.transcripts.support import history_of, real_transcripts, sessions_of, take_in

pytestmark = pytest.mark.anyio

ANSWER = {"role": "assistant", "content": "In May."}
OF_CHAT = {
    "prompt_tokens": 100,
    "completion_tokens": 30,
    "total_tokens": 130,
    "prompt_tokens_details": {"cached_tokens": 80, "cache_write_tokens": 15, "audio_tokens": 1},
    "completion_tokens_details": {"reasoning_tokens": 20, "rejected_prediction_tokens": 1},
}
OF_RESPONSES = {
    "input_tokens": 100,
    "output_tokens": 30,
    "total_tokens": 130,
    "input_tokens_details": {"cached_tokens": 80, "cache_write_tokens": 15},
    "output_tokens_details": {"reasoning_tokens": 20},
}
OF_ANTHROPIC = {
    "input_tokens": 100,
    "output_tokens": 30,
    "cache_read_input_tokens": 80,
    "cache_creation_input_tokens": 15,
    "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 5},
    "output_tokens_details": {"thinking_tokens": 20},
    "server_tool_use": {"web_search_requests": 1},
}
OUTPUT = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "In May."}]}]
OF_CLAUDE_CODE = {
    "type": "assistant",
    "uuid": "a-1",
    "sessionId": "s-1",
    "message": {"id": "m-1", **ANSWER, "usage": OF_ANTHROPIC},
}


@pytest.mark.parametrize(
    ("format_name", "document"),
    [
        ("openai", {"id": "c-1", "choices": [{"message": ANSWER}], "usage": OF_CHAT}),
        ("openai", {"messages": [{"role": "user", "content": "When?"}, ANSWER | {"usage": OF_CHAT}]}),
        ("openai", {"id": "r-1", "output": OUTPUT, "usage": OF_RESPONSES}),
        ("anthropic", {"messages": [ANSWER | {"usage": OF_ANTHROPIC}]}),
        ("anthropic", {"id": "m-1", "type": "message", **ANSWER, "usage": OF_ANTHROPIC}),
        ("claude-code", OF_CLAUDE_CODE),
    ],
)
async def test_every_shape_tells_of_its_cache_and_of_reasoning(
    service: ChatService, user_id: UserId, format_name: str, document: dict[str, Any]
) -> None:
    await take_in(service, user_id, format_name, json.dumps(document) + "\n")
    [session] = await sessions_of(service, user_id)
    *_, answer = await history_of(service, user_id, session["id"])
    assert answer["usage"] == dict(zip(COUNTS, (100, 30, 80, 15, 20), strict=True))
    summary: Any = await service.summarize_token_usage(user_id)
    assert [summary[name] for name in COUNTS] == [100, 30, 80, 15, 20]


@pytest.mark.parametrize("odd", [None, True, -1, 2**53, 1.0, "80", [80], {"tokens": 80}])
def test_a_count_that_is_none_leaves_the_others(odd: Any) -> None:
    spoiled = {"input_tokens": 3, "cache_read_input_tokens": odd, "output_tokens_details": odd, "cached_tokens": 2}
    found = usage_of(spoiled)
    assert found is not None
    assert found.model_dump(exclude_none=True) == {"input_tokens": 3, "cache_read_tokens": 2}
    assert usage_of({"input_tokens": odd, "output_tokens_details": {"reasoning_tokens": odd}}) is None
    assert usage_of(odd) is None


async def test_a_line_that_tells_more_than_when_it_was_imported_leaves_the_message_as_it_is(
    service: ChatService, user_id: UserId
) -> None:
    less = OF_CLAUDE_CODE | {"message": {"id": "m-1", **ANSWER, "usage": {"input_tokens": 100, "output_tokens": 10}}}
    await take_in(service, user_id, "claude-code", json.dumps(less) + "\n")
    [session] = await sessions_of(service, user_id)
    seen = await history_of(service, user_id, session["id"])
    follows = OF_CLAUDE_CODE | {"uuid": "a-2"}
    grown = "".join(json.dumps(line) + "\n" for line in (OF_CLAUDE_CODE, follows))
    await take_in(service, user_id, "claude-code", grown)
    first, second = await history_of(service, user_id, session["id"])
    assert [first] == seen
    assert second["usage"] == dict.fromkeys(COUNTS, 0)


async def test_real_transcripts_of_claude_code_cost_what_their_answers_say_once(
    service: ChatService, user_id: UserId
) -> None:
    found = [path for name, path in real_transcripts(os.environ.get("MCP_CHAT_TRANSCRIPTS")) if name == "claude-code"]
    if not found:
        pytest.skip("MCP_CHAT_TRANSCRIPTS names no folder with transcripts of Claude Code")
    expected = dict.fromkeys(COUNTS[:4], 0)
    for path in found:
        await take_in(service, user_id, "claude-code", path.read_bytes())
        most: dict[Any, dict[str, int]] = defaultdict(lambda: dict.fromkeys(COUNTS[:4], 0))
        for answer in _answers(path):
            usage, of_answer = answer["usage"], most[answer["id"]]
            names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
            for ours, theirs in zip(COUNTS, names, strict=False):
                of_answer[ours] = max(of_answer[ours], usage[theirs])
        for of_answer in most.values():
            expected = {name: count + of_answer[name] for name, count in expected.items()}
    summary: Any = await service.summarize_token_usage(user_id)
    assert {name: summary[name] for name in expected} == expected
    assert expected["cache_read_tokens"] > expected["input_tokens"]


def _answers(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        message = json.loads(line).get("message")
        if isinstance(message, dict) and "usage" in message:
            yield message
