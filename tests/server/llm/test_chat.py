"""Whole conversations with a scripted provider: what is stored is what went over the wire, whatever happens."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chat_service.tokens import estimate_tokens
from models.inputs import NewSession
from models.text import to_json
from server.llm.chats import Question
from server.llm.heard import Heard
from server.results import MAX_CHARACTERS
from tests.server.llm.provider import Provider, Says, provided
from tests.server.support import Tools, frame_of, opened_record, size_of, started, text_of, tool_call, tools_of
from tests.server.upstream.support import notes, over_stdio, processes, write_configuration
from tests.support import run_python

pytestmark = pytest.mark.anyio

KEY = "sk-canary-51c7"
MODELS = ("openai:scripted", "anthropic:scripted", "google:scripted")
ADD = ("call_1", "add", {"a": 2, "b": 3})


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def settings_of(provider: Provider, model: str = MODELS[0], **more: Any) -> dict[str, Any]:
    url = f"{provider.url}/v1" if model.startswith("openai") else provider.url
    return {"model": model, "model_url": url, **more}


@asynccontextmanager
async def talking(database_url: str, provider: Provider, model: str = MODELS[0], **more: Any) -> AsyncIterator[Tools]:
    """Connect a client to a server that asks the scripted provider."""
    async with tools_of(database_url, **settings_of(provider, model, **more)) as tools:
        yield tools


def helped(folder: Path, **more: Any) -> Path:
    return write_configuration(folder, helper=over_stdio(folder, **more))


async def entries(tools: Tools, session_id: str) -> list[dict[str, Any]]:
    """Read the whole session."""
    history = await tools.answer("get_session_history", session_id=session_id, detail="detailed")
    return list(history["entries"])


def outline(found: list[dict[str, Any]]) -> list[str]:
    """Tell briefly what a session holds."""
    return [
        f"{entry['role']}: {entry['content']}" if "role" in entry else f"{entry['tool_name']}: {entry['status']}"
        for entry in found
    ]


async def test_an_answer_is_given_with_ids_usage_and_finish_reason(database_url: str, model: str) -> None:
    with provided(Says(["Good ", "day."], tokens=(12, 7))) as provider:
        async with talking(database_url, provider, model) as tools:
            answer = await tools.answer("chat", message="Hello there")
            stored = await entries(tools, answer["session_id"])
    assert (answer["answer"], answer["model"], answer["finish_reason"]) == ("Good day.", model, "stop")
    assert (answer["message_seq"], answer["answer_seq"], answer["rounds"]) == (1, 2, 0)
    assert (answer["input_tokens"], answer["output_tokens"]) == (12, 7)
    assert outline(stored) == ["user: Hello there", "assistant: Good day."]
    assert stored[1]["usage"] == {"input_tokens": 12, "output_tokens": 7}
    assert (stored[1]["model"], stored[1]["author"]) == (model, "proxy")


async def test_what_an_answer_took_from_a_cache_and_for_reasoning_is_stored_as_its_provider_counts_it(
    database_url: str, model: str
) -> None:
    says = Says(["Good day."], tokens=(100, 30), cached=(80, 15), reasoned=20)
    with provided(says) as provider:
        async with talking(database_url, provider, model) as tools:
            answer = await tools.answer("chat", message="Hello there")
            stored = await entries(tools, answer["session_id"])
    known = {"input_tokens": 100, "output_tokens": 30, "cache_read_tokens": 80, "reasoning_tokens": 20}
    if model == "google:scripted":
        known["output_tokens"] += 20
    else:
        known["cache_write_tokens"] = 15
    assert stored[1]["usage"] == known
    assert (answer["input_tokens"], answer["output_tokens"]) == (100, known["output_tokens"])


async def test_a_bound_of_tokens_counts_those_of_a_cache_with_every_provider(
    database_url: str, tmp_path: Path, model: str
) -> None:
    calls = [("call_1", "add", {"a": 1, "b": 1})]
    beside = model == "anthropic:scripted"
    script = [Says(["Again. "], calls, tokens=(100 if beside else 1_000, 50), cached=(900, 0)) for _ in range(3)]
    with provided(*script) as provider:
        async with talking(database_url, provider, model, upstream_file=helped(tmp_path), answer_tokens=1_050) as tools:
            answer = await tools.answer("chat", message="Go")
            stored = await entries(tools, answer["session_id"])
    assert (answer["finish_reason"], answer["rounds"]) == ("tokens", 0)
    [said] = [entry for entry in stored if entry.get("role") == "assistant"]
    assert said["usage"]["cache_read_tokens"] == 900, "it was answered whole, though nothing more was asked"


async def test_an_answer_without_figures_is_not_stored_as_one_that_cost_nothing(database_url: str, model: str) -> None:
    with provided(Says(["Good day."], tokens=(0, 0))) as provider:
        async with talking(database_url, provider, model) as tools:
            answer = await tools.answer("chat", message="Hello there")
            stored = await entries(tools, answer["session_id"])
    assert stored[1]["model"] == model
    assert "usage" not in stored[1]


async def test_a_whole_conversation_with_tools_is_stored_as_it_went_over_the_wire(
    database_url: str, tmp_path: Path, model: str
) -> None:
    script = (
        Says(["Let me see. "], [ADD, ("call_2", "repeat", {"text": "ab", "times": 2})]),
        Says([], [("call_3", "add", {"a": 5, "b": 5})]),
        Says(["It is ", "ten."]),
        Says(["As I said: ten."]),
    )
    with provided(*script) as provider:
        async with talking(database_url, provider, model, upstream_file=helped(tmp_path)) as tools:
            first = await tools.answer("chat", message="How much?")
            session_id = first["session_id"]
            second = await tools.answer("chat", message="Sure?", session_id=session_id)
            stored = await entries(tools, session_id)
    assert outline(stored) == [
        "user: How much?",
        "assistant: Let me see. ",
        "add: success",
        "repeat: success",
        "assistant: ",
        "add: success",
        "assistant: It is ten.",
        "user: Sure?",
        "assistant: As I said: ten.",
    ]
    assert [call["status"] for call in first["tool_calls"]] == ["success"] * 3
    assert (second["answer"], first["rounds"], first["input_tokens"]) == ("As I said: ten.", 2, 30)
    calls = [entry for entry in stored if "tool_name" in entry]
    assert [(call["message_seq"], call["tool_call_id"]) for call in calls] == [
        (2, "call_1"),
        (2, "call_2"),
        (5, "call_3"),
    ]
    assert len(provider.asked) == 4
    last = spoken(provider.asked[-1])
    assert last == [
        ("user", "How much?"),
        ("assistant", "Let me see."),
        ("call", "call_1", "add", {"a": 2, "b": 3}),
        ("call", "call_2", "repeat", {"text": "ab", "times": 2}),
        ("result", "call_1", '{"result":5}'),
        ("result", "call_2", "abab"),
        ("call", "call_3", "add", {"a": 5, "b": 5}),
        ("result", "call_3", '{"result":10}'),
        ("assistant", "It is ten."),
        ("user", "Sure?"),
    ]


def spoken(body: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return what a request says, whichever shape it has."""
    if "contents" in body:
        return _spoken_to_google(body)
    said: list[tuple[Any, ...]] = []
    for message in body["messages"]:
        content = message.get("content") or []
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for block in blocks:
            if message["role"] == "tool":
                said.append(("result", message["tool_call_id"], block["text"]))
            elif block["type"] == "text":
                said.append((message["role"], block["text"].strip()))
            elif block["type"] == "tool_use":
                said.append(("call", block["id"], block["name"], block["input"]))
            else:
                result = block["content"]
                text = result if isinstance(result, str) else "".join(inner["text"] for inner in result)
                said.append(("result", block["tool_use_id"], text))
        for call in message.get("tool_calls") or ():
            function = call["function"]
            said.append(("call", call["id"], function["name"], json.loads(function["arguments"])))
    return said


