"""Arguments drawn from each tool's own input schema, and arguments that were spoilt in one place, in memory.

What the schema allows gets a result or a clear refusal, never an internal error; what it does not allow is refused by
the name of the field. Whatever was acknowledged is then in the record, once, and every timeline is dense.

The strategies are made from the schemas that the tools list, so an argument that is added later is drawn as well.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, given, note, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st

from chat_service.service import ChatService
from models.database import Database
from models.ids import new_id
from server.settings import Settings
from server.tools import offered_tools
from tests.conftest import url_of
from tests.reliability.scale import figure, is_large, patient, scale, seed
from tests.server.support import ERAS, WAIT_SECONDS, Tools, alternatives, everything, text_of, tools_of
from tests.support import JSON_OBJECTS, JSON_VALUES, TEXTS

pytestmark = patient

CALLS = scale(1_000, 20_000) // (2 * len(ERAS))
"""How many calls are drawn for each era, of those that the schema allows and of those that it does not."""

REFUSALS = ("Invalid: ", "NotFound: ", "Conflict: ", "TooLarge: ")
LONGEST_REFUSAL = 600
SCHEMAS = {tool.name: tool.input_schema for tool in offered_tools(Settings())}
ROUND = (*SCHEMAS, "add_messages", "log_tool_usage", "log_tool_usage")
DEEP = st.integers(60, 70).map(lambda depth: _nested(depth))
USUAL = ("content",)
"""Fields without which a call is mostly refused, though the schema does not require them."""

Schema = dict[str, Any]


WRONG_KINDS: Mapping[str, tuple[Any, ...]] = {
    "string": (5, 1.5, True, [], {}, ["text"]),
    "integer": ("many", "", [], {}, [1], 1.5),
    "number": ("many", "", [], {}, [1]),
    "array": (5, True, {}, 1.5, "text", "{", '{"a": 1}', [5], ["text"], [[]], [{"no such field": 1}]),
    "object": (5, True, [], [1], 1.5, "text", "[1]"),
}
"""Values of other kinds than a schema's; lists and objects may also come as JSON in a string."""


# Values that a schema allows


def values_of(schema: Schema, definitions: Schema, name: str = "") -> st.SearchStrategy[Any]:
    """Draw values that a schema allows; for a session or a cursor also words in whose place one is filled in."""
    kinds = list(alternatives(schema, definitions))
    return st.one_of([_values_of_kind(kind, definitions, name) for kind in kinds])


def _values_of_kind(kind: Schema, definitions: Schema, name: str) -> st.SearchStrategy[Any]:
    if "const" in kind:
        return st.just(kind["const"])
    if "enum" in kind:
        return st.sampled_from(kind["enum"])
    match kind.get("type"):
        case "string":
            return _texts_of(kind, name)
        case "integer":
            return _integers_of(kind)
        case "number" if name == "wait_seconds":
            # Longer waits are answered alike, only later.
            return st.floats(0, 0.01) | st.just(0)
        case "number":
            least, most = kind["minimum"], kind["exclusiveMaximum"]
            return _integers_of(kind) | st.floats(least, most, exclude_max=True, allow_nan=False)
        case "array":
            return st.lists(values_of(kind["items"], definitions), min_size=kind.get("minItems", 0), max_size=2)
        case "object":
            return objects_of(kind, definitions)
        case _:
            return mostly(JSON_VALUES, DEEP)


@st.composite
def objects_of(draw: st.DrawFn, schema: Schema, definitions: Schema) -> dict[str, Any]:
    """Draw objects that a schema allows: every required field, and some of the others."""
    properties: Schema = schema.get("properties", {})
    if not properties:
        assert schema.get("additionalProperties") is not False
        return draw(mostly(JSON_OBJECTS, DEEP.filter(lambda value: isinstance(value, dict))))
    required = schema.get("required", [])
    others = [name for name in properties if name not in required]
    # Each of them that is given is one more reason for a refusal.
    few = draw(st.lists(st.sampled_from(others), unique=True, max_size=3)) if others else []
    usual = [name for name in others if name in USUAL and draw(st.integers(0, 9))]
    chosen = others if draw(st.integers(0, 19)) == 7 else {*few, *usual}
    return {name: draw(values_of(properties[name], definitions, name)) for name in (*required, *sorted(chosen))}


