"""Contexts: what a window holds in each case that a person would think of, what it costs, and how it is read on."""

import json
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, text

from chat_service.limits import Limits
from chat_service.service import ChatService
from models.database import Database
from models.errors import Invalid
from models.ids import SessionId, UserId
from models.inputs import ContextShape, NewMessage
from models.shapes import ContextDict
from models.text import to_json
from tests.support import asking, done, fill, new_session, new_user, said, watch_statements

pytestmark = pytest.mark.anyio

PROVIDERS: tuple[ContextShape, ...] = ("openai_chat", "openai_responses", "anthropic")


@pytest.fixture
async def session_id(service: ChatService, user_id: UserId) -> SessionId:
    return await new_session(service, user_id)


def answered(content: str, **more: Any) -> NewMessage:
    return NewMessage(role="assistant", content=content, **more)


def seqs(context: ContextDict) -> list[int]:
    return [seq for first, last in context["manifest"]["shown"] for seq in range(first, last + 1)]


async def test_a_session_that_fits_is_given_whole_in_every_shape(
    service: ChatService, user_id: UserId, session_id: SessionId
) -> None:
    await service.add_message(user_id, session_id, NewMessage(role="system", content="Be brief."))
    await service.add_message(user_id, session_id, said("How much flour?"))
    await service.add_message(user_id, session_id, asking("c1", "c2", content="Let me look."))
    await service.add_tool_usage(user_id, session_id, done("scale", arguments={"n": 8}, result="3½", tool_call_id="c2"))
    await service.add_tool_usage(user_id, session_id, done("scale", result={"ok": True}, tool_call_id="c1"))
    await service.add_message(user_id, session_id, answered("Three and a half cups."))

    async def window(shape: ContextShape) -> Any:
        context = await service.get_context(user_id, session_id, 2_000, shape)
        assert (seqs(context), context["manifest"]["left_out"]) == ([1, 2, 3, 4, 5, 6], [])
        return context["window"]

    assert (await window("openai_chat"))["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How much flour?"},
        {
            "role": "assistant",
            "content": "Let me look.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "scale", "arguments": "{}"}},
                {"id": "c2", "type": "function", "function": {"name": "scale", "arguments": '{"n":8}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": '{"ok":true}'},
        {"role": "tool", "tool_call_id": "c2", "content": "3½"},
        {"role": "assistant", "content": "Three and a half cups."},
    ]
    assert (await window("openai_responses"))["input"][2:] == [
        {"type": "message", "role": "assistant", "content": "Let me look."},
        {"type": "function_call", "call_id": "c1", "name": "scale", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "scale", "arguments": '{"n":8}'},
        {"type": "function_call_output", "call_id": "c1", "output": '{"ok":true}'},
        {"type": "function_call_output", "call_id": "c2", "output": "3½"},
        {"type": "message", "role": "assistant", "content": "Three and a half cups."},
    ]
    assert await window("anthropic") == {
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "How much flour?"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Let me look."},
                    {"type": "tool_use", "id": "c1", "name": "scale", "input": {}},
                    {"type": "tool_use", "id": "c2", "name": "scale", "input": {"n": 8}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": '{"ok":true}'},
                    {"type": "tool_result", "tool_use_id": "c2", "content": "3½"},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "Three and a half cups."}]},
        ],
    }
    assert (await window("own"))["entries"][1:4] == [
        {"seq": 2, "role": "user", "content": "How much flour?"},
        {"seq": 3, "role": "assistant", "content": "Let me look."},
        {
            "seq": 4,
            "tool_name": "scale",
            "status": "success",
            "tool_call_id": "c2",
            "message_seq": 3,
            "arguments": {"n": 8},
            "result": "3½",
        },
    ]


