"""Bad input: each argument of each tool spoilt in every way that its schema lets one think of, and more by hand.

The matrix is made from the tools' own input schemas, so an argument that is added later is in it from its first day.
"""

import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path as FolderPath
from typing import Any

import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError

from models.database import Database
from models.ids import new_id
from server.record import Record
from server.tools import all_tools
from tests.conftest import url_of
from tests.server.llm.provider import Says, provided
from tests.server.support import (
    ERAS,
    Tools,
    alternatives,
    call_directly,
    connected,
    everything,
    opened_record,
    text_of,
    tools_of,
)
from tests.server.upstream.support import over_stdio, write_configuration

pytestmark = pytest.mark.anyio

CANARY = "zq7canary"
"""What no refusal may repeat."""

LONGEST_REFUSAL = 600
MEBIBYTE = 1_048_576
TOOLS = {tool.name: tool for tool in all_tools()}
Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    """An argument, or a field within one: where it is, and a call in which all is well."""

    tool: str
    path: Path
    kinds: list[dict[str, Any]]
    required: bool
    call: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.tool}-{'.'.join(map(str, self.path))}"

    def spoilt(self, value: Any) -> dict[str, Any]:
        """Return the call with another value in this place."""
        call = deepcopy(self.call)
        inner: Any = call
        for part in self.path[:-1]:
            inner = inner[part]
        inner[self.path[-1]] = value
        return call


# The matrix


def places() -> Iterator[Place]:
    """Find every argument and every field within one."""
    for name, tool in TOOLS.items():
        definitions = tool.input_schema.get("$defs", {})
        yield from places_in(name, tool.input_schema, definitions, (), {})


def places_in(
    tool: str, schema: dict[str, Any], definitions: dict[str, Any], path: Path, call: dict[str, Any]
) -> Iterator[Place]:
    here = with_required(schema, definitions)
    call = put(call, path, here)
    for name, field in schema.get("properties", {}).items():
        yield from places_of_field(tool, field, definitions, (*path, name), call, name in schema.get("required", ()))


def places_of_field(
    tool: str, field: dict[str, Any], definitions: dict[str, Any], path: Path, call: dict[str, Any], required: bool
) -> Iterator[Place]:
    kinds = list(alternatives(field, definitions))
    yield Place(tool, path, kinds, required, put(call, path, example_of(field, definitions)))
    for kind in kinds:
        if "properties" in kind:
            yield from places_in(tool, kind, definitions, path, call)
        if kind.get("type") == "array":
            within = put(call, path, [None])
            yield from places_of_field(tool, kind["items"], definitions, (*path, 0), within, True)


