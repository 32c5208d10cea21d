"""Hostile files: whatever they hold, they give counts and sentences, and nothing half-written."""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_service.import_sessions import Origin
from chat_service.imports import Report, import_file
from chat_service.service import ChatService
from chat_service.transcripts.formats import FORMATS
from chat_service.transcripts.lines import items_of, objects_of
from chat_service.transcripts.neutral import Ending, Record, Source
from models.database import Database
from models.ids import UserId
from models.inputs import NewUser
from models.tables import chat_sessions
from tests.chat_service.transcripts.support import SHORT, WRITERS, sessions_of, take_in, told_by
from tests.support import count_rows

pytestmark = pytest.mark.anyio

HOSTILE = {
    "nothing": b"",
    "blank": b" \n\n\t\n",
    "no JSON": b"hello\nworld\n",
    "not UTF-8": b"\xff\xfe\x00\x01" * 50,
    "NUL": b"\0" * 1000 + b"\n",
    "deep": b"[" * 200_000 + b"]" * 200_000,
    "deep objects": b'{"a":' * 100_000,
    "deep in an array": b"[" + b"[" * 100_000 + b"]" * 100_000 + b"]",
    "an open string": b'["' + b"x" * 100_000,
    "a number of many digits": b'[{"mapping":{"a":' + b"9" * 10_000 + b"}}]",
    "numbers": b"[1, 2, 3]",
    "a string": b'"conversation"',
    "null": b"null",
    "too many ends": b"]]]]}}}}",
}


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("kind", HOSTILE)
async def test_what_is_no_transcript_stores_nothing(
    service: ChatService, user_id: UserId, database: Database, kind: str, format_name: str
) -> None:
    told = await take_in(service, user_id, format_name, HOSTILE[kind])
    assert (told["stored"], told["added"]) == ({}, {})
    assert await count_rows(database, chat_sessions) == 0


@pytest.mark.parametrize("format_name", FORMATS)
async def test_what_cannot_be_read_is_a_problem(service: ChatService, user_id: UserId, format_name: str) -> None:
    told = await take_in(service, user_id, format_name, b"hello\nworld\n")
    assert [each["problem"] for each in told["problems"]] != []
    assert "hello" not in json.dumps(told)


@pytest.mark.parametrize("shape", WRITERS)
async def test_odd_characters_are_replaced_and_counted(service: ChatService, user_id: UserId, shape: str) -> None:
    format_name, write = WRITERS[shape]
    odd = write(SHORT).replace("Now.", "a\\u0000b\\ud800c")
    told = await take_in(service, user_id, format_name, odd)
    assert told["left_out"] == {"character replaced": 2}
    [session] = await sessions_of(service, user_id)
    assert (await told_by(service, user_id, session["id"]))[-1].text == "a\ufffdb\ufffdc"
    assert (await take_in(service, user_id, format_name, odd))["added"] == {}


_FIELDS = [
    "type", "message", "content", "uuid", "id", "sessionId", "timestamp", "payload", "mapping", "parent",
    "author", "role", "chat_messages", "sender", "text", "parts", "messages", "input", "output", "tool_calls",
    "function", "name", "arguments", "call_id", "tool_use_id", "usage", "source", "current_node", "recipient",
    "attachments",
]  # fmt: skip
_WORDS = [
    "user", "assistant", "human", "tool", "tool_use", "tool_result", "text", "image", "thinking", "message", "a",
    "b", "function_call", "function_call_output", "reasoning", "response_item", "session_meta", "code",
    "web_search_call", "mcp_call", "multimodal_text", "thoughts", "2026-03-01T10:00:00Z", "data:x;base64,eA==",
    "\0\ud800", "",
]  # fmt: skip
FIELDS, WORDS = st.sampled_from(_FIELDS), st.sampled_from(_WORDS)
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS | WORDS, inner, max_size=6),
    max_leaves=25,
)
MESSAGES = st.dictionaries(FIELDS, ODD, max_size=6)
FILES = st.one_of(
    st.lists(ODD, max_size=3),
    st.builds(lambda mapping, more: [more | {"mapping": mapping}], st.dictionaries(WORDS, MESSAGES), MESSAGES),
    st.builds(lambda messages, more: [more | {"chat_messages": messages}], st.lists(MESSAGES, max_size=3), MESSAGES),
    st.builds(lambda messages, more: more | {"messages": messages}, st.lists(MESSAGES, max_size=3), MESSAGES),
    st.builds(lambda message: {"type": "response_item", "payload": message}, MESSAGES),
    st.builds(lambda kind, message: {"type": kind, "message": message}, WORDS, MESSAGES),
)