async def test_the_newest_entries_that_fit_are_given_with_pins_and_the_newest_summary(
    service: ChatService, user_id: UserId, session_id: SessionId
) -> None:
    await service.add_message(user_id, session_id, said("Metric units only.", kind="pin"))
    await service.add_message(user_id, session_id, answered("An old summary.", kind="summary"))
    await fill(service, user_id, session_id, 40)
    await service.add_message(user_id, session_id, answered("They counted to 40.", kind="summary"))
    await fill(service, user_id, session_id, 40)
    context = await service.get_context(user_id, session_id, 500, "openai_chat")
    shown = seqs(context)
    assert shown[:2] == [1, 43]
    assert shown[2:] == list(range(shown[2], 84))
    contents = [message["content"] for message in context["window"]["messages"]]
    assert contents[:2] == ["[Pinned, entry 1]\nMetric units only.", "[Summary, entry 43]\nThey counted to 40."]
    assert [(gap["first_seq"], gap["last_seq"]) for gap in context["manifest"]["left_out"]] == [
        (2, 42),
        (44, shown[2] - 1),
    ]


async def test_what_was_left_out_is_read_with_the_calls_that_the_manifest_names(
    service: ChatService, user_id: UserId, session_id: SessionId
) -> None:
    await fill(service, user_id, session_id, 1_200)
    context = await service.get_context(user_id, session_id, 300)
    (gap,) = context["manifest"]["left_out"]
    arguments = gap["read"]["arguments"]
    read: list[int] = []
    while len(read) < gap["entries"]:
        window = await service.get_session_history(user_id, **arguments)
        read += [entry["seq"] for entry in window["entries"]]
        arguments = {**arguments, "after_seq": window["after_seq"]}
    assert read[: gap["entries"]] == list(range(gap["first_seq"], gap["last_seq"] + 1))


async def test_a_correction_is_shown_once_in_the_place_of_what_it_corrects(
    service: ChatService, user_id: UserId, session_id: SessionId
) -> None:
    await service.add_messages(user_id, session_id, [said("tree cups"), said("go on"), said("kept", kind="pin")])
    await fill(service, user_id, session_id, 2)
    for content, replaces in (("thre cups", 1), ("three cups", 6), ("kept, corrected", 3)):
        correction = said(content, kind="replacement", replaces_seq=replaces)
        await service.add_message(user_id, session_id, correction)
    context = await service.get_context(user_id, session_id, 2_000, "openai_chat")
    contents = [message["content"] for message in context["window"]["messages"] if message["role"] == "user"]
    assert contents == ["three cups", "go on", "[Pinned, entry 3]\nkept, corrected", "number 0"]
    assert context["manifest"]["corrected"] == [[1, 7], [3, 8]]
    assert [gap["first_seq"] for gap in context["manifest"]["left_out"]] == [6]
    # The pin is kept in its newest form also where it stands outside the window.
    await fill(service, user_id, session_id, 200)
    first = (await service.get_context(user_id, session_id, 300, "openai_chat"))["window"]["messages"][0]
    assert first["content"] == "[Pinned, entry 3]\nkept, corrected"


