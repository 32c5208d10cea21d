"""The system prompt: the session's own, else that of the settings, always told and never over the budget."""

from pathlib import Path
from typing import Any

import pytest

from chat_service.tokens import estimate_tokens
from models.text import to_json
from tests.server.llm.provider import Says, provided
from tests.server.llm.test_chat import entries, helped, keys, model, outline, spoken, talking
from tests.server.support import Tools

__all__ = ["keys", "model"]
pytestmark = pytest.mark.anyio

PROMPT = "Answer like a baker."


def told_first(body: dict[str, Any]) -> list[str]:
    """Return the system prompts of a request, whichever shape it has."""
    if "contents" in body:
        return [part["text"] for part in body.get("systemInstruction", {"parts": []})["parts"]]
    if "system" in body:
        system = body["system"]
        return [system] if isinstance(system, str) else [block["text"] for block in system]
    return [message["content"] for message in body["messages"] if message["role"] == "system"]


async def began_with(tools: Tools, content: str) -> str:
    """Start a session with a system message of its own."""
    session_id = await tools.new_session()
    messages = [{"role": "system", "content": content}, {"role": "user", "content": "Good morning"}]
    await tools.answer("add_messages", session_id=session_id, messages=messages)
    return session_id


async def test_the_prompt_of_the_settings_is_told_each_time_and_not_stored(database_url: str, model: str) -> None:
    with provided(Says(["One."]), Says(["Two."])) as provider:
        async with talking(database_url, provider, model, system_prompt=PROMPT) as tools:
            session_id = (await tools.answer("chat", message="First"))["session_id"]
            await tools.answer("chat", message="Second", session_id=session_id)
            stored = outline(await entries(tools, session_id))
    assert [told_first(body) for body in provider.asked] == [[PROMPT], [PROMPT]]
    assert stored == ["user: First", "assistant: One.", "user: Second", "assistant: Two."]


async def test_a_sessions_own_prompt_wins(database_url: str, model: str) -> None:
    with provided(Says(["One."])) as provider:
        async with talking(database_url, provider, model, system_prompt=PROMPT) as tools:
            session_id = await began_with(tools, "Answer like a sailor.")
            await tools.answer("chat", message="Well?", session_id=session_id)
    assert told_first(provider.asked[0]) == ["Answer like a sailor."]


async def test_a_sessions_own_prompt_holds_however_long_the_session_grows(database_url: str, model: str) -> None:
    with provided(Says(["One."])) as provider:
        async with talking(database_url, provider, model, system_prompt=PROMPT, token_budget=1_000) as tools:
            session_id = await began_with(tools, "Answer like a sailor.")
            await tools.say(session_id, *("many words " * 50 for _ in range(40)))
            await tools.answer("chat", message="Well?", session_id=session_id)
    assert told_first(provider.asked[0]) == ["Answer like a sailor."]
    assert "Good morning" not in to_json(provider.asked[0])


async def test_what_is_noted_of_an_interrupted_answer_is_nobodys_prompt(database_url: str) -> None:
    with provided(*[Says(status=400)] * 2, Says(["One."])) as provider:
        async with talking(database_url, provider, system_prompt=PROMPT) as tools:
            await tools.refusal("chat", message="First")
            (session,) = (await tools.answer("list_sessions"))["sessions"]
            fork = await tools.answer("fork_session", session_id=session["id"], at_seq=2)
            await tools.refusal("chat", message="Second", session_id=fork["id"])
    assert [told_first(body)[0] for body in provider.asked] == [PROMPT, PROMPT]


@pytest.mark.parametrize(("budget", "own"), [(1_500, False), (4_000, True)])
async def test_the_prompt_counts_within_the_budget(
    database_url: str, tmp_path: Path, model: str, budget: int, own: bool
) -> None:
    prompt = "Weigh every gram. " * 60
    script = [Says([], [(f"call_{number}", "repeat", {"text": "word ", "times": 3_000})]) for number in range(2)]
    with provided(*script, Says(["Done."])) as provider:
        more = {"upstream_file": helped(tmp_path, tools=["repeat"]), "token_budget": budget}
        async with talking(database_url, provider, model, **more, system_prompt=PROMPT if own else prompt) as tools:
            session_id = await began_with(tools, prompt) if own else await tools.new_session()
            await tools.say(session_id, *("more and more " * 40 for _ in range(30)))
            await tools.answer("chat", message="Go", session_id=session_id)
    assert len(provider.asked) == 3
    for body in provider.asked:
        assert [text.strip() for text in told_first(body)] == [prompt.strip()]
        told = [told_first(body), [said for said in spoken(body) if said[0] != "system"]]
        assert estimate_tokens(to_json(told)) <= budget


async def test_a_prompt_from_a_file_is_read_at_each_question(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "prompt.md"
    with provided(Says(["One."]), Says(["Two."])) as provider:
        async with talking(database_url, provider, system_prompt_file=file) as tools:
            assert "MCP_CHAT_SYSTEM_PROMPT_FILE cannot be read" in await tools.refusal("chat", message="x")
            file.write_bytes(b"\xff\xfe")
            assert "MCP_CHAT_SYSTEM_PROMPT_FILE is not UTF-8" in await tools.refusal("chat", message="x")
            for prompt in ("First", "Second"):
                file.write_text(f"{prompt}\n", encoding="utf-8")
                await tools.answer("chat", message="x")
    assert [told_first(body) for body in provider.asked] == [["First"], ["Second"]]


async def test_prompts_that_cannot_be_are_refused(database_url: str, tmp_path: Path) -> None:
    with provided() as provider:
        async with talking(database_url, provider, system_prompt="a", system_prompt_file=tmp_path / "b") as tools:
            assert "take one away" in await tools.refusal("chat", message="x")
        async with talking(database_url, provider, system_prompt="word " * 5_000, token_budget=2_000) as tools:
            assert "TOKEN_BUDGET leaves no room" in await tools.refusal("chat", message="x")
        assert provider.asked == []