def read(format_name: str, text: str) -> tuple[list[Record], Source]:
    source = Source(io.StringIO(text, newline="\n"), "file")
    records = [each for each in FORMATS[format_name].read(source) if not isinstance(each, Ending)]
    return records, source


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(sorted(FORMATS)), FILES, st.integers(0, 400))
def test_odd_data_is_never_an_error(format_name: str, value: Any, cut: int) -> None:
    text = json.dumps(value)
    for some in (text, text[:cut]):
        records, _ = read(format_name, some)
        keys = Counter(
            (id(record.conversation), entry.idempotency_key) for record in records for entry in record.entries
        )
        assert all(key is not None for _, key in keys)
        again, _ = read(format_name, some)
        assert [record.native_id for record in again] == [record.native_id for record in records]
        assert all(record.kind and record.native_id for record in records)
        assert all(record.entries or record.reason for record in records)


@settings(deadline=None, max_examples=200)
@given(st.lists(ODD, max_size=5), st.integers(1, 50), st.booleans())
def test_the_items_of_an_array_are_its_items_wherever_it_is_cut(values: list[Any], piece: int, indent: bool) -> None:
    class Slow(io.StringIO):
        def read(self, size: int | None = -1, /) -> str:
            return super().read(piece)

    text = json.dumps(values, indent=1 if indent else None)
    assert [json.loads(item or "") for item in items_of(Slow(text))] == [json.loads(json.dumps(v)) for v in values]


def test_an_item_that_is_not_whole_is_none() -> None:
    assert list(items_of(io.StringIO('[{"a": 1}, {"b": "]'))) == ['{"a": 1}', None]
    with pytest.raises(ValueError, match="not a JSON array"):
        list(items_of(io.StringIO('{"a": 1}')))


def test_lines_and_items_that_are_too_large_are_counted_and_passed_over() -> None:
    source = Source(io.StringIO('{"a":"' + "x" * 100 + '"}\n{"b":1}\n' + "y" * 200, newline="\n"), "file")
    assert [value for value, _ in objects_of(source, longest=50)] == [{"b": 1}]
    assert source.unreadable == {"line too large": 2}


async def test_no_depth_of_nesting_ends_an_import_in_an_error(
    service: ChatService, user_id: UserId, tmp_path: Path
) -> None:
    path = tmp_path / "conversations.json"
    report = Report()
    for depth in range(800, 1_000):
        path.write_text(f'[{{"id": "c", "mapping": {{}}, "deep": {"[" * depth}{"]" * depth}}}]')
        await import_file(service, user_id, Origin("chatgpt"), FORMATS["chatgpt"], path, report)
    assert all("could not be read" in problem for _, problem in report.problems)
    assert report.files == 200
    assert await sessions_of(service, user_id) == []


@pytest.mark.parametrize("format_name", ["chatgpt", "claude-ai"])
async def test_a_conversation_of_any_depth_costs_none_that_stands_beside_it(
    service: ChatService, user_id: UserId, format_name: str
) -> None:
    whole = WRITERS[format_name][1](SHORT)
    expected = (await take_in(service, user_id, format_name, whole))["added"]["messages"]
    # Up to what can be read at all, and so over the depth at which it can be read and not be written again.
    for depth in range(900, 1_000):
        other_id = UserId((await service.get_or_create_user(NewUser(username=f"user {depth}")))["id"])
        nested = f"{'[' * depth}{']' * depth}"
        deep = f'{{"id": "deep", "mapping": {{}}, "chat_messages": [], "deep": {nested}}}'
        told = await take_in(service, other_id, format_name, f"[{deep},{whole[1:]}")
        assert told["added"]["messages"] == expected, depth