def _spoken_to_google(body: dict[str, Any]) -> list[tuple[Any, ...]]:
    said: list[tuple[Any, ...]] = []
    for content in body["contents"]:
        for part in content["parts"]:
            if "functionCall" in part:
                call = part["functionCall"]
                said.append(("call", call["id"], call["name"], call["args"]))
            elif "functionResponse" in part:
                response = part["functionResponse"]
                said.append(("result", response["id"], response["response"]["return_value"]))
            else:
                said.append(({"model": "assistant"}.get(content["role"], content["role"]), part["text"].strip()))
    return said


async def test_the_text_is_told_as_it_grows(database_url: str, model: str) -> None:
    heard: list[tuple[float, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, message))

    with provided(Says(["One, ", "two, ", "three."])) as provider:
        async with talking(database_url, provider, model) as tools:
            await tools.client.call_tool("chat", {"message": "Count"}, progress_callback=hear)
    assert "".join(message or "" for _, message in heard) == "One, two, three."
    assert [progress for progress, _ in heard] == [5, 10, 16]


async def test_what_another_client_adds_belongs_to_the_conversation(database_url: str) -> None:
    with provided(Says(["Noted."]), Says(["You said blue."])) as provider:
        async with talking(database_url, provider) as tools:
            session_id = (await tools.answer("chat", message="Remember what comes."))["session_id"]
            more = [{"role": "user", "content": "My colour is blue."}, {"role": "assistant", "content": "Blue it is."}]
            await tools.answer("add_messages", session_id=session_id, messages=more)
            await tools.answer("chat", message="Which colour?", session_id=session_id)
    assert [text for _, text in spoken(provider.asked[1])] == [
        "Remember what comes.",
        "Noted.",
        "My colour is blue.",
        "Blue it is.",
        "Which colour?",
    ]