def _texts_of(schema: Schema, name: str) -> st.SearchStrategy[str]:
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    words = st.sampled_from(["text", "tool", "key 1", "key 2", "call 1", "call 2", "%", "_"])
    edges = st.just("a\0b") if most is None else st.sampled_from(["a\0b", *(each * most for each in 'xé😀"\n')])
    texts = TEXTS.filter(lambda text: least <= len(text) and (most is None or len(text) <= most))
    any_text = mostly(words if name in USUAL else words | texts, edges | texts)
    if name == "session_id":
        return mostly(st.integers(0, 3).map(lambda number: f"SESSION {number}"), any_text | st.just(new_id()))
    return mostly(st.just("CURSOR"), any_text) if name == "cursor" else any_text


def _integers_of(schema: Schema) -> st.SearchStrategy[int]:
    least, most = schema["minimum"], schema.get("maximum")
    if most is None and "exclusiveMaximum" in schema:
        most = int(schema["exclusiveMaximum"]) - 1
    far = [least, most] if most is not None else [least, 2**53, 2**63 - 1, 2**63, 2**64, 10**30]
    # Mostly such as mean something in a short session.
    few = st.integers(least, least + 3 if most is None else min(most, least + 3))
    return mostly(few, st.integers(least, most) | st.sampled_from(far))


