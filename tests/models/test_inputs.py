"""The shapes that enter: what each refuses, with the field and what to do, and what it takes in another spelling."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import ValidationError

from models import inputs
from models.inputs import (
    Input,
    NewMessage,
    NewSession,
    NewToolUsage,
    NewUser,
    SessionChanges,
    Usage,
    UserChanges,
)

LEAST: dict[type[Input], dict[str, Any]] = {
    NewUser: {"username": "ada"},
    UserChanges: {},
    NewSession: {},
    SessionChanges: {},
    NewMessage: {"role": "user", "content": "hello"},
    NewToolUsage: {"tool_name": "read", "arguments": {}},
    Usage: {},
    inputs.TimeRange: {},
    inputs.TextPart: {"type": "text", "content": "a"},
    inputs.ReasoningPart: {"type": "reasoning", "content": "a"},
    inputs.ToolCallPart: {"type": "tool_call", "id": "a"},
    inputs.ToolCallResponsePart: {"type": "tool_call_response", "id": "a"},
    inputs.BlobPart: {"type": "blob", "content": "a"},
    inputs.BlobReferencePart: {"type": "blob_reference", "sha256": "0a" * 32, "size": 1},
    inputs.FilePart: {"type": "file", "file_id": "a"},
    inputs.UriPart: {"type": "uri", "uri": "a"},
    inputs.NewRun: {"message": NewMessage(role="user", content="hello"), "idempotency_key": "a"},
    inputs.Lease: {"owner": "a", "seconds": 1},
    inputs.RunCall: {"tool_call_id": "a", "tool_name": "read", "arguments": {}},
}
"""The least that each input needs."""

LINES = [
    *((NewUser, field) for field in ("username", "email", "display_name")),
    *((UserChanges, field) for field in ("email", "display_name")),
    *((NewSession, field) for field in ("title", "client", "idempotency_key")),
    (SessionChanges, "title"),
    *((NewMessage, field) for field in ("model", "idempotency_key")),
    *((NewToolUsage, field) for field in ("tool_name", "tool_call_id", "server_name", "idempotency_key")),
    *((inputs.ToolCallPart, field) for field in ("id", "name")),
    (inputs.ToolCallResponsePart, "id"),
    (inputs.FilePart, "file_id"),
    (inputs.UriPart, "uri"),
    *((inputs.NewRun, field) for field in ("session_id", "title", "client", "model", "idempotency_key")),
    (inputs.Lease, "owner"),
    *((inputs.RunCall, field) for field in ("tool_call_id", "server_name", "tool_name")),
]
"""Fields of one line: never empty, and of a bounded length."""

TEXTS = [
    (NewMessage, "content"),
    (NewToolUsage, "error"),
    (inputs.TextPart, "content"),
    (inputs.ReasoningPart, "signature"),
    (inputs.BlobPart, "content"),
]
"""Fields of text of any length."""

OBJECTS = [
    (NewSession, "session_data"),
    (SessionChanges, "session_data"),
    (NewMessage, "message_metadata"),
    (NewToolUsage, "arguments"),
    (inputs.RunCall, "arguments"),
]
"""Fields of JSON objects."""

NUMBERS = [*((Usage, name) for name in Usage.model_fields), (NewMessage, "token_count")]


def make(shape: type[Input], **given: Any) -> Any:
    return shape.model_validate(LEAST[shape] | given)


def refused(shape: type[Input], **given: Any) -> str:
    """Return what is said of one field that is refused."""
    with pytest.raises(ValidationError) as error:
        make(shape, **given)
    said = error.value.errors()
    assert said
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in said)


def all_inputs() -> set[type[Input]]:
    found = {value for value in vars(inputs).values() if isinstance(value, type) and issubclass(value, Input)}
    return found - {Input}


def test_every_input_is_tried_here() -> None:
    assert set(LEAST) == all_inputs()


@pytest.mark.parametrize("shape", LEAST)
def test_every_input_takes_the_least_and_refuses_unknown_fields(shape: type[Input]) -> None:
    assert make(shape) == make(shape)
    assert "surprise: Extra inputs are not permitted" in refused(shape, surprise=1)


@pytest.mark.parametrize("shape", LEAST)
def test_every_input_never_changes(shape: type[Input]) -> None:
    made = make(shape)
    for field in shape.model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(made, field, None)


@pytest.mark.parametrize(("shape", "field"), LINES)
def test_a_line_is_not_empty_not_endless_and_text(shape: type[Input], field: str) -> None:
    for value, reason in (
        ("", "at least 1 character"),
        ("x" * 9_000, "at most"),
        ("a\0b", "NUL"),
        ("\ud800", "surrogate|unicode"),
        (7, "string"),
        (b"\xff", "string|unicode"),
        (["a"], "string"),
    ):
        said = refused(shape, **{field: value})
        assert said.startswith(f"{field}: ")
        assert any(word in said for word in reason.split("|")), said
    assert getattr(make(shape, **{field: "é😀 ש"}), field) == "é😀 ש"


@pytest.mark.parametrize(("shape", "field"), TEXTS)
def test_a_text_may_be_long_and_is_text(shape: type[Input], field: str) -> None:
    long = "é\n\r\t\u2028" * 100_000
    assert getattr(make(shape, **{field: long}), field) == long
    for value, reason in (("a\0b", "NUL"), ("\udc00", "surrogate|unicode"), (7, "string")):
        said = refused(shape, **{field: value})
        assert said.startswith(f"{field}: ")
        assert any(word in said for word in reason.split("|")), said


@pytest.mark.parametrize(("shape", "field"), OBJECTS)
def test_an_object_is_json(shape: type[Input], field: str) -> None:
    deep: Any = 1
    for _ in range(64):
        deep = {"k": deep}
    for value, reason in (
        ({"k": float("nan")}, "NaN or infinity"),
        ({"k": [float("-inf")]}, "NaN or infinity"),
        (deep, "nested more than 64 levels"),
        ({"k": "\0"}, "NUL"),
        ({"\ud800": 1}, "surrogate|unicode"),
        ({"k": ["\ud800"]}, "surrogate"),
        ({"k": 2**4096}, "more than 4096 bits"),
        ({"k": b"x"}, "which JSON has not"),
        ({"k": {1: 2}}, "a key that is not text"),
        ({1: 2}, "string"),
        ([], "dictionary"),
        ("{}", "dictionary"),
    ):
        said = refused(shape, **{field: value})
        assert said.startswith(field)
        assert any(word in said for word in reason.split("|")), said
    largest = deep["k"] | {"n": 2**4096 - 1, "f": 1e308}
    assert getattr(make(shape, **{field: largest}), field) == largest


@pytest.mark.parametrize(("shape", "field"), NUMBERS)
def test_a_count_is_a_whole_number_from_0(shape: type[Input], field: str) -> None:
    for value in (-1, 2**53, 2**70, 1.5, "many", float("nan"), float("inf")):
        assert refused(shape, **{field: value}).startswith(f"{field}: ")
    for value in (0, 2**53 - 1):
        assert getattr(make(shape, **{field: value}), field) == value


# Users and sessions


@pytest.mark.parametrize(
    ("shape", "field", "other"), [(NewUser, "issuer", "subject"), (NewSession, "source", "source_id")]
)
def test_two_fields_that_come_together_are_refused_alone(shape: type[Input], field: str, other: str) -> None:
    for alone in (field, other):
        assert "come together: give both or neither" in refused(shape, **{alone: "x"})
    assert getattr(make(shape, **{field: "x", other: "y"}), other) == "y"


def test_a_status_is_one_of_those_that_there_are() -> None:
    assert refused(SessionChanges, status="deleted").startswith("status: Input should be 'active' or 'archived'")


def test_a_change_tells_what_is_given_as_null_from_what_is_not_given() -> None:
    assert make(SessionChanges, title=None).model_dump(exclude_unset=True) == {"title": None}
    assert make(SessionChanges).model_dump(exclude_unset=True) == {}


# Messages


@pytest.mark.parametrize(
    ("given", "role"),
    [
        ("user", "user"),
        ("human", "user"),
        ("assistant", "assistant"),
        ("ai", "assistant"),
        ("system", "system"),
        ("developer", "system"),
        ("tool", "tool"),
    ],
)
def test_a_role_is_understood_by_the_names_that_clients_give_it(given: str, role: str) -> None:
    assert make(NewMessage, role=given).role == role


@pytest.mark.parametrize("role", ["", "User", "robot", None, 1, ["user"]])
def test_any_other_role_is_refused_with_those_that_there_are(role: Any) -> None:
    assert refused(NewMessage, role=role) == "role: Input should be 'system', 'user', 'assistant' or 'tool'"


def test_a_message_says_something() -> None:
    for nothing in ({"content": ""}, {"content": "", "parts": []}, {"content": "", "parts": None}):
        assert "content is empty" in refused(NewMessage, **nothing)
    assert make(NewMessage, content="", parts=[{"type": "tool_call", "id": "a"}]).content == ""
    assert make(NewMessage, content=" ").content == " "


def test_a_replacement_names_what_it_replaces_and_nothing_else_does() -> None:
    assert "kind replacement and replaces_seq come together" in refused(NewMessage, kind="replacement")
    assert "kind replacement and replaces_seq come together" in refused(NewMessage, replaces_seq=1)
    for seq in (0, -1, 2**53, 2**70):
        assert refused(NewMessage, kind="replacement", replaces_seq=seq).startswith("replaces_seq: ")
    assert make(NewMessage, kind="replacement", replaces_seq=1).replaces_seq == 1


@pytest.mark.parametrize(("field", "value"), [("kind", "note"), ("author", "robot"), ("parts", {}), ("usage", 3)])
def test_what_a_message_does_not_know_is_refused(field: str, value: Any) -> None:
    assert refused(NewMessage, **{field: value}).startswith(f"{field}: ")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "tool_call", "id": "a", "arguments": {}},
        {"type": "tool_call_response", "id": "a", "response": "x"},
        {"type": "tool_call_response", "id": "a", "result": "x"},
        {"type": "tool_call"},
        {"type": "text"},
        {"type": "text", "content": "a", "id": "b"},
        {"type": "text", "content": "a\0b"},
        {"type": "blob", "data": "a"},
        {"type": "image", "content": "a"},
        {"content": "a"},
        {},
        "text",
    ],
)
def test_a_part_that_is_not_of_its_type_is_refused(part: Any) -> None:
    assert refused(NewMessage, parts=[{"type": "text", "content": "a"}, part]).startswith("parts.1")


def test_every_type_of_part_is_taken() -> None:
    parts = [LEAST[shape] for shape in LEAST if "type" in shape.model_fields]
    assert len(parts) == 8
    message = make(NewMessage, parts=parts)
    assert [part.model_dump(exclude_none=True) for part in message.parts] == parts


# Tool usage


@pytest.mark.parametrize(
    "started_at",
    ["2026-01-31T12:00:00", datetime(2026, 1, 31), "yesterday", "", {}],
)
def test_a_time_without_a_zone_is_refused(started_at: Any) -> None:
    assert refused(NewToolUsage, started_at=started_at).startswith("started_at: ")


def test_a_time_is_taken_in_any_zone_and_kept_in_utc() -> None:
    noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
    for started_at in (noon, noon.astimezone(timezone(timedelta(hours=-7))), "2026-01-31T13:30:00+01:30"):
        taken = make(NewToolUsage, started_at=started_at).started_at
        assert (taken, taken.tzinfo) == (noon, UTC)


@pytest.mark.parametrize("started_at", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"])
def test_a_time_that_utc_cannot_write_is_refused(started_at: str) -> None:
    assert refused(NewToolUsage, started_at=started_at).startswith("started_at: ")


@pytest.mark.parametrize("duration_ms", [-1, -0.1, 1e12, 2**70, float("nan"), float("inf"), "long"])
def test_a_duration_is_a_number_from_0(duration_ms: Any) -> None:
    assert refused(NewToolUsage, duration_ms=duration_ms).startswith("duration_ms: ")


@pytest.mark.parametrize("message_seq", [0, -1, 2**53, 1.5, "first"])
def test_message_seq_is_a_whole_number_from_1(message_seq: Any) -> None:
    assert refused(NewToolUsage, message_seq=message_seq).startswith("message_seq: ")


@pytest.mark.parametrize("result", [float("nan"), {"k": "\ud800"}, b"x", object(), {1: 2}])
def test_a_result_is_json(result: Any) -> None:
    assert refused(NewToolUsage, result=result).startswith("result: ")


@pytest.mark.parametrize("result", [None, True, 0, 1.5, "", "text", [], {}, [{"k": [None]}]])
def test_a_result_may_be_any_json_value(result: Any) -> None:
    assert make(NewToolUsage, result=result).result == result


def test_arguments_are_needed() -> None:
    with pytest.raises(ValidationError, match="arguments\n  Field required"):
        NewToolUsage.model_validate({"tool_name": "read"})


@pytest.mark.parametrize(("field", "value"), [("status", "done"), ("origin", "robot")])
def test_what_a_tool_usage_does_not_know_is_refused(field: str, value: str) -> None:
    assert refused(NewToolUsage, **{field: value}).startswith(f"{field}: ")