@pytest.mark.parametrize("budget", [1_000, 2_000, 5_000])
async def test_the_context_is_never_over_budget(database_url: str, tmp_path: Path, budget: int) -> None:
    script = [Says([], [(f"call_{number}", "repeat", {"text": "word ", "times": 3_000})]) for number in range(3)]
    with provided(*script, Says(["Done."])) as provider:
        file = helped(tmp_path, tools=["repeat"])
        async with talking(database_url, provider, upstream_file=file, token_budget=budget) as tools:
            session_id = await tools.new_session()
            await tools.say(session_id, *("something long " * 100 for _ in range(20)))
            answer = await tools.answer("chat", message="Say it thrice.", session_id=session_id)
            assert answer["answer"] == "Done."
    assert len(provider.asked) == 4
    for body in provider.asked:
        assert estimate_tokens(to_json({"messages": body["messages"]})) <= budget


async def test_a_retry_with_the_same_key_does_not_ask_twice(database_url: str, model: str) -> None:
    with provided(Says(["Once."])) as provider:
        async with talking(database_url, provider, model) as tools:
            first = await tools.answer("chat", message="Hello", idempotency_key="k")
            again = await tools.answer("chat", message="Hello", idempotency_key="k")
            other = await tools.refusal("chat", message="Other", idempotency_key="k")
        assert again == first
        assert other.startswith("Conflict: idempotency_key")
        assert len(provider.asked) == 1


async def test_a_busy_provider_is_asked_again_and_answers_once(database_url: str, model: str) -> None:
    with provided(Says(status=429), Says(status=503), Says(["At last."])) as provider:
        async with talking(database_url, provider, model) as tools:
            answer = await tools.answer("chat", message="Hello")
            assert outline(await entries(tools, answer["session_id"])) == ["user: Hello", "assistant: At last."]


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
async def test_a_refusal_is_told_without_the_providers_words_and_the_key_goes_on(
    database_url: str, model: str, status: int
) -> None:
    with provided(*[Says(status=status)] * 3) as provider:
        async with talking(database_url, provider, model) as tools:
            refusal = await tools.refusal("chat", message="Hello", idempotency_key="k")
            assert str(status) in refusal
            assert KEY not in refusal
            assert "refused" not in refusal.replace("key was refused", "")
            (session,) = (await tools.answer("list_sessions"))["sessions"]
            first, note = await entries(tools, session["id"])
            assert (first["content"], note["role"]) == ("Hello", "system")
            assert str(status) in note["content"]
            provider.script[:] = [Says(["Here I am."])]
            answer = await tools.answer("chat", message="Hello", idempotency_key="k")
            assert answer["answer"] == "Here I am."
            stored = await entries(tools, session["id"])
            assert [entry["content"] for entry in stored if entry["role"] == "user"] == ["Hello"]


async def test_a_connection_that_is_cut_leaves_what_was_said_and_a_retry_goes_on(
    database_url: str, tmp_path: Path, model: str
) -> None:
    script = (Says([], [ADD]), Says(["The sum ", "is"], cut=True), Says(["Five."]))
    with provided(*script) as provider:
        async with talking(database_url, provider, model, upstream_file=helped(tmp_path)) as tools:
            refusal = await tools.refusal("chat", message="Sum?", idempotency_key="k")
            assert refusal.startswith("Unavailable: The answer was interrupted")
            answer = await tools.answer("chat", message="Sum?", idempotency_key="k")
            again = await tools.answer("chat", message="Sum?", idempotency_key="k")
            stored = await entries(tools, answer["session_id"])
    assert (answer["answer"], again) == ("Five.", answer)
    assert outline(stored)[:4] == ["user: Sum?", "assistant: ", "add: success", "assistant: The sum is"]
    assert outline(stored)[4].startswith("system: [The answer was interrupted")
    assert outline(stored)[5:] == ["assistant: Five."]
    assert notes(tmp_path) == ["add"], "a call that was made is not made again"
    assert_every_call_is_answered(provider)