def mostly(usual: st.SearchStrategy[Any], seldom: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw from one strategy, and one time in sixteen from the other."""
    return st.integers(0, 15).flatmap(lambda number: seldom if number == 11 else usual)


def _nested(depth: int) -> Any:
    value: Any = "deep"
    for level in range(depth):
        value = [value] if level % 2 else {"deep": value}
    return value


# Calls


@dataclass(frozen=True)
class Call:
    """A call of a tool; where it was spoilt, the field that its refusal must name."""

    tool: str
    arguments: dict[str, Any]
    spoilt: str | None = None


def rounds() -> st.SearchStrategy[list[Call]]:
    """Draw a call of each tool, and more appends, in any order, all of them as the schemas allow."""
    return st.tuples(*map(_calls_of, ROUND)).flatmap(st.permutations).map(list)


def _calls_of(tool: str) -> st.SearchStrategy[Call]:
    schema = SCHEMAS[tool]
    return objects_of(schema, schema.get("$defs", {})).map(lambda arguments: Call(tool, arguments))


@st.composite
def spoilt_calls(draw: st.DrawFn, tool: str) -> Call:
    """Draw calls that the tool's schema allows, and spoil each in one place."""
    call = draw(_calls_of(tool))
    schema = SCHEMAS[tool]
    definitions = schema.get("$defs", {})
    arguments = deepcopy(call.arguments)
    places = list(objects_in(arguments, schema, definitions))
    inner, inner_schema = draw(st.sampled_from(places))
    return Call(call.tool, arguments, draw(st.sampled_from(list(ways_to_spoil(inner, inner_schema, definitions))))())


def objects_in(value: Any, schema: Schema, definitions: Schema) -> Iterator[tuple[dict[str, Any], Schema]]:
    """Find the objects whose fields a schema names, each with its schema."""
    (kind,) = [each for each in alternatives(schema, definitions) if fits(value, each)] or [{}]
    if isinstance(value, dict) and "properties" in kind:
        yield value, kind
        for name, inner in value.items():
            yield from objects_in(inner, kind["properties"][name], definitions)
    if isinstance(value, list) and "items" in kind:
        for inner in value:
            yield from objects_in(inner, kind["items"], definitions)


def fits(value: Any, kind: Schema) -> bool:
    """Tell which of several schemas a drawn value was drawn from."""
    if isinstance(value, dict) and "type" in kind.get("properties", {}):
        return bool(value["type"] == kind["properties"]["type"]["const"])
    return True


def ways_to_spoil(value: dict[str, Any], schema: Schema, definitions: Schema) -> Iterator[Callable[[], str]]:
    """Find what can be done to an object so that its schema no longer allows it; each returns the field's name."""

    def put(name: str, wrong: Any) -> Callable[[], str]:
        def spoil() -> str:
            value[name] = wrong
            return name

        return spoil

    def leave_out(name: str) -> Callable[[], str]:
        def spoil() -> str:
            del value[name]
            return name

        return spoil

    yield put("colour", "red")
    for name in schema.get("required", ()):
        yield leave_out(name)
        yield put(name, None)
    for name, inner in schema["properties"].items():
        if "type" in schema["properties"] and name == "type":
            yield put(name, "no such part")
            continue
        for wrong in wrong_values(inner, definitions):
            yield put(name, wrong)


def wrong_values(schema: Schema, definitions: Schema) -> Iterator[Any]:
    """Make values that a schema does not allow, and that no reader takes for something that it does."""
    for kind in alternatives(schema, definitions):
        yield from WRONG_KINDS.get(kind.get("type", "any"), ())
        if "minLength" in kind:
            yield ""
        if "maxLength" in kind:
            yield "x" * (kind["maxLength"] + 1)
        if "enum" in kind:
            yield "no such word"
        if "minimum" in kind:
            yield from (kind["minimum"] - 1, -(10**30))
        if "maximum" in kind:
            yield kind["maximum"] + 1
        if "exclusiveMaximum" in kind:
            yield kind["exclusiveMaximum"]
        if "minItems" in kind:
            yield from ([], "[]")
        if "maxItems" in kind:
            yield [{"role": "user", "content": "text"}] * (kind["maxItems"] + 1)


# The server, and what it has acknowledged


@dataclass
class Book:
    """What was acknowledged: for each session the entries by their seq."""

    entries: dict[str, dict[int, tuple[str, str]]] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    parents: dict[str, str] = field(default_factory=dict)
    answered: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    cursors: dict[str, str] = field(default_factory=dict)

    def fill_in(self, call: Call) -> dict[str, Any]:
        """Return the arguments with a session and a cursor that there are."""
        arguments = dict(call.arguments)
        session_id = arguments.get("session_id")
        if isinstance(session_id, str) and session_id.startswith("SESSION "):
            # The older ones grow, the newest is the one that goes.
            known = [*list(self.entries)[:3], list(self.entries)[-1]]
            number = -1 if call.tool == "delete_session" else int(session_id[-1]) % len(known)
            arguments["session_id"] = known[number]
        if arguments.get("cursor") == "CURSOR":
            arguments["cursor"] = self.cursors.get(call.tool, "CURSOR")
        return arguments

    def note(self, tool: str, arguments: dict[str, Any], structured: dict[str, Any]) -> None:
        """Write down what an answer has acknowledged."""
        self.answered[tool] += 1
        if structured.get("next_cursor"):
            self.cursors[tool] = structured["next_cursor"]
        if tool == "start_session":
            self.entries.setdefault(structured["id"], {})
        elif tool == "fork_session":
            parent = self.entries[arguments["session_id"]]
            self.parents[structured["id"]] = arguments["session_id"]
            self.entries[structured["id"]] = {
                seq: entry for seq, entry in parent.items() if seq <= structured["last_seq"]
            }
        elif tool == "delete_session":
            self._note_deleted(arguments["session_id"], with_forks=arguments.get("with_forks", False))
        elif tool == "add_messages":
            for stored, sent in zip(structured["messages"], arguments["messages"], strict=True):
                assert stored["role"] == sent["role"]
                self._note_entry(structured["session_id"], stored["seq"], (sent["role"], sent.get("content", "")))
        elif tool == "log_tool_usage":
            self._note_entry(structured["session_id"], structured["seq"], ("a call", arguments["tool_name"]))

    def _note_deleted(self, session_id: str, *, with_forks: bool) -> None:
        self.deleted.add(session_id)
        del self.entries[session_id]
        ancestor = self.parents.pop(session_id, None)
        for fork in [fork for fork, parent in self.parents.items() if parent == session_id]:
            if with_forks:
                self._note_deleted(fork, with_forks=True)
            elif ancestor is None:
                del self.parents[fork]
            else:
                self.parents[fork] = ancestor

    def _note_entry(self, session_id: str, seq: int, entry: tuple[str, str]) -> None:
        # A repetition under an idempotency key gives the first one's seq, and is equal to it.
        assert self.entries[session_id].setdefault(seq, entry) == entry


class Server:
    """A server in memory whose calls can be made from plain functions."""

    def __init__(self, portal: BlockingPortal, tools: Tools) -> None:
        self._portal, self._tools = portal, tools
        self.book = Book()

    def start_session(self) -> None:
        """See that there is a session to append to."""
        self.book.note("start_session", {}, self._portal.call(self._answer_start))

    async def _answer_start(self) -> dict[str, Any]:
        return await self._tools.answer("start_session")

    def call(self, call: Call) -> types.CallToolResult:
        """Make a call, which must be answered, and write down what it acknowledged."""
        if not self.book.entries:
            self.start_session()
        arguments = self.book.fill_in(call)
        result: types.CallToolResult = self._portal.call(self._call, call.tool, arguments)
        told = text_of(result)
        note(told[:300])
        if result.is_error:
            self.book.refused[call.tool] += 1
            assert told.startswith(REFUSALS), told
            assert len(told) <= LONGEST_REFUSAL
            assert "\n" not in told
        else:
            assert result.structured_content is not None
            assert call.spoilt is None, f"{call.spoilt} of {call.tool} is wrong and was accepted: {told[:300]}"
            self.book.note(call.tool, arguments, result.structured_content)
        return result

    async def _call(self, name: str, arguments: dict[str, Any]) -> types.CallToolResult:
        async with asyncio.timeout(WAIT_SECONDS):
            return await self._tools.call(name, **arguments)


@contextmanager
def serving(database_url: str, era: str) -> Iterator[Server]:
    """Connect a client of an era to a server, with a loop of their own."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(tools_of(database_url, era)) as tools:
        server = Server(portal, tools)
        for _ in range(3):
            server.start_session()
        yield server


def many(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a property so many times: the same examples each time in a small run, those of the seed in a large one."""
    how = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=not is_large(),
        suppress_health_check=list(HealthCheck),
    )
    return (lambda function: with_seed(seed())(how(function))) if is_large() else how


