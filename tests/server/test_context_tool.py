"""The tool get_context: windows over MCP, bounded like every result, with pins and summaries that came over MCP."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from models.text import to_json
from server.results import MAX_CHARACTERS
from tests.server.support import ERAS, Tools, text_of, tools_of

pytestmark = pytest.mark.anyio

SHAPES = ("own", "openai_chat", "openai_responses", "anthropic")


@pytest.fixture(params=ERAS)
async def tools(database_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Tools]:
    async with tools_of(database_url, str(request.param)) as tools:
        yield tools


async def add(tools: Tools, session: str, *messages: dict[str, Any]) -> None:
    await tools.answer("add_messages", session_id=session, messages=list(messages))


def seqs(context: dict[str, Any]) -> list[int]:
    return [seq for first, last in context["manifest"]["shown"] for seq in range(first, last + 1)]


async def test_pins_and_the_newest_summary_that_were_added_over_mcp_are_always_given(tools: Tools) -> None:
    session = await tools.new_session()
    await add(tools, session, {"role": "user", "content": "Metric units only.", "kind": "pin"})
    await add(tools, session, {"role": "assistant", "content": "Nothing yet.", "kind": "summary"})
    await tools.say(session, *[f"number {number}" for number in range(300)])
    await add(tools, session, {"role": "assistant", "content": "They counted.", "kind": "summary"})
    await tools.say(session, *[f"number {number}" for number in range(300)])
    await add(tools, session, {"role": "user", "content": "Imperial units only.", "replaces_seq": 1})
    context = await tools.answer("get_context", session_id=session, token_budget=500)
    first, second = context["window"]["entries"][:2]
    assert first == {"seq": 1, "role": "user", "content": "Imperial units only.", "kind": "pin", "corrected_by": 604}
    assert second == {"seq": 303, "role": "assistant", "content": "They counted.", "kind": "summary"}
    history = await tools.answer("get_session_history", session_id=session, after_seq=0, limit=2)
    assert [entry["kind"] for entry in history["entries"]] == ["pin", "summary"]


async def test_a_correction_has_no_kind_of_its_own(tools: Tools) -> None:
    session = await tools.new_session()
    await tools.say(session, "one")
    message = {"role": "user", "content": "two", "kind": "pin", "replaces_seq": 1}
    refusal = await tools.refusal("add_messages", session_id=session, messages=[message])
    assert "kind and replaces_seq exclude each other" in refusal
    assert "kind" in await tools.refusal(
        "add_messages", session_id=session, messages=[{"role": "user", "content": "x", "kind": "replacement"}]
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("content", ["plain words, said again. " * 20, "😀" * 300, '"\\\n' * 150, "字" * 400])
async def test_a_budget_beyond_what_one_result_holds_is_limited_and_says_so(
    tools: Tools, shape: str, content: str
) -> None:
    session = await tools.new_session()
    await tools.say(session, *[content] * 120)
    result = await tools.call("get_context", session_id=session, token_budget=1_000_000, shape=shape)
    context: Any = result.structured_content
    assert len(text_of(result)) <= MAX_CHARACTERS + 1
    assert MAX_CHARACTERS // 2 <= len(to_json(context)) <= MAX_CHARACTERS
    assert context["token_budget"] == 1_000_000
    assert context["token_count"] <= context["limited_to"]
    shown = seqs(context)
    assert shown == list(range(shown[0], 121))
    (gap,) = context["manifest"]["left_out"]
    assert (gap["first_seq"], gap["last_seq"]) == (1, shown[0] - 1)
    history = await tools.answer(gap["read"]["tool"], **gap["read"]["arguments"])
    assert history["entries"][0]["seq"] == 1


async def test_a_session_that_one_result_holds_is_not_called_limited(tools: Tools) -> None:
    session = await tools.new_session()
    await tools.say(session, "one", "two")
    context = await tools.answer("get_context", session_id=session, token_budget=1_000_000)
    assert "limited_to" not in context
    assert seqs(context) == [1, 2]


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_entry_larger_than_a_result_is_cut_and_read_whole_as_the_manifest_says(
    tools: Tools, shape: str
) -> None:
    session = await tools.new_session()
    await tools.say(session, "Read it.")
    large = "All of it. " * 20_000
    await tools.answer("log_tool_usage", session_id=session, tool_name="read", arguments={}, result=large)
    context = await tools.answer("get_context", session_id=session, token_budget=100_000, shape=shape)
    assert seqs(context) == [1, 2]
    (cut,) = context["manifest"]["cut"]
    assert cut["read"]["tool"] == "get_session_history"
    _, whole = await tools.read_whole(session, cut["read"]["arguments"]["entry_seq"])
    assert large in whole


async def test_the_arguments_are_refused_by_name(tools: Tools) -> None:
    session = await tools.new_session()
    for budget in (0, 15, 10_000_001, "many"):
        assert "token_budget" in await tools.refusal("get_context", session_id=session, token_budget=budget)
    assert "shape" in await tools.refusal("get_context", session_id=session, token_budget=100, shape="gemini")