def assert_every_call_is_answered(provider: Provider) -> None:
    for body in provider.asked:
        said = spoken(body)
        assert [each[1] for each in said if each[0] == "call"] == [each[1] for each in said if each[0] == "result"]
        assert said[-1][0] in ("user", "result")


# In Google's shape arguments are always an object.
@pytest.mark.parametrize("model", MODELS[:2])
async def test_calls_that_cannot_be_made_are_told_to_the_model_and_recorded(
    database_url: str, tmp_path: Path, model: str
) -> None:
    calls = [("a", "no_such_tool", {}), ("b", "add", "[1"), ("c", "fail", {"text": "broken"})]
    with provided(Says([], calls), Says(["I give up."])) as provider:
        async with talking(database_url, provider, model, upstream_file=helped(tmp_path)) as tools:
            answer = await tools.answer("chat", message="Try")
            usages = [entry for entry in await entries(tools, answer["session_id"]) if "tool_name" in entry]
    assert [usage["status"] for usage in usages] == ["error"] * 3
    assert [("not called" in usage["error"], "broken" in usage["error"]) for usage in usages] == [
        (True, False),
        (True, False),
        (False, True),
    ]
    assert_every_call_is_answered(provider)


@pytest.mark.parametrize(
    ("bound", "finish_reason"),
    [({"tool_rounds": 2}, "rounds"), ({"answer_tokens": 1_000}, "tokens")],
)
async def test_an_answer_ends_at_its_bounds_and_says_so(
    database_url: str, tmp_path: Path, bound: dict[str, Any], finish_reason: str
) -> None:
    script = [Says(["Again. "], [(f"call_{n}", "add", {"a": n, "b": 0})], tokens=(400, 50)) for n in range(5)]
    with provided(*script) as provider:
        async with talking(database_url, provider, upstream_file=helped(tmp_path), **bound) as tools:
            answer = await tools.answer("chat", message="Go")
            assert (answer["finish_reason"], answer["rounds"]) == (finish_reason, 2)
            stored = outline(await entries(tools, answer["session_id"]))
        assert len(provider.asked) == 3
    assert stored[-2] == "assistant: Again. "
    assert stored[-1].startswith("system: [The answer ends here")


async def test_an_answer_that_takes_too_long_ends_with_its_call_recorded(database_url: str, tmp_path: Path) -> None:
    with provided(Says(["Wait. "], [("call_1", "wait", {})])) as provider:
        file = helped(tmp_path)
        async with talking(database_url, provider, upstream_file=file, answer_seconds=4) as tools:
            answer = await tools.answer("chat", message="Go")
            stored = outline(await entries(tools, answer["session_id"]))
    assert answer["finish_reason"] == "time"
    assert stored[:3] == ["user: Go", "assistant: Wait. ", "wait: cancelled"]
    assert len(stored) == 4


async def test_a_cancelled_answer_keeps_what_was_said(database_url: str, model: str) -> None:
    with provided(Says(["So far"], hold=True), Says(["So good."])) as provider:
        async with talking(database_url, provider, model) as tools:
            asking = asyncio.create_task(tools.call("chat", message="Hello", idempotency_key="k"))
            await asyncio.to_thread(provider.held.wait, 60)
            (session,) = (await tools.answer("list_sessions"))["sessions"]
            busy = await tools.refusal("chat", message="And?", session_id=session["id"])
            assert busy.startswith("Conflict: Another answer")
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            provider.let_go.set()
        async with talking(database_url, provider, model) as tools:
            answer = await tools.answer("chat", message="Hello", idempotency_key="k")
            stored = outline(await entries(tools, session["id"]))
    assert answer["answer"] == "So good."
    assert stored[0] == "user: Hello"
    assert stored[-1] == "assistant: So good."
    assert stored.count("user: Hello") == 1


@pytest.mark.parametrize("moments", range(6))
async def test_an_answer_that_is_cancelled_at_its_very_beginning_holds_nobody_up(
    database_url: str, moments: int
) -> None:
    with provided(*[Says(["Here."])] * 2) as provider:
        async with opened_record(database_url, **settings_of(provider)) as record:
            caller = await record.caller()
            assert caller.chats is not None
            session_id = (await caller.service.create_chat_session(caller.user_id, NewSession()))["id"]
            first = asyncio.create_task(caller.chats.answer(caller, Question("Hello", session_id), Heard()))
            for _ in range(moments):
                await asyncio.sleep(0)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            await caller.chats.recorded()
            run = await caller.chats.answer(caller, Question("Again", session_id), Heard())
            assert run["state"] == "done"


