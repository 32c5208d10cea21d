"""Transcripts of Claude Code: what becomes a message, what becomes a tool usage, and what is counted instead."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_service.limits import Limits
from chat_service.service import ChatService
from chat_service.transcripts.claude_code import read
from chat_service.transcripts.neutral import Transcript
from models.ids import SessionId, UserId, to_timestamp
from models.inputs import NewMessage, NewSession, NewToolUsage, ToolCallPart
from models.shapes import MessageDict, ToolUsageDict
from models.text import to_json

BUNDLED = Path(__file__).parents[2] / "server" / "command_line" / "demo_transcript.jsonl"
NOT_LINES = {"character replaced", "number written as text", "nesting written as text", "tool result without a call"}
"""Kinds of what is left out that are less than a line; those of whole blocks end in " block"."""


def line(kind: str, content: Any, uuid: str, second: float = 0, **more: Any) -> str:
    """Write a user or assistant line; a key of the message itself is given as message_…"""
    inner = {key.removeprefix("message_"): more.pop(key) for key in list(more) if key.startswith("message_")}
    record = {
        "parentUuid": None,
        "isSidechain": False,
        "cwd": "/home/ada/garden",
        "sessionId": "s-1",
        "type": kind,
        "message": {"role": kind, "content": content, **inner},
        "uuid": uuid,
        "timestamp": f"2026-03-01T10:00:{second:06.3f}Z",
    }
    return json.dumps(record | more) + "\n"


def tool_use(call_id: str, name: str = "Bash", **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def tool_result(call_id: str, content: Any = "done", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}


def messages_of(transcript: Transcript) -> list[NewMessage]:
    return [entry for entry in transcript.entries if isinstance(entry, NewMessage)]


def usages_of(transcript: Transcript) -> list[NewToolUsage]:
    return [entry for entry in transcript.entries if isinstance(entry, NewToolUsage)]


def parts_of(message: NewMessage) -> list[dict[str, Any]]:
    return [part.model_dump(exclude_none=True) for part in message.parts or []]


def test_texts_become_messages_in_order() -> None:
    transcript = read(
        [
            line("user", "When do I sow beans?", "u-1"),
            line("assistant", [{"type": "text", "text": "In May."}, {"type": "text", "text": "After frost."}], "a-1"),
        ]
    )
    question, answer = messages_of(transcript)
    assert (question.role, question.content, question.parts) == ("user", "When do I sow beans?", None)
    assert (answer.role, answer.content, answer.parts) == ("assistant", "In May.\n\nAfter frost.", None)
    assert {message.author for message in (question, answer)} == {"import"}
    assert (question.idempotency_key, answer.idempotency_key) == ("u-1", "a-1")
    assert (transcript.source_id, transcript.workspace) == ("s-1", "/home/ada/garden")
    assert transcript.left_out == {}


def test_an_answer_keeps_its_model_its_usage_and_where_it_came_from() -> None:
    text = line(
        "assistant",
        "In May.",
        "a-1",
        parentUuid="u-1",
        requestId="req_1",
        message_id="msg_1",
        message_model="some-model",
        message_usage={"input_tokens": 3, "output_tokens": 20, "service_tier": "standard", "cache_creation": {}},
    )
    [message] = messages_of(read([text]))
    assert message.model == "some-model"
    assert message.usage is not None
    assert message.usage.model_dump(exclude_none=True) == {"input_tokens": 3, "output_tokens": 20}
    assert message.message_metadata == {
        "uuid": "a-1",
        "parentUuid": "u-1",
        "timestamp": "2026-03-01T10:00:00.000Z",
        "requestId": "req_1",
        "messageId": "msg_1",
    }


def test_blocks_that_text_cannot_hold_become_parts_in_order() -> None:
    blocks = [
        {"type": "thinking", "thinking": "Beans dislike frost.", "signature": "c2ln"},
        {"type": "text", "text": "Let me look."},
        tool_use("t-1", "Read", file_path="beans.txt"),
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0="}},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/bean.png"}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Beans, a history"}},
        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
    ]
    [message] = messages_of(read([line("assistant", blocks, "a-1")]))
    assert message.content == "Let me look.\n\nBeans, a history"
    assert parts_of(message) == [
        {"type": "reasoning", "content": "Beans dislike frost.", "signature": "c2ln"},
        {"type": "text", "content": "Let me look."},
        {"type": "tool_call", "id": "t-1", "name": "Read"},
        {"type": "blob", "content": "iVBORw0=", "mime_type": "image/png", "modality": "image"},
        {"type": "uri", "uri": "https://example.org/bean.png", "modality": "image"},
        {"type": "blob", "content": "JVBERg==", "mime_type": "application/pdf"},
        {"type": "text", "content": "Beans, a history"},
        {"type": "file", "file_id": "file_1"},
    ]


def test_a_call_and_its_result_become_one_tool_usage_where_the_result_came() -> None:
    transcript = read(
        [
            line("assistant", [tool_use("t-1", "Bash", command="ls")], "a-1", second=1),
            line("user", [tool_result("t-1", "beans.txt")], "u-1", second=3.25),
            line("assistant", "One file.", "a-2", second=4),
        ]
    )
    asked, usage, answer = transcript.entries
    assert isinstance(asked, NewMessage)
    assert isinstance(answer, NewMessage)
    assert usage == NewToolUsage(
        tool_call_id="t-1",
        tool_name="Bash",
        arguments={"command": "ls"},
        result="beans.txt",
        status="success",
        started_at=datetime(2026, 3, 1, 10, 0, 1, tzinfo=UTC),
        duration_ms=2250.0,
        origin="import",
        idempotency_key="tool:t-1",
    )
    assert transcript.left_out == {}


def test_a_failed_call_keeps_its_result_and_a_short_error() -> None:
    result = "\n  Exit code 1 " + "x" * 600 + "\nTraceback"
    blocks = [{"type": "text", "text": "No such bean"}, {"type": "text", "text": "Sorry"}]
    transcript = read(
        [
            line("assistant", [tool_use("t-1"), tool_use("t-2"), tool_use("t-3")], "a-1"),
            line("user", [tool_result("t-1", result, is_error=True)], "u-1"),
            line("user", [tool_result("t-2", blocks, is_error=True)], "u-2"),
            line("user", [tool_result("t-3", None, is_error=True)], "u-3"),
        ]
    )
    first, second, third = usages_of(transcript)
    assert (first.status, first.result, first.error) == ("error", result, ("Exit code 1 " + "x" * 600)[:500])
    assert (second.status, second.result, second.error) == ("error", blocks, "No such bean")
    assert (third.status, third.result, third.error) == ("error", None, None)


def test_parallel_calls_are_recorded_in_the_order_of_their_results() -> None:
    transcript = read(
        [
            line("assistant", [tool_use("t-1"), tool_use("t-2")], "a-1"),
            line("user", [tool_result("t-2", "second"), tool_result("t-1", "first")], "u-1"),
        ]
    )
    assert [(usage.tool_call_id, usage.result) for usage in usages_of(transcript)] == [
        ("t-2", "second"),
        ("t-1", "first"),
    ]
    assert len(messages_of(transcript)) == 1


def test_a_line_with_results_and_text_gives_both_and_says_which_results() -> None:
    transcript = read(
        [
            line("assistant", [tool_use("t-1")], "a-1"),
            line("user", [tool_result("t-1"), {"type": "text", "text": "Now the peas."}], "u-1"),
        ]
    )
    _, usage, message = transcript.entries
    assert isinstance(usage, NewToolUsage)
    assert isinstance(message, NewMessage)
    assert message.content == "Now the peas."
    assert parts_of(message) == [
        {"type": "tool_call_response", "id": "t-1"},
        {"type": "text", "content": "Now the peas."},
    ]


def test_calls_whose_result_never_came_are_unknown_once_the_conversation_goes_on() -> None:
    transcript = read(
        [
            line("assistant", [tool_use("t-1"), tool_use("t-2"), tool_use("t-3")], "a-1"),
            line("user", [tool_result("t-2")], "u-1"),
            line("user", "Never mind.", "u-2"),
        ]
    )
    assert [(usage.tool_call_id, usage.status) for usage in usages_of(transcript)] == [
        ("t-2", "success"),
        ("t-1", "unknown"),
        ("t-3", "unknown"),
    ]
    assert isinstance(transcript.entries[-1], NewMessage)


def test_a_result_without_a_call_is_counted() -> None:
    transcript = read([line("user", [tool_result("t-9")], "u-1")])
    assert transcript.entries == []
    assert transcript.left_out == {"tool result without a call": 1}


def test_a_call_id_used_twice_gives_two_usages_with_keys_of_their_own() -> None:
    transcript = read(
        [
            line("assistant", [tool_use("t-1", command="ls")], "a-1"),
            line("user", [tool_result("t-1", "first")], "u-1"),
            line("assistant", [tool_use("t-1", command="pwd")], "a-2"),
            line("user", [tool_result("t-1", "second")], "u-2"),
        ]
    )
    assert [(usage.idempotency_key, usage.arguments["command"], usage.result) for usage in usages_of(transcript)] == [
        ("tool:t-1", "ls", "first"),
        ("tool:t-1:2", "pwd", "second"),
    ]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-03-01T10:00:01Z", "2026-03-01T10:00:00Z"),
        ("yesterday", "2026-03-01T10:00:00Z"),
        ("2026-03-01T10:00:00", "2026-03-01T10:00:01"),
        ("0001-01-01T00:00:00+10:00", "2026-03-01T10:00:00Z"),
        ("0001-01-02T00:00:00Z", "9999-12-30T00:00:00Z"),
        (None, 7),
    ],
)
def test_times_that_make_no_duration_leave_it_open(start: Any, end: Any) -> None:
    transcript = read(
        [
            line("assistant", [tool_use("t-1")], "a-1", timestamp=start),
            line("user", [tool_result("t-1")], "u-1", timestamp=end),
        ]
    )
    assert [usage.duration_ms for usage in usages_of(transcript)] == [None]


def test_what_is_not_conversation_is_counted_by_its_type() -> None:
    transcript = read(
        [
            json.dumps({"type": "file-history-snapshot", "messageId": "m-1", "snapshot": {}}),
            json.dumps({"type": "system", "subtype": "api_error"}),
            json.dumps({"type": "system", "subtype": "turn_duration"}),
            json.dumps({"type": "something-new"}),
            json.dumps({"sessionId": "s-1"}),
            line("assistant", "From a subagent.", "a-1", isSidechain=True, sessionId="s-2"),
            "\n",
            "   \n",
        ]
    )
    assert transcript.entries == []
    assert transcript.source_id == "s-1"
    assert transcript.left_out == {
        "file-history-snapshot": 1,
        "system": 2,
        "something-new": 1,
        "line without a type": 1,
        "sidechain": 1,
    }


def test_broken_lines_are_counted_and_a_torn_last_line_is_told_apart() -> None:
    whole = line("user", "Sow.", "u-1")
    transcript = read([whole, '{"type": "user", \n', "[1, 2]\n", line("user", "Water.", "u-2"), whole[:40]])
    assert [message.content for message in messages_of(transcript)] == ["Sow.", "Water."]
    assert transcript.left_out == {"unreadable line": 2, "torn last line": 1}


def test_a_broken_line_before_the_last_is_not_torn() -> None:
    transcript = read(["{\n", line("user", "Water.", "u-1")])
    assert transcript.left_out == {"unreadable line": 1}


def test_a_line_written_twice_is_counted_once_and_changed_ones_are_kept() -> None:
    first, changed = line("user", "Sow.", "u-1"), line("user", "Sow again.", "u-1")
    transcript = read([first, first, changed])
    assert [(message.content, message.idempotency_key) for message in messages_of(transcript)] == [
        ("Sow.", "u-1"),
        ("Sow again.", "u-1:2"),
    ]
    assert transcript.left_out == {"repeated line": 1}


def test_lines_without_a_uuid_get_keys_that_stay_the_same() -> None:
    lines = [line("user", "yes", "", second=1), line("user", "yes", "", second=1), line("user", "no", "")]
    keys = [message.idempotency_key for message in messages_of(read(lines))]
    assert len(set(keys)) == 3
    assert None not in keys
    assert keys == [message.idempotency_key for message in messages_of(read(lines))]


@pytest.mark.parametrize("content", [None, "", [], {}, 7, [{"type": "text", "text": ""}], [{"type": "text"}]])
def test_a_line_that_says_nothing_is_an_empty_message(content: Any) -> None:
    transcript = read([line("user", content, "u-1")])
    assert transcript.entries == []
    assert transcript.left_out["empty message"] == 1


def test_thinking_that_was_taken_out_is_an_empty_message() -> None:
    blocks = [{"type": "thinking", "thinking": "", "signature": "c2ln"}]
    transcript = read([line("assistant", blocks, "a-1")])
    assert transcript.entries == []
    assert transcript.left_out == {"empty message": 1, "thinking block": 1}


def test_blocks_of_an_unknown_kind_are_counted() -> None:
    blocks = [{"type": "text", "text": "Hm."}, {"type": "redacted_thinking", "data": "eA=="}, {"kind": 1}, 7]
    transcript = read([line("assistant", blocks, "a-1")])
    assert [message.content for message in messages_of(transcript)] == ["Hm."]
    assert transcript.left_out == {"redacted_thinking block": 1, "unreadable block": 2}


def test_what_the_client_added_itself_is_marked_and_names_no_session() -> None:
    transcript = read([line("user", "Caveat.", "u-1", isMeta=True), line("user", "Sow\n beans.", "u-2")])
    metadata = [message.message_metadata or {} for message in messages_of(transcript)]
    assert [marks.get("isMeta") for marks in metadata] == [True, None]
    assert transcript.title == "Sow beans."


def test_the_title_is_the_one_that_a_person_chose() -> None:
    said = line("user", "b" * 100, "u-1")
    summary = json.dumps({"type": "summary", "summary": "Beans, in short"})
    generated = json.dumps({"type": "ai-title", "aiTitle": "Sowing beans"})
    chosen = json.dumps({"type": "custom-title", "customTitle": "My beans"})
    assert read([said]).title == "b" * 79 + "…"
    assert read([summary, said]).title == "Beans, in short"
    assert read([summary, said, generated]).title == "Sowing beans"
    assert read([chosen, generated, summary, said]).title == "My beans"
    assert read([]).title is None
    assert read([chosen, generated]).left_out == {"custom-title": 1, "ai-title": 1}


def test_characters_that_cannot_be_stored_are_replaced_and_counted() -> None:
    transcript = read(
        [
            line("user", "a\0b\ud800c 🥕", "u-1"),
            line("assistant", [tool_use("t-1", command="\0")], "a-1"),
            line("user", [tool_result("t-1", [{"te\0xt": "\udfff"}])], "u-2"),
        ]
    )
    [message, _] = messages_of(transcript)
    [usage] = usages_of(transcript)
    assert message.content == "a\ufffdb\ufffdc 🥕"
    assert usage.arguments == {"command": "\ufffd"}
    assert usage.result == [{"te\ufffdxt": "\ufffd"}]
    assert transcript.left_out == {"character replaced": 5}


def test_numbers_and_nesting_that_cannot_be_stored_are_written_as_text() -> None:
    deep = "[" * 80 + "1" + "]" * 80
    text = line("assistant", [tool_use("t-1", odd="ODD", large=10**2000, deep="DEEP")], "a-1")
    transcript = read([text.replace('"ODD"', "[NaN, 1e999, 0.5]").replace('"DEEP"', deep)])
    [usage] = usages_of(transcript)
    assert usage.arguments["odd"] == ["nan", "inf", 0.5]
    assert usage.arguments["large"] == str(10**2000)
    assert transcript.left_out == {"number written as text": 3, "nesting written as text": 1}
    inner: Any = usage.arguments["deep"]
    while isinstance(inner, list):
        [inner] = inner
    assert json.loads(inner) is not None


def test_nesting_beyond_what_can_be_parsed_is_an_unreadable_line() -> None:
    hostile = "[" * 200_000 + "]" * 200_000
    transcript = read([hostile, line("user", "Sow.", "u-1")])
    assert len(transcript.entries) == 1
    assert transcript.left_out == {"unreadable line": 1}


def test_long_and_missing_names_and_ids_still_join() -> None:
    long_ids = ["t" * 300 + end for end in ("a", "b")]
    unnamed = {"type": "tool_use", "id": 7, "input": ["a list"]}
    transcript = read(
        [
            line("assistant", [tool_use(long_ids[0], "n" * 300), tool_use(long_ids[1], ""), unnamed], "u" * 300),
            line("user", [tool_result(long_ids[1], "b"), tool_result(long_ids[0], "a")], "u-1"),
        ]
    )
    [message] = messages_of(transcript)
    calls = [part.id for part in message.parts or [] if isinstance(part, ToolCallPart)]
    usages = {usage.tool_call_id: usage for usage in usages_of(transcript)}
    assert [usages[call].result for call in calls] == ["a", "b", None]
    assert [usages[call].tool_name for call in calls] == ["n" * 200, "unknown", "unknown"]
    assert usages[calls[2]].arguments == {"input": ["a list"]}
    assert_keys_are_unique(transcript)


ODD_TEXTS = st.sampled_from(
    ["user", "assistant", "tool_use", "tool_result", "text", "thinking", "image", "base64", "t-1", "", "\0\ud800"]
)
FIELDS = st.one_of(
    st.sampled_from(["type", "message", "content", "uuid", "timestamp", "sessionId", "cwd", "isMeta", "summary"]),
    st.sampled_from(["text", "thinking", "id", "name", "input", "tool_use_id", "is_error", "source", "data", "url"]),
    st.sampled_from(["usage", "input_tokens", "cache_read_input_tokens", "output_tokens_details", "model"]),
)
ODD_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ODD_TEXTS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS, inner, max_size=6),
    max_leaves=12,
)
BLOCKS = st.fixed_dictionaries({"type": ODD_TEXTS}, optional=dict.fromkeys(["id", "name", "tool_use_id"], ODD_TEXTS))
TURNS = st.builds(
    lambda kind, blocks, more: {**more, "type": kind, "message": {"content": blocks}},
    st.sampled_from(["user", "assistant"]),
    st.lists(BLOCKS | ODD_VALUES, max_size=4),
    st.dictionaries(FIELDS, ODD_VALUES, max_size=4),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.builds(json.dumps, TURNS | ODD_VALUES) | st.text(), max_size=6))
def test_odd_data_is_never_an_error(lines: list[str]) -> None:
    transcript = read(lines)
    assert_storable(transcript)
    assert_keys_are_unique(transcript)


def assert_keys_are_unique(transcript: Transcript) -> None:
    keys = [entry.idempotency_key for entry in transcript.entries]
    assert None not in keys
    assert len(set(keys)) == len(keys)


def assert_storable(transcript: Transcript) -> None:
    NewSession(title=transcript.title, source="claude-code", source_id=transcript.source_id or "none")
    limits = Limits()
    for entry in transcript.entries:
        if len(to_json(entry.model_dump(mode="json")).encode()) > limits.content:
            continue
        if isinstance(entry, NewMessage):
            limits.check_messages([entry])
        else:
            limits.check_tool_usage(entry)


def assert_nothing_is_lost(lines: list[str]) -> Transcript:
    """Check a well-formed transcript against its own JSON, read in the plainest way."""
    transcript = read(lines)
    records = [json.loads(line) for line in lines if line.strip()]
    turns = [record for record in records if record["type"] in ("user", "assistant")]
    blocks = [(record, block) for record in turns for block in blocks_of(record)]
    answers = [record for record in turns if all(block["type"] == "tool_result" for block in blocks_of(record))]
    lines_left_out = sum(
        count for kind, count in transcript.left_out.items() if kind not in NOT_LINES and not kind.endswith(" block")
    )
    said = messages_of(transcript)
    assert len(records) == len(said) + len(answers) + lines_left_out
    uuids = [(message.message_metadata or {})["uuid"] for message in said]
    assert uuids == [record["uuid"] for record in turns if record["uuid"] in set(uuids)]
    calls = [block["id"] for _, block in blocks if block["type"] == "tool_use"]
    usages = usages_of(transcript)
    assert sorted(str(usage.tool_call_id) for usage in usages) == sorted(calls)
    results = {block["tool_use_id"]: block for _, block in blocks if block["type"] == "tool_result"}
    assert [usage.result for usage in usages if usage.status != "unknown"] == [
        block["content"] for block in results.values()
    ]
    assert_storable(transcript)
    assert_keys_are_unique(transcript)
    return transcript


def blocks_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    content = record["message"]["content"]
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def read_lines(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="\n") as file:
        return list(file)


def test_real_transcripts_are_read_whole() -> None:
    folder = os.environ.get("MCP_CHAT_TRANSCRIPTS")
    if not folder:
        pytest.skip("MCP_CHAT_TRANSCRIPTS names no folder of real transcripts")
    paths = sorted(Path(folder, "claude-code").rglob("*.jsonl"))
    assert paths
    for path in paths:
        assert_nothing_is_lost(read_lines(path))


def test_the_bundled_transcript_is_read_whole() -> None:
    transcript = assert_nothing_is_lost(read_lines(BUNDLED))
    usages = usages_of(transcript)
    parts = [part for message in messages_of(transcript) for part in parts_of(message)]
    assert len(transcript.entries) >= 50
    assert set(transcript.left_out) == {"summary", "file-history-snapshot", "system"}
    assert transcript.workspace == "/home/ada/recipes"
    assert transcript.title == "Scaling recipes: mixed fractions such as 1¾ cups"
    assert {usage.tool_name for usage in usages} >= {"Read", "Grep", "Edit", "Bash", "Write"}
    assert {usage.status for usage in usages} == {"success", "error"}
    assert any(isinstance(usage.result, list) for usage in usages)
    assert any(part["type"] == "reasoning" and "signature" in part for part in parts)


@pytest.mark.anyio
async def test_the_bundled_transcript_is_stored_and_read_back_equal(service: ChatService, user_id: UserId) -> None:
    transcript = read(read_lines(BUNDLED))
    new_session = NewSession(title=transcript.title, source="claude-code", source_id=transcript.source_id)
    session_id = SessionId((await service.create_chat_session(user_id, new_session))["id"])
    for entry in transcript.entries:
        if isinstance(entry, NewMessage):
            await service.add_message(user_id, session_id, entry)
        else:
            await service.add_tool_usage(user_id, session_id, entry)
    history = await service.get_session_history(user_id, session_id, limit=500)
    stored = history["entries"]
    assert [entry["seq"] for entry in stored] == list(range(1, len(transcript.entries) + 1))
    for entry, row in zip(transcript.entries, stored, strict=True):
        assert_equal(entry, row)
    asked_by: dict[str | None, int] = {}
    for entry, row in zip(transcript.entries, stored, strict=True):
        if isinstance(entry, NewMessage):
            calls = [part.id for part in entry.parts or [] if isinstance(part, ToolCallPart)]
            asked_by |= dict.fromkeys(calls, row["seq"])
        else:
            assert row.get("message_seq") == asked_by[entry.tool_call_id]


def assert_equal(entry: NewMessage | NewToolUsage, row: MessageDict | ToolUsageDict) -> None:
    written_otherwise = {"idempotency_key", "message_seq", "parts", "usage", "role", "started_at", "token_count"}
    given = entry.model_dump(exclude=written_otherwise)
    assert {name: row.get(name) for name in given} == given
    if isinstance(entry, NewMessage):
        assert row.get("message_type") == entry.role
        assert row.get("parts") == (parts_of(entry) or None)
        assert row.get("usage") == (entry.usage.model_dump(exclude_none=True) if entry.usage else None)
    else:
        assert row.get("started_at") == (to_timestamp(entry.started_at) if entry.started_at else None)