@pytest.mark.parametrize("size", [2_000, 60_000, 1_000_000])
async def test_an_entry_larger_than_the_budget_is_cut_and_says_how_to_read_it_whole(
    service: ChatService, user_id: UserId, session_id: SessionId, size: int
) -> None:
    await service.add_message(user_id, session_id, said("Read it."))
    await service.add_message(user_id, session_id, asking("c1"))
    await service.add_tool_usage(user_id, session_id, done(result="long " * (size // 5), tool_call_id="c1"))
    await service.add_message(user_id, session_id, answered("It is long."))
    context = await service.get_context(user_id, session_id, 400, "openai_chat")
    assert seqs(context) == [1, 2, 3, 4]
    result = context["window"]["messages"][2]["content"]
    assert "[Cut: " in result
    assert "entry_seq=3" in result
    (cut,) = context["manifest"]["cut"]
    assert cut["read"]["arguments"] == {"session_id": session_id, "entry_seq": 3}
    assert context["token_count"] > 300


async def test_a_lone_long_entry_fills_the_budget(service: ChatService, user_id: UserId, session_id: SessionId) -> None:
    await service.add_message(user_id, session_id, said("word " * 20_000))
    for budget in (100, 1_000, 10_000):
        assert 0.95 * budget <= (await service.get_context(user_id, session_id, budget))["token_count"] <= budget


async def test_a_budget_that_holds_nothing_gives_an_empty_window_that_says_so(
    service: ChatService, user_id: UserId, session_id: SessionId
) -> None:
    await fill(service, user_id, session_id, 20)
    for shape in PROVIDERS:
        context = await service.get_context(user_id, session_id, 16, shape)
        assert [*context["window"].values()] == [[]]
        assert context["token_count"] <= 16
        assert [gap["entries"] for gap in context["manifest"]["left_out"]] == [20]


async def test_an_empty_session_has_an_empty_context(
    service: ChatService, user_id: UserId, session_id: SessionId
) -> None:
    context = await service.get_context(user_id, session_id, 100)
    assert context["window"] == {"entries": []}
    assert (context["manifest"]["shown"], context["manifest"]["left_out"]) == ([], [])


@pytest.mark.parametrize("token_budget", [-1, 0, 15, 10_000_001])
async def test_a_budget_that_cannot_be_is_invalid(
    service: ChatService, user_id: UserId, session_id: SessionId, token_budget: int
) -> None:
    with pytest.raises(Invalid, match="token_budget must be between 16 and 10000000"):
        await service.get_context(user_id, session_id, token_budget)


async def test_a_shape_that_there_is_not_is_invalid_and_the_shapes_are_named(
    service: ChatService, user_id: UserId, session_id: SessionId
) -> None:
    shape: Any = "gemini"
    with pytest.raises(Invalid, match="own, openai_chat, openai_responses, anthropic"):
        await service.get_context(user_id, session_id, 100, shape)


# Repairs


async def test_each_orphan_is_repaired_with_a_note(
    service: ChatService, user_id: UserId, session_id: SessionId
) -> None:
    await service.add_message(user_id, session_id, asking("never logged"))
    await service.add_tool_usage(user_id, session_id, done("lone"))
    await service.add_tool_usage(user_id, session_id, done("lost", status="unknown"))
    before = await service.get_session_history(user_id, session_id)
    context = await service.get_context(user_id, session_id, 2_000, "openai_chat")
    told = json.dumps(context["window"])
    for note in (
        "[No record of this call of entry 1 here",
        "[Entry 2: a call without the message that asked for it.]",
        "[How this call ended is not known",
    ):
        assert note in told
    assert await service.get_session_history(user_id, session_id) == before


async def test_a_call_that_was_logged_before_its_message_stands_after_it(
    service: ChatService, user_id: UserId, session_id: SessionId
) -> None:
    await fill(service, user_id, session_id, 400)
    await service.add_tool_usage(user_id, session_id, done("early", result="found", tool_call_id="c"))
    await service.add_messages(user_id, session_id, [said(f"meanwhile {number}") for number in range(30)])
    await service.add_message(user_id, session_id, asking("c"))
    context = await service.get_context(user_id, session_id, 250, "openai_chat")
    shown = seqs(context)
    assert shown[0] == 401 < shown[1] - 1
    assert context["window"]["messages"][-1] == {"role": "tool", "tool_call_id": "c", "content": "found"}
    assert "without the message" not in to_json(context["window"])


async def test_a_tool_message_gives_the_result_of_a_call_that_has_no_record(
    service: ChatService, user_id: UserId, session_id: SessionId
) -> None:
    answer = {"role": "tool", "content": "42", "parts": [{"type": "tool_call_response", "id": "c"}]}
    await service.add_messages(user_id, session_id, [said("?"), asking("c"), NewMessage.model_validate(answer)])
    context = await service.get_context(user_id, session_id, 1_000, "anthropic")
    assert context["window"]["messages"][-1]["content"] == [
        {"type": "tool_result", "tool_use_id": "c", "content": "42"}
    ]
    assert seqs(context) == [1, 2, 3]


async def test_a_second_result_of_the_same_call_is_given_apart(
    service: ChatService, user_id: UserId, session_id: SessionId
) -> None:
    parts = [{"type": "tool_call_response", "id": "c"}]
    results = [NewMessage.model_validate({"role": "tool", "content": text, "parts": parts}) for text in ("42", "43")]
    await service.add_messages(user_id, session_id, [said("?"), asking("c"), *results])
    context = await service.get_context(user_id, session_id, 1_000, "openai_chat")
    contents = [message["content"] for message in context["window"]["messages"]]
    assert contents == ["?", None, "42", "[Output of a tool, entry 4]\n43"]


async def test_ids_and_names_that_a_provider_refuses_are_shown_in_another_form_that_is_stated(
    service: ChatService, user_id: UserId, session_id: SessionId
) -> None:
    for _ in range(2):
        await service.add_message(user_id, session_id, asking("call 0"))
        await service.add_tool_usage(user_id, session_id, done("files/read.text", tool_call_id="call 0"))
    manifest = (await service.get_context(user_id, session_id, 2_000, "anthropic"))["manifest"]
    assert manifest["tool_names"] == {"files_read_text": "files/read.text"}
    assert manifest["tool_call_ids"] == {"call_2": "call 0", "call_4": "call 0"}


async def test_reasoning_and_attachments_are_left_out_for_providers_and_that_is_said(
    service: ChatService, user_id: UserId, session_id: SessionId
) -> None:
    parts = [
        {"type": "reasoning", "content": "I think"},
        {"type": "blob", "content": "QUJD" * 99, "mime_type": "image/png"},
    ]
    message = NewMessage.model_validate({"role": "assistant", "content": "So.", "parts": parts})
    await service.add_message(user_id, session_id, message)
    for shape in PROVIDERS:
        context = await service.get_context(user_id, session_id, 1_000, shape)
        assert "[Attached, not shown: blob; get_session_history with entry_seq=1" in to_json(context["window"])
        assert context["manifest"]["reasoning_left_out"] == [1]
        assert "I think" not in to_json(context)
    assert (await service.get_context(user_id, session_id, 1_000))["window"]["entries"][0]["reasoning"] == "I think"


# Counting


@pytest.mark.parametrize("counter", [len, lambda text: len(text.split()), lambda text: len(text) // 4 + 7])
async def test_another_counter_is_asked_at_each_append_and_is_never_exceeded(
    database: Database, user_id: UserId, counter: Any
) -> None:
    service = ChatService(database, limits=Limits(count_tokens=counter))
    session_id = await new_session(service, user_id)
    stored = await service.add_message(user_id, session_id, said("two words"))
    assert stored["token_count"] == counter("two words")
    await fill(service, user_id, session_id, 60)
    for budget in (40, 150, 1_000, 3_000):
        context = await service.get_context(user_id, session_id, budget)
        assert context["token_count"] == counter(to_json(context["window"])) <= budget


async def test_a_count_that_is_given_is_kept_and_the_window_is_measured_all_the_same(
    service: ChatService, user_id: UserId, session_id: SessionId
) -> None:
    given = said("many words " * 2_000, token_count=1)
    assert (await service.add_message(user_id, session_id, given))["token_count"] == 1
    context = await service.get_context(user_id, session_id, 500)
    assert context["token_count"] <= 500
    assert context["manifest"]["cut"]


async def test_no_budget_is_exceeded_and_none_is_left_unused(
    service: ChatService, user_id: UserId, session_id: SessionId
) -> None:
    await fill(service, user_id, session_id, 30)
    await service.add_message(user_id, session_id, asking("c", content="x" * 500))
    await service.add_tool_usage(user_id, session_id, done(result="字" * 300, tool_call_id="c"))
    for shape in ("own", "anthropic"):
        for budget in range(16, 1_200, 7):
            context = await service.get_context(user_id, session_id, budget, shape)
            assert context["token_count"] <= budget
            assert budget < 300 or context["token_count"] >= 0.8 * budget


# Cost


async def test_a_context_costs_the_same_for_1_000_and_for_100_000_entries(database_url: str) -> None:
    async with Database(database_url, readers=1) as database:
        service = ChatService(database)
        user_id = await new_user(service)
        costs = []
        for entries in (10, 1_000, 100_000):
            session_id = await new_session(service, user_id)
            pin = await service.add_message(user_id, session_id, said("pinned", kind="pin"))
            await database.write(partial(lengthen, entries=entries))
            await service.add_message(
                user_id, session_id, said("re-pinned", kind="replacement", replaces_seq=pin["seq"])
            )
            statements = await watch_statements(database)
            steps = await watch_steps(database)
            context = await service.get_context(user_id, session_id, 1_000)
            assert context["manifest"]["last_seq"] == entries + 2
            costs.append((len(statements), len(steps)))
        (statements_10, _), (statements_1000, steps_1000), (statements_100000, steps_100000) = costs
        assert statements_10 == statements_1000 == statements_100000
        assert steps_100000 <= steps_1000 + 5


def lengthen(connection: Connection, entries: int) -> None:
    """Add messages to the newest session in one statement."""
    connection.execute(
        text(
            "WITH RECURSIVE n(seq) AS (SELECT 2 UNION ALL SELECT seq + 1 FROM n WHERE seq <= :entries) "
            "INSERT INTO messages (session_key, seq, kind, role, author, token_count, created_at, content) "
            "SELECT (SELECT max(key) FROM chat_sessions), seq, 'message', 'user', 'agent', 5, 0, 'number ' || seq "
            "FROM n"
        ),
        {"entries": entries},
    )
    connection.execute(
        text(
            "UPDATE chat_sessions SET last_seq = :last, message_count = :last "
            "WHERE key = (SELECT max(key) FROM chat_sessions)"
        ),
        {"last": entries + 1},
    )


async def watch_steps(database: Database) -> list[int]:
    """Note every hundredth step that SQLite takes for the reader from now on."""
    steps: list[int] = []

    def listen(connection: Connection) -> None:
        raw: Any = connection.connection.driver_connection
        raw.set_progress_handler(lambda: steps.append(1), 100)

    await database.read(listen)
    return steps


@pytest.mark.parametrize("at_seq", [1, 3, 5, 8, 10])
async def test_the_context_of_a_fork_is_that_of_a_session_which_has_all_of_it(
    service: ChatService, user_id: UserId, at_seq: int
) -> None:
    entries = [
        said("first " * 20),
        said("What must stay.", kind="pin"),
        asking("c1", content="Let me look."),
        done("scale", result="3½", tool_call_id="c1"),
        said("So far: flour.", kind="summary"),
        said("What must stay, corrected.", kind="replacement", replaces_seq=2),
        asking("c2", content="And again."),
        done("scale", result="4" * 200, tool_call_id="c2"),
        said("What must stay, corrected twice.", kind="replacement", replaces_seq=6),
        said("last " * 20),
    ]

    async def append(session_id: SessionId, some: list[Any]) -> None:
        for entry in some:
            add = service.add_message if isinstance(entry, NewMessage) else service.add_tool_usage
            await add(user_id, session_id, entry)

    whole, parent = await new_session(service, user_id), await new_session(service, user_id)
    await append(whole, entries)
    await append(parent, entries[:at_seq])
    fork = SessionId((await service.fork_session(user_id, parent, at_seq))["id"])
    await append(parent, [said("Not of the fork.", kind="pin"), asking("c1"), done(tool_call_id="c2")])
    await append(fork, entries[at_seq:])
    for token_budget in (40, 120, 250, 400, 10_000):
        for shape in ("own", *PROVIDERS):
            of_fork = await service.get_context(user_id, fork, token_budget, shape)
            of_whole = await service.get_context(user_id, whole, token_budget, shape)
            assert to_json(of_fork).replace(fork, whole) == to_json(of_whole)