async def test_after_a_crash_a_retry_waits_for_the_lease_and_repeats_no_call(database_url: str, tmp_path: Path) -> None:
    with provided(Says(["Wait. "], [("call_1", "wait", {})]), Says(["Nobody knows."])) as provider:
        settings = settings_of(provider, upstream_file=helped(tmp_path), lease_seconds=1)
        environment = {f"MCP_CHAT_{name.upper()}": str(value) for name, value in settings.items()}
        with started(database_url, None, **environment, OPENAI_API_KEY=KEY) as server:
            server.send(frame_of(tool_call(7, "chat", message="Go", idempotency_key="k")))
            async with asyncio.timeout(60):
                while "begun" not in notes(tmp_path):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            server.process.send_signal(signal.SIGKILL)
            server.wait()
        async with tools_of(database_url, **settings) as tools:
            refusals = []
            async with asyncio.timeout(60):
                while (result := await tools.call("chat", message="Go", idempotency_key="k")).is_error:
                    refusals.append(text_of(result))
                    await asyncio.sleep(0.1)
            assert result.structured_content is not None
            stored = await entries(tools, result.structured_content["session_id"])
    assert {refusal.split(":")[0] for refusal in refusals} <= {"Conflict"}
    assert outline(stored) == ["user: Go", "assistant: Wait. ", "wait: unknown", "assistant: Nobody knows."]
    assert stored[2]["arguments"] == {}
    assert notes(tmp_path).count("begun") == 1
    assert len(processes(tmp_path)) == 2


async def test_a_long_answer_is_bounded_here_and_whole_in_the_record(database_url: str) -> None:
    with provided(Says(["😀\n" * 20_000])) as provider:
        async with talking(database_url, provider) as tools:
            result = await tools.call("chat", message="Much")
            assert size_of(result) <= MAX_CHARACTERS
            answer = result.structured_content
            assert answer is not None
            assert answer["answer_length"] == 40_000
            _, entry = await tools.read_whole(answer["session_id"], answer["answer_seq"])
            assert json.loads(entry)["content"] == "😀\n" * 20_000


async def test_an_empty_answer_is_an_answer(database_url: str, model: str) -> None:
    with provided(Says()) as provider:
        async with talking(database_url, provider, model) as tools:
            answer = await tools.answer("chat", message="Hm")
    assert answer["answer"] == "[The answer ends here: the model gave no text.]"


async def test_only_models_that_the_settings_allow_are_asked(database_url: str) -> None:
    with provided(Says(["Hi."])) as provider:
        async with talking(database_url, provider, other_models=["openai:other"]) as tools:
            assert (await tools.refusal("chat", message="x", model="openai:dear")).startswith("Invalid: model")
            await tools.answer("chat", message="x", model="openai:other")
            assert provider.asked[0]["model"] == "other"


async def test_the_key_goes_to_the_provider_and_nowhere_else(database_url: str, tmp_path: Path) -> None:
    with provided(Says(["Hi."]), *[Says(status=401)] * 3) as provider:
        settings = settings_of(provider)
        environment = {f"MCP_CHAT_{name.upper()}": str(value) for name, value in settings.items()}
        environment |= {"OPENAI_API_KEY": KEY, "MCP_CHAT_LOG_LEVEL": "DEBUG", "NO_PROXY": "127.0.0.1"}
        with started(database_url, None, **environment) as server:
            told = [server.call("chat", message="Hello") for _ in range(2)]
            server.end_input()
            assert server.wait() == 0
            said = json.dumps(told) + server.errors()
        assert provider.headers[0]["authorization"] == f"Bearer {KEY}"
    assert [result["isError"] for result in told] == [False, True]
    assert KEY not in said
    for ending in ("", "-wal"):
        file = tmp_path / f"chat.db{ending}"
        assert not file.exists() or KEY.encode() not in file.read_bytes()


def test_a_server_that_asks_a_model_imports_nothing_of_it_before_it_is_asked() -> None:
    code = """
import sys
from server.settings import Settings
from server.app import build_server
from server.record import Record
from server.tools import all_tools
build_server(Record(Settings(model="openai:x")))
[tool.listed() for tool in all_tools()]
import server.llm.chats
from server.command_line.main import build
build()
extra = ("pydantic_ai", "pydantic_graph", "openai", "anthropic", "google", "tiktoken", "requests", "tenacity", "httpx")
print([name for name in extra if name in sys.modules])
"""
    assert run_python(code) == "[]"