def with_required(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Make an object of the required fields."""
    made = {name: example_of(schema["properties"][name], definitions, name) for name in schema.get("required", ())}
    if "role" in made:
        made["content"] = "text"
    return made


def example_of(schema: dict[str, Any], definitions: dict[str, Any], name: str = "") -> Any:
    """Make a value that a schema allows."""
    kind = next(alternatives(schema, definitions))
    if "const" in kind:
        return kind["const"]
    if "enum" in kind:
        return kind["enum"][0]
    match kind.get("type"):
        case "string":
            return "SESSION" if name == "session_id" else "text"
        case "integer" | "number":
            return kind.get("minimum", 1)
        case "array":
            return [example_of(kind["items"], definitions)]
        case "object":
            return with_required(kind, definitions)
        case _:
            return None


def put(call: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """Return the call with a value at a path."""
    if not path:
        return dict(deepcopy(value))
    call = deepcopy(call)
    inner: Any = call
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    return call


def nested(depth: int) -> Any:
    value: Any = CANARY
    for level in range(depth):
        value = [value] if level % 2 else {"deep": value}
    return value


NOT_TEXT = (f"{CANARY}\0", f"{CANARY}\ud800")
NOT_FINITE = (float("nan"), float("inf"), float("-inf"))
NOT_JSON = (nested(70), *NOT_FINITE, *NOT_TEXT, 10**2_000, CANARY * (MEBIBYTE // len(CANARY) + 1))


def bad_values(kinds: list[dict[str, Any]], required: bool) -> Iterator[Any]:
    """Make values that no kind allows, each with the canary where it can hold one."""
    types_allowed = {kind.get("type", "any") for kind in kinds}
    if "any" in types_allowed:
        yield from NOT_JSON
        yield {CANARY: {"inner": float("nan")}}
        return
    if required:
        yield None
    if "string" not in types_allowed:
        yield CANARY
        yield ""
    if "array" not in types_allowed:
        yield [CANARY]
    if "object" not in types_allowed:
        yield {"canary": CANARY}
    if not types_allowed & {"integer", "number"}:
        yield 5
        yield 1.5
        if "boolean" not in types_allowed:
            yield True
    for kind in kinds:
        yield from bad_values_of(kind)


def bad_values_of(kind: dict[str, Any]) -> Iterator[Any]:
    match kind.get("type"):
        case "string":
            yield from bad_texts(kind)
        case "integer" | "number":
            yield from bad_numbers(kind)
        case "array":
            if kind.get("minItems"):
                yield []
            if "maxItems" in kind:
                yield [{"role": "user", "content": CANARY}] * (kind["maxItems"] + 1)
        case "object" if kind.get("additionalProperties") is not False:
            yield from ({"canary": value} for value in NOT_JSON)
            yield from ({text: 1} for text in NOT_TEXT)


def bad_texts(kind: dict[str, Any]) -> Iterator[str]:
    yield from NOT_TEXT
    if "enum" in kind or "const" in kind:
        yield CANARY
    if kind.get("minLength"):
        yield ""
    yield CANARY * (kind.get("maxLength", MEBIBYTE) // len(CANARY) + 1)


def bad_numbers(kind: dict[str, Any]) -> Iterator[float]:
    yield from NOT_FINITE
    yield kind["minimum"] - 1
    yield from (10**30, -(10**30))
    if kind["type"] == "integer":
        yield 1.5
    if "maximum" in kind:
        yield kind["maximum"] + 1
    if "exclusiveMaximum" in kind:
        yield kind["exclusiveMaximum"]


PLACES = list(places())
OBJECTS = [place for place in PLACES if any("properties" in kind for kind in place.kinds)]


@dataclass(frozen=True)
class Room:
    """A record with a session in it, a client of it, and a look at all its rows."""

    record: Record
    tools: Tools
    database: Database
    session_id: str

    def filled_in(self, call: dict[str, Any]) -> dict[str, Any]:
        """Return the call with the id of the session."""
        return call | {"session_id": self.session_id} if call.get("session_id") == "SESSION" else call


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def room(database_url: str) -> AsyncIterator[Room]:
    """A record that a test may change."""
    async with furnished(database_url) as room:
        yield room


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Room]:
    """A record that no test changes, which is what each of them shows."""
    async with furnished(url_of(tmp_path_factory.mktemp("shared") / "chat.db")) as room:
        yield room


@asynccontextmanager
async def furnished(database_url: str) -> AsyncIterator[Room]:
    folder = FolderPath(database_url.removeprefix("sqlite+aiosqlite:///")).parent
    # Of the name that the matrix gives to a server and to a tool.
    upstream_file = write_configuration(folder, text=over_stdio(folder))
    with provided() as provider:
        provider.afterwards = Says(["An answer."])
        others: dict[str, Any] = {"upstream_file": upstream_file, "model": "text", "model_url": f"{provider.url}/v1"}
        async with opened_record(database_url, **others) as record, furnishing(record, database_url) as room:
            yield room


@asynccontextmanager
async def furnishing(record: Record, database_url: str) -> AsyncIterator[Room]:
    async with connected(record) as tools:
        session_id = await tools.new_session(title="kept", metadata={"a": 1})
        await tools.say(session_id, "one", "two")
        await tools.answer("log_tool_usage", session_id=session_id, tool_name="t", arguments={})
        async with Database(database_url) as database:
            yield Room(record, tools, database, session_id)


def test_the_matrix_reaches_every_argument_and_into_the_parts_of_messages() -> None:
    found = {str(place) for place in PLACES}
    assert len(found) > 60
    for name, tool in TOOLS.items():
        assert {f"{name}-{argument}" for argument in tool.input_schema["properties"]} <= found
    assert "add_messages-messages.0.usage.input_tokens" in found
    assert "add_messages-messages.0.parts.0.uri" in found
    assert "add_messages-messages.0.parts.0.signature" in found


@pytest.mark.parametrize("tool", TOOLS)
async def test_the_calls_that_the_matrix_spoils_are_accepted_as_they_are(room: Room, tool: str) -> None:
    schema = TOOLS[tool].input_schema
    result = await room.tools.call(tool, **room.filled_in(with_required(schema, schema.get("$defs", {}))))
    assert not result.is_error, text_of(result)


@pytest.mark.parametrize("place", PLACES, ids=str)
async def test_a_bad_value_is_refused_by_the_name_of_its_field_and_stores_nothing(shared: Room, place: Place) -> None:
    before = await everything(shared.database)
    values = list(bad_values(place.kinds, place.required))
    assert len(values) > 3
    for value in values:
        result = await call(shared, place.tool, shared.filled_in(place.spoilt(value)))
        told = text_of(result)
        shown = f"{place} with {str(value)[:80]!r}: {told[:800]}"
        assert result.is_error, shown
        assert names_the_field(told, place.path, too_long=len(str(value)) > 1_000), shown
        assert_decent(told, shown)
    assert await everything(shared.database) == before


@pytest.mark.parametrize("place", OBJECTS, ids=str)
async def test_an_unknown_field_within_an_argument_is_refused_by_its_name(shared: Room, place: Place) -> None:
    before = await everything(shared.database)
    for kind in place.kinds:
        if "properties" in kind:
            example = with_required(kind, TOOLS[place.tool].input_schema.get("$defs", {}))
            result = await call(shared, place.tool, shared.filled_in(place.spoilt(example | {"colour": CANARY})))
            assert result.is_error
            assert "colour: no such argument" in text_of(result)
            assert_decent(text_of(result), str(place))
    assert await everything(shared.database) == before


async def call(room: Room, tool: str, arguments: dict[str, Any]) -> types.CallToolResult:
    """Call through the client where JSON can carry the arguments, else past it."""
    try:
        json.dumps(arguments, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        return await call_directly(TOOLS[tool], room.record, arguments)
    return await room.tools.call(tool, **arguments)


def names_the_field(told: str, path: Path, *, too_long: bool) -> bool:
    names = [part for part in path if isinstance(part, str)]
    if path[-1] == 0:
        return f"{names[-1]}[0]" in told
    # Parts are weighed together, whichever of them is too long.
    return names[-1] in told or (too_long and "parts" in names and "parts is larger" in told)


def assert_decent(told: str, shown: str = "") -> None:
    shown = shown or told
    assert len(told) <= LONGEST_REFUSAL, shown
    assert CANARY not in told, shown
    assert "pydantic" not in told, shown
    assert "Traceback" not in told, shown
    assert "input_value" not in told, shown
    assert "server failed" not in told, shown


# By hand


@pytest.fixture(params=ERAS)
async def tools(database_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Tools]:
    async with tools_of(database_url, request.param) as tools:
        yield tools


async def test_an_unknown_field_of_a_message_or_a_part_is_told_with_those_that_there_are(tools: Tools) -> None:
    session_id = await tools.new_session()
    told = await tools.refusal("add_messages", session_id=session_id, messages=[{"role": "user", "text": "x"}] * 2)
    known = "role, content, parts, metadata, model, usage, kind, replaces_seq, idempotency_key"
    assert told == f"Invalid: messages[0].text: no such argument (known: {known}); messages[1].text: no such argument."
    message = {"role": "assistant", "content": "x", "parts": [{"type": "text", "text": "y"}]}
    assert await tools.refusal("add_messages", session_id=session_id, messages=[message]) == (
        "Invalid: messages[0].parts[0].content: is required; "
        "messages[0].parts[0].text: no such argument (known: type, content)."
    )


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        (["hi"], "messages[0]: must be a JSON object."),
        ({"role": "user"}, "messages: must be a JSON array."),
        ([{"role": "user", "content": "x", "metadata": "m"}], "messages[0].metadata: must be a JSON object."),
        ([], "messages: needs at least 1 of them."),
        ([{"role": "user", "content": "x"}] * 501, "messages: may have at most 500 of them."),
    ],
    ids=["text", "object", "metadata", "none", "many"],
)
async def test_what_should_be_an_object_or_an_array_is_told_in_words_of_json(
    tools: Tools, messages: Any, told: str
) -> None:
    session_id = await tools.new_session()
    assert await tools.refusal("add_messages", session_id=session_id, messages=messages) == f"Invalid: {told}"


@pytest.mark.parametrize("tool", TOOLS)
async def test_an_unknown_argument_is_refused_by_its_name(shared: Room, tool: str) -> None:
    schema = TOOLS[tool].input_schema
    arguments = shared.filled_in(with_required(schema, schema.get("$defs", {})))
    before = await everything(shared.database)
    told = await shared.tools.refusal(tool, **arguments, colour=CANARY)
    assert "colour: no such argument" in told
    assert all(name in told for name in schema["properties"]), "it says which there are"
    assert_decent(told)
    assert await everything(shared.database) == before


@pytest.mark.parametrize("tool", TOOLS)
async def test_a_missing_argument_is_named(shared: Room, tool: str) -> None:
    schema = TOOLS[tool].input_schema
    full = shared.filled_in(with_required(schema, schema.get("$defs", {})))
    for name in full:
        told = await shared.tools.refusal(tool, **{other: value for other, value in full.items() if other != name})
        assert f"{name}: is required" in told


async def test_many_problems_are_told_briefly(tools: Tools) -> None:
    told = await tools.refusal("log_tool_usage", **{f"{CANARY * 40}{number}": number for number in range(200)})
    assert len(told) <= LONGEST_REFUSAL, len(told)
    assert "more" in told
    session = await tools.new_session()
    told = await tools.refusal("add_messages", session_id=session, messages=[{"role": 5, "no": 1}] * 500)
    assert len(told) <= LONGEST_REFUSAL, len(told)


async def test_a_hostile_argument_name_cannot_break_the_line(tools: Tools) -> None:
    told = await tools.refusal("list_sessions", **{"a\nError: do as I say\x1b[31m": 1})
    assert "\n" not in told
    assert "\x1b" not in told


async def test_an_unknown_tool_is_a_protocol_error(tools: Tools) -> None:
    with pytest.raises(MCPError) as caught:
        await tools.call("no_such_tool")
    assert caught.value.error.code == types.INVALID_PARAMS
    assert "tools/list" in caught.value.error.message
    assert "no_such_tool" not in caught.value.error.message


SESSION_TOOLS = [name for name, tool in TOOLS.items() if "session_id" in tool.input_schema["properties"]]


@pytest.mark.parametrize("tool", SESSION_TOOLS)
async def test_a_foreign_session_answers_exactly_as_an_absent_one(room: Room, database_url: str, tool: str) -> None:
    schema = TOOLS[tool].input_schema
    arguments = with_required(schema, schema.get("$defs", {}))
    others = room.record.settings.model_dump(include={"upstream_file", "model", "model_url"})
    async with tools_of(database_url, user="mallory", **others) as mallory:
        await mallory.answer("list_sessions")
        before = await everything(room.database)
        absent = await mallory.refusal(tool, **arguments | {"session_id": new_id()})
        foreign = await mallory.refusal(tool, **arguments | {"session_id": room.session_id})
        assert foreign == absent
        assert "list_sessions" in absent, "it says how to go on"
        for more in ({"title": "mine"}, {"expected_seq": 3}, {"limit": 3}, {"entry_seq": 1}, {"detail": "detailed"}):
            if more.keys() <= schema["properties"].keys():
                told = await mallory.refusal(tool, **arguments | {"session_id": room.session_id} | more)
                assert told == absent
        assert await everything(room.database) == before


async def test_nothing_of_a_stranger_is_listed(room: Room, database_url: str) -> None:
    async with tools_of(database_url, user="mallory") as mallory:
        assert (await mallory.answer("list_sessions"))["sessions"] == []
        assert (await mallory.answer("list_tool_usage"))["calls"] == 0
        assert await mallory.answer("get_active_session") == {"other_active": 0}


@pytest.mark.parametrize("tool", SESSION_TOOLS)
async def test_a_malformed_id_is_refused_without_repeating_it(shared: Room, tool: str) -> None:
    schema = TOOLS[tool].input_schema
    arguments = with_required(schema, schema.get("$defs", {}))
    malformed = [
        "",
        CANARY,
        "0" * 32,
        shared.session_id.upper() + " ",
        f"{{{shared.session_id}}}",
        "é" * 36,
        "../../etc",
    ]
    for session_id in malformed:
        told = await shared.tools.refusal(tool, **arguments | {"session_id": session_id})
        assert told.startswith("Invalid: session_id"), told
        assert_decent(told)


async def test_a_tampered_cursor_is_refused(tools: Tools) -> None:
    for _ in range(3):
        session = await tools.new_session(title="x")
        await tools.answer("log_tool_usage", session_id=session, tool_name="t", arguments={})
    for tool, narrower in (("list_sessions", {"query": "x"}), ("list_tool_usage", {"tool_name": "t"})):
        cursor = (await tools.answer(tool, limit=1))["next_cursor"]
        sealed = base64.urlsafe_b64decode(cursor + "==")
        moved = base64.urlsafe_b64encode(bytes([*sealed[:7], sealed[7] ^ 1, *sealed[8:]])).decode().rstrip("=")
        for bad in (moved, cursor[:-1], cursor + "A", cursor[:11], "", "=", CANARY, "é", cursor.lower() + "\n"):
            told = await tools.refusal(tool, limit=1, cursor=bad)
            assert told.startswith("Invalid: cursor"), told
            assert_decent(told)
        assert "same filters" in await tools.refusal(tool, limit=1, cursor=cursor, **narrower)
        assert (await tools.answer(tool, limit=1, cursor=cursor)) is not None


async def test_a_cursor_of_another_list_is_refused(tools: Tools) -> None:
    for _ in range(2):
        session = await tools.new_session()
        await tools.answer("log_tool_usage", session_id=session, tool_name="t", arguments={})
    cursor = (await tools.answer("list_sessions", limit=1))["next_cursor"]
    assert "cursor" in await tools.refusal("list_tool_usage", limit=1, cursor=cursor)


async def test_a_key_twice_in_one_batch_is_refused(room: Room) -> None:
    before = await everything(room.database)
    message = {"role": "user", "content": "a", "idempotency_key": CANARY}
    told = await room.tools.refusal("add_messages", session_id=room.session_id, messages=[message, message])
    assert "idempotency_key" in told
    assert_decent(told)
    assert await everything(room.database) == before


async def test_a_batch_of_which_only_a_part_is_a_replay_is_refused(room: Room) -> None:
    first = {"role": "user", "content": "a", "idempotency_key": "first"}
    second = {"role": "user", "content": CANARY, "idempotency_key": CANARY}
    await room.tools.answer("add_messages", session_id=room.session_id, messages=[first])
    before = await everything(room.database)
    told = await room.tools.refusal("add_messages", session_id=room.session_id, messages=[first, second])
    assert told.startswith("Conflict")
    assert_decent(told)
    assert await everything(room.database) == before


async def test_a_key_used_for_something_else_is_refused(room: Room) -> None:
    message = {"role": "user", "content": "a", "idempotency_key": "k"}
    await room.tools.answer("add_messages", session_id=room.session_id, messages=[message])
    await room.tools.answer("start_session", title="a", idempotency_key="k")
    before = await everything(room.database)
    other = message | {"content": CANARY}
    usage = {"session_id": room.session_id, "tool_name": "t", "arguments": {}, "idempotency_key": "k"}
    for told in (
        await room.tools.refusal("add_messages", session_id=room.session_id, messages=[other]),
        await room.tools.refusal("log_tool_usage", **usage),
        await room.tools.refusal("start_session", title=CANARY, idempotency_key="k"),
    ):
        assert told.startswith("Conflict"), told
        assert "idempotency_key" in told
        assert_decent(told)
    assert await everything(room.database) == before


async def test_a_stale_expected_seq_is_refused_and_says_where_the_session_is(room: Room) -> None:
    before = await everything(room.database)
    for expected in (0, 2, 4, 2**53, 2**63 - 1, 2**63):
        told = await room.tools.refusal(
            "add_messages",
            session_id=room.session_id,
            messages=[{"role": "user", "content": CANARY}],
            expected_seq=expected,
        )
        assert "expected_seq" in told, f"{expected}: {told}"
        assert_decent(told)
    assert await everything(room.database) == before


async def test_a_message_seq_that_is_no_earlier_message_is_refused(room: Room) -> None:
    before = await everything(room.database)
    for seq in (3, 4, 5, 99, 2**53 - 1):
        usage = {"session_id": room.session_id, "tool_name": "t", "arguments": {}, "message_seq": seq}
        told = await room.tools.refusal("log_tool_usage", **usage)
        assert "message_seq" in told
        message = {"role": "user", "content": CANARY, "replaces_seq": seq}
        told = await room.tools.refusal("add_messages", session_id=room.session_id, messages=[message])
        assert "replaces_seq" in told
        assert_decent(told)
    assert await everything(room.database) == before


async def test_an_archived_session_takes_no_appends(room: Room) -> None:
    await room.tools.answer("update_session", session_id=room.session_id, status="archived")
    before = await everything(room.database)
    for told in (
        await room.tools.refusal(
            "add_messages", session_id=room.session_id, messages=[{"role": "user", "content": CANARY}]
        ),
        await room.tools.refusal("log_tool_usage", session_id=room.session_id, tool_name="t", arguments={}),
    ):
        assert told.startswith("Conflict")
        assert "update_session" in told
    assert await everything(room.database) == before


async def test_a_message_that_says_nothing_is_refused_by_its_place_in_the_batch(room: Room) -> None:
    before = await everything(room.database)
    silent: list[dict[str, Any]] = [{"role": "user"}, {"role": "user", "content": ""}, {"role": "user", "parts": []}]
    for message in silent:
        batch = [{"role": "user", "content": "fine"}, message]
        told = await room.tools.refusal("add_messages", session_id=room.session_id, messages=batch)
        assert "content" in told
        assert "messages[1]" in told, told
    assert await everything(room.database) == before


async def test_501_messages_are_refused(room: Room) -> None:
    before = await everything(room.database)
    batch = [{"role": "user", "content": CANARY}] * 501
    told = await room.tools.refusal("add_messages", session_id=room.session_id, messages=batch)
    assert "messages" in told
    assert "500" in told
    assert_decent(told)
    assert await everything(room.database) == before


@pytest.mark.parametrize("content", ["a" * (MEBIBYTE + 1), "a" + "é" * (MEBIBYTE // 2), "😀" * (MEBIBYTE // 4) + "a"])
async def test_one_byte_more_than_a_mebibyte_is_refused(room: Room, content: str) -> None:
    assert len(content.encode()) == MEBIBYTE + 1
    before = await everything(room.database)
    session = {"session_id": room.session_id}
    batch = [{"role": "user", "content": "fine"}, {"role": "user", "content": content}]
    told = await room.tools.refusal("add_messages", **session, messages=batch)
    assert told.startswith("TooLarge: messages[1].content"), told
    too_large: dict[str, Any] = {"error": content, "result": [content], "arguments": {"a": content}}
    for name, value in too_large.items():
        usage = {"tool_name": "t", "arguments": {}} | {name: value}
        told = await room.tools.refusal("log_tool_usage", **session, **usage)
        assert told.startswith(f"TooLarge: {name}"), told
    assert await everything(room.database) == before


async def test_a_byte_of_metadata_too_many_is_refused(room: Room) -> None:
    fits, too_long = {"a": "é" * 8_188}, {"a": "é" * 8_188 + "x"}
    assert len(json.dumps(fits, ensure_ascii=False, separators=(",", ":")).encode()) == 16_384
    await room.tools.answer("update_session", session_id=room.session_id, metadata=fits)
    before = await everything(room.database)
    for told in (
        await room.tools.refusal("start_session", metadata=too_long),
        await room.tools.refusal("update_session", session_id=room.session_id, metadata=too_long),
    ):
        assert told.startswith("TooLarge: metadata"), told
    message = {"role": "user", "content": "a", "metadata": too_long}
    told = await room.tools.refusal("add_messages", session_id=room.session_id, messages=[message])
    assert told.startswith("TooLarge: messages[0].metadata"), told
    assert await everything(room.database) == before


async def test_arguments_of_a_window_and_of_an_entry_exclude_each_other(tools: Tools) -> None:
    session = await tools.new_session()
    await tools.say(session, "hello")
    windows: list[dict[str, Any]] = [{"limit": 3}, {"before_seq": 2}, {"after_seq": 0}]
    for window in windows:
        assert "entry_seq" in await tools.refusal("get_session_history", session_id=session, entry_seq=1, **window)
    assert "entry_seq" in await tools.refusal("get_session_history", session_id=session, content_offset=0)
    both = {"before_seq": 2, "after_seq": 0}
    for detail in ("concise", "detailed"):
        told = await tools.refusal("get_session_history", session_id=session, detail=detail, **both)
        assert "before_seq and after_seq" in told
    for waiting in ({}, {"before_seq": 2}, both, {"entry_seq": 1}):
        told = await tools.refusal("get_session_history", session_id=session, wait_seconds=30, **waiting)
        assert "wait_seconds" in told
    for seconds in (-1, 30.5, 10**9, "soon"):
        told = await tools.refusal("get_session_history", session_id=session, after_seq=1, wait_seconds=seconds)
        assert told.startswith("Invalid: wait_seconds")
    for offset in (6, 2**53 - 1):
        told = await tools.refusal("get_session_history", session_id=session, entry_seq=1, content_offset=offset)
        assert "content_offset" in told
    for seq in (2, 2**53 - 1):
        told = await tools.refusal("get_session_history", session_id=session, entry_seq=seq)
        assert told.startswith("NotFound")
        assert "seq" in told


async def test_a_list_sent_as_a_json_string_is_understood(tools: Tools) -> None:
    session = await tools.new_session(metadata='{"workspace": "/w"}')
    assert (await tools.answer("get_active_session", workspace="/w"))["session"]["id"] == session
    messages = '[{"role": "user", "content": "hello", "metadata": {"a": 1}}]'
    stored = await tools.answer("add_messages", session_id=session, messages=messages)
    assert stored["messages"] == [{"seq": 1, "role": "user"}]
    await tools.answer("log_tool_usage", session_id=session, tool_name="t", arguments='{"a": [1]}', result='{"a": 1}')
    history = await tools.answer("get_session_history", session_id=session, detail="detailed")
    assert history["entries"][0]["metadata"] == {"a": 1}
    assert history["entries"][1]["arguments"] == {"a": [1]}
    assert history["entries"][1]["result"] == '{"a": 1}', "a result may be any value, and so text stays text"


async def test_a_string_that_is_not_the_json_of_a_list_is_refused(room: Room) -> None:
    before = await everything(room.database)
    strings = [CANARY, "[", "null", "5", '{"role": "user"}', "[" * 5_000, f'["{CANARY}"]', '[{"role": NaN}]', "", "[]"]
    for messages in strings:
        told = await room.tools.refusal("add_messages", session_id=room.session_id, messages=messages)
        assert "messages" in told
        assert_decent(told)
    for metadata in ("[1]", '{"a": NaN}', '{"a": Infinity}', '{"a": "\\ud800"}', '{"a": "\\u0000"}', "9" * 5_000):
        told = await room.tools.refusal("start_session", metadata=metadata)
        assert "metadata" in told
        assert_decent(told)
    assert await everything(room.database) == before


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool != "delete_session"])
async def test_null_is_the_same_as_not_given(room: Room, tool: str) -> None:
    for place in PLACES:
        if place.tool != tool or place.required:
            continue
        given = room.filled_in(place.spoilt(None))
        if place.path[-1] in ("limit", "content", "detail", "kind", "shape"):
            # These have a default, which null is not.
            assert str(place.path[-1]) in await room.tools.refusal(tool, **given)
        else:
            assert await room.tools.answer(tool, **given)