def check_record(path: Path, book: Book) -> None:
    """See that the record holds what was acknowledged and nothing else, on timelines without gaps."""

    async def read() -> dict[str, list[Any]]:
        async with Database(url_of(path)) as database:
            await ChatService(database).finish_deletions()
            return await everything(database)

    rows = asyncio.run(read())
    sessions = {str(row.id): row for row in rows["chat_sessions"]}
    assert sessions.keys() == book.entries.keys()
    ids = {row.key: session_id for session_id, row in sessions.items()}
    stored: dict[str, dict[int, tuple[str, str]]] = {session_id: {} for session_id in sessions}
    for row in rows["messages"]:
        stored[ids[row.session_key]][row.seq] = (row.role, row.content)
    for row in rows["tool_usages"]:
        assert row.seq not in stored[ids[row.session_key]]
        stored[ids[row.session_key]][row.seq] = ("a call", row.tool_name)
    # A fork's own rows begin after what it inherits.
    own = {
        session_id: {seq: entry for seq, entry in entries.items() if seq > (sessions[session_id].forked_from_seq or 0)}
        for session_id, entries in book.entries.items()
    }
    assert stored == own
    for session_id, entries in book.entries.items():
        assert sorted(entries) == list(range(1, len(entries) + 1))
        assert sessions[session_id].last_seq == len(entries)


@pytest.mark.parametrize("era", ERAS)
def test_what_the_schema_allows_is_answered_or_clearly_refused_and_what_is_acknowledged_is_stored(
    tmp_path: Path, era: str
) -> None:
    path = tmp_path / "chat.db"
    with serving(url_of(path), era) as server:

        @many(CALLS // len(ROUND))
        @given(rounds())
        def draw(calls: list[Call]) -> None:
            for call in calls:
                server.call(call)

        draw()
        book = server.book
        figure(f"tool fuzz, {era}: answered", dict(book.answered))
        figure(f"tool fuzz, {era}: refused", dict(book.refused))
    assert book.answered.keys() == SCHEMAS.keys(), "each tool has answered some of its calls"
    check_record(path, book)


@pytest.mark.parametrize("era", ERAS)
def test_what_the_schema_does_not_allow_is_refused_by_the_name_of_its_field_and_stores_nothing(
    tmp_path: Path, era: str
) -> None:
    path = tmp_path / "chat.db"
    with serving(url_of(path), era) as server:

        @many(CALLS // len(SCHEMAS))
        @given(st.tuples(*map(spoilt_calls, SCHEMAS)))
        def draw(calls: tuple[Call, ...]) -> None:
            for call in calls:
                told = text_of(server.call(call))
                assert call.spoilt is not None
                assert call.spoilt in told, f"{call.spoilt} of {call.tool} is wrong and not named: {told}"

        draw()
        book = server.book
    assert book.refused.keys() == SCHEMAS.keys(), "each tool has refused some"
    check_record(path, book)
