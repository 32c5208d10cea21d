"""What every public method of ChatService keeps, generated from the class, so that a new method cannot escape."""

import copy
import inspect
import json
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from pydantic import TypeAdapter
from sqlalchemy import Connection

from chat_service import appends, sessions
from chat_service.service import ChatService
from chat_service.work import Work
from models import tables
from models.database import Database
from models.errors import ChatError, Invalid, NotFound
from models.ids import RunId, SessionId, UserId, new_id
from models.inputs import Lease, NewRun, NewSession, NewUser, RunCall, SessionChanges, Usage, UserChanges
from models.shapes import SessionDict
from tests.support import (
    ROOT,
    asking,
    count_rows,
    done,
    fill,
    new_session,
    new_user,
    run_python,
    said,
    watch_statements,
)

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class World:
    """Somebody with a session, and somebody else."""

    user_id: UserId
    session_id: SessionId
    second_id: SessionId
    stranger_id: UserId
    run_id: RunId


Arguments = dict[str, Any]

LEASE = Lease(owner="tests", seconds=60)

EXAMPLES: dict[str, Callable[[World], Arguments]] = {
    "get_or_create_user": lambda world: {"new_user": NewUser(username="grace", email="grace@example.org")},
    "get_user": lambda world: {},
    "update_user": lambda world: {"changes": UserChanges(display_name="Ada")},
    "delete_user": lambda world: {},
    "create_chat_session": lambda world: {"new_session": NewSession(title="Another", session_data={"n": [1, None]})},
    "get_session": lambda world: {"session_id": world.session_id},
    "get_active_session": lambda world: {},
    "get_user_sessions": lambda world: {"limit": 1},
    "find_sessions": lambda world: {"text": "First"},
    "update_session": lambda world: {"session_id": world.session_id, "changes": SessionChanges(title="Renamed")},
    "fork_session": lambda world: {"session_id": world.session_id, "at_seq": 2, "title": "Another way"},
    "merge_sessions": lambda world: {"source_id": world.session_id, "target_id": world.second_id},
    "delete_session": lambda world: {"session_id": world.session_id},
    "add_message": lambda world: {"session_id": world.session_id, "message": _full_message()},
    "add_messages": lambda world: {"session_id": world.session_id, "new_messages": [said("one"), asking("call")]},
    "get_session_messages": lambda world: {"session_id": world.session_id},
    "add_tool_usage": lambda world: {"session_id": world.session_id, "usage": _full_tool_usage()},
    "get_session_tool_usage": lambda world: {"session_id": world.session_id, "limit": 1},
    "list_tool_usage": lambda world: {"session_id": world.session_id, "limit": 1},
    "summarize_tool_usage": lambda world: {"session_id": world.session_id},
    "summarize_token_usage": lambda world: {"session_id": world.session_id, "by": "day"},
    "get_session_history": lambda world: {"session_id": world.session_id},
    "get_session_preview": lambda world: {"session_id": world.session_id},
    "get_session_entry": lambda world: {"session_id": world.session_id, "seq": 1},
    "wait_for_entries": lambda world: {"session_id": world.session_id, "after_seq": 1, "seconds": 1},
    "get_context": lambda world: {"session_id": world.session_id, "token_budget": 500},
    "search_history": lambda world: {"query": "last", "limit": 1},
    "begin_run": lambda world: {"new_run": _question("another", world.session_id), "lease": LEASE},
    "renew_run": lambda world: {"run_id": world.run_id, "lease": LEASE},
    "add_run_message": lambda world: {
        "run_id": world.run_id,
        "lease": LEASE,
        "message": asking("call-3"),
        "calls": [RunCall(tool_call_id="call-3", tool_name="read", arguments={})],
    },
    "end_run": lambda world: {
        "run_id": world.run_id,
        "lease": LEASE,
        "state": "done",
        "new_messages": [said("answer")],
        "result": {"rounds": 1},
    },
    "get_audit_log": lambda world: {"limit": 1},
    "verify_audit_log": lambda world: {},
    "transaction": lambda world: {"function": _create_and_append(world)},
    "finish_deletions": lambda world: {},
    "finish_indexing": lambda world: {},
    "snapshot": lambda world: {"function": _read_session(world)},
    "health": lambda world: {},
}
"""An example call of every public method; the acting user is added where the method takes one."""

GENERIC_RESULTS = {"transaction": SessionDict, "snapshot": SessionDict}

WITHOUT_USER = {
    *("get_or_create_user", "transaction", "snapshot", "finish_deletions", "finish_indexing"),
    *("verify_audit_log", "health"),
}

METHODS = {name: member for name, member in inspect.getmembers(ChatService, callable) if not name.startswith("_")}

SESSION_ID_PARAMETERS = [
    (name, parameter)
    for name, method in METHODS.items()
    for parameter, hint in typing.get_type_hints(method).items()
    if hint is SessionId or SessionId in typing.get_args(hint)
]
RUN_ID_PARAMETERS = [
    (name, "run_id") for name, method in METHODS.items() if "run_id" in inspect.signature(method).parameters
]
USER_ID_PARAMETERS = [(name, "user_id") for name in METHODS if name not in WITHOUT_USER]

MALFORMED_IDS: tuple[Any, ...] = (
    "",
    "x",
    "0190A1B2-C3D4-7E5F-8A6B-7C8D9E0F1A2B",
    "{0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b}",
    "0190a1b2c3d47e5f8a6b7c8d9e0f1a2b",
    "'; DROP TABLE users; -- and so forth",
    "\0",
    "\ud800",
    7,
    ["0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b"],
)


def _question(key: str, session_id: SessionId | None = None) -> NewRun:
    return NewRun(message=said("why?"), session_id=session_id, idempotency_key=key)


def _full_message() -> Any:
    usage = Usage(input_tokens=3, output_tokens=5, cache_read_tokens=2, cache_write_tokens=1, reasoning_tokens=4)
    return said("all fields", message_metadata={"a": {"b": [1.5, None]}}, model="m", usage=usage, token_count=2)


def _full_tool_usage() -> Any:
    return done(
        arguments={"path": "/x"}, result=[1, {"two": None}], error="no", duration_ms=3, server_name="files",
        started_at="2026-01-31T12:00:00+02:00", tool_call_id="call-9", message_seq=1,
    )  # fmt: skip


def _create_and_append(world: World) -> Callable[[Work], SessionDict]:
    def create_and_append(work: Work) -> SessionDict:
        session_id = SessionId(sessions.create(work, world.user_id, NewSession(title="Both"))["id"])
        appends.add(work, world.user_id, session_id, [said()])
        return sessions.get_session(work.connection, world.user_id, session_id)

    return create_and_append


def _read_session(world: World) -> Callable[[Connection], SessionDict]:
    return lambda connection: sessions.get_session(connection, world.user_id, world.session_id)


async def populate(service: ChatService) -> World:
    user_id = await new_user(service, "ada")
    session_id = await new_session(service, user_id, title="First", session_data={"workspace": "/w"}, client="tests")
    await service.add_messages(user_id, session_id, [_full_message(), asking("call-1"), said("last")])
    await service.add_tool_usage(user_id, session_id, _full_tool_usage())
    await service.add_tool_usage(user_id, session_id, done(tool_call_id="call-1"))
    second_id = await new_session(service, user_id, title="Second")
    run = await service.begin_run(user_id, _question("asked"), LEASE)
    return World(user_id, session_id, second_id, await new_user(service, "mallory"), RunId(run["id"]))


def call(service: ChatService, name: str, world: World, **replaced: Any) -> Awaitable[Any]:
    acting = {} if name in WITHOUT_USER else {"user_id": world.user_id}
    method: Callable[..., Awaitable[Any]] = getattr(service, name)
    return method(**acting | EXAMPLES[name](world) | replaced)


async def refusal_of(answer: Awaitable[Any]) -> tuple[type[BaseException], str]:
    with pytest.raises(ChatError) as refused:
        await answer
    return refused.type, str(refused.value)


def assert_plain(value: Any) -> None:
    """Fail where a value is anything but the types that JSON itself reads into."""
    assert type(value) in (dict, list, str, int, float, bool, type(None)), type(value)
    if isinstance(value, dict):
        for key, inner in value.items():
            assert type(key) is str
            assert_plain(inner)
    if isinstance(value, list):
        for inner in value:
            assert_plain(inner)


def test_every_public_method_has_an_example_and_is_asynchronous() -> None:
    assert set(EXAMPLES) == set(METHODS)
    assert [name for name, method in METHODS.items() if not inspect.iscoroutinefunction(method)] == []


def test_every_method_on_somebodys_data_takes_the_acting_user_first() -> None:
    for name, method in METHODS.items():
        parameters = list(inspect.signature(method).parameters)[1:]
        if name in WITHOUT_USER:
            assert "user_id" not in parameters, name
        else:
            assert parameters[0] == "user_id", name
            assert typing.get_type_hints(method)["user_id"] is UserId, name


def test_every_parameter_that_is_an_id_says_whose() -> None:
    named = {(name, p) for name, method in METHODS.items() for p in inspect.signature(method).parameters if "_id" in p}
    assert named == {*SESSION_ID_PARAMETERS, *RUN_ID_PARAMETERS, *USER_ID_PARAMETERS}


@pytest.mark.parametrize("name", METHODS)
async def test_a_result_is_plain_json_of_its_declared_shape_and_outlives_the_database(
    name: str, database_url: str
) -> None:
    async with Database(database_url) as database:
        service = ChatService(database)
        result = await call(service, name, await populate(service))
        kept = copy.deepcopy(result)
        written = json.dumps(result, allow_nan=False)
    with pytest.raises(ChatError):
        await service.health()
    declared: Any = typing.get_type_hints(METHODS[name])["return"]
    if isinstance(declared, TypeVar):
        declared = GENERIC_RESULTS[name]
    assert_plain(result)
    # What validation returns holds the promised keys alone: an equal result has no others.
    assert TypeAdapter(declared).validate_python(result, strict=True) == result
    assert json.dumps(result, allow_nan=False) == written
    assert json.loads(written) == result == kept


@pytest.mark.parametrize(("name", "parameter"), SESSION_ID_PARAMETERS + RUN_ID_PARAMETERS)
async def test_somebody_elses_session_answers_exactly_as_an_absent_one(
    name: str, parameter: str, database: Database, service: ChatService
) -> None:
    world = await populate(service)
    before = await everything(service, database, world)
    foreign = await refusal_of(call(service, name, world, user_id=world.stranger_id))
    absent = await refusal_of(call(service, name, world, user_id=world.stranger_id, **{parameter: new_id()}))
    nobody = await refusal_of(call(service, name, world, user_id=new_id()))
    own_absent = await refusal_of(call(service, name, world, **{parameter: new_id()}))
    assert foreign == absent == nobody == own_absent
    assert foreign[0] is NotFound
    assert await everything(service, database, world) == before


@pytest.mark.parametrize("name", [name for name, _ in USER_ID_PARAMETERS])
async def test_an_absent_user_sees_nothing_and_changes_nothing(
    name: str, database: Database, service: ChatService
) -> None:
    world = await populate(service)
    before = await everything(service, database, world)
    try:
        answer = await call(service, name, world, user_id=new_id())
    except NotFound:
        pass
    else:
        assert world.user_id not in json.dumps(answer)
        assert world.session_id not in json.dumps(answer)
    assert await everything(service, database, world) == before


@pytest.mark.parametrize(("name", "parameter"), SESSION_ID_PARAMETERS + RUN_ID_PARAMETERS + USER_ID_PARAMETERS)
async def test_a_malformed_id_is_invalid_and_is_named_but_not_repeated(
    name: str, parameter: str, service: ChatService
) -> None:
    world = await populate(service)
    for malformed in MALFORMED_IDS:
        kind, message = await refusal_of(call(service, name, world, **{parameter: malformed}))
        assert kind is Invalid, malformed
        assert message.startswith(f"{parameter} "), malformed
        assert str(malformed) not in message or len(str(malformed)) < 2


# How many statements a unit runs; each number is the same for a session of 10 entries and for one of 10,000.
READ_STATEMENTS: dict[str, tuple[int, Arguments]] = {
    "get_session": (1, {}),
    "get_session_history": (3, {"limit": 500}),
    "get_session_preview": (3, {"limit": 500}),
    "get_session_messages": (2, {"limit": 500}),
    "wait_for_entries": (1, {"after_seq": 0, "seconds": 1}),
    "get_session_entry": (2, {"seq": 1}),
    "get_context": (7, {"token_budget": 100_000}),
    "get_session_tool_usage": (2, {"limit": 500}),
    "list_tool_usage": (4, {"limit": 500}),
    "summarize_tool_usage": (2, {}),
    "summarize_token_usage": (2, {"by": "session"}),
}
READ_STATEMENTS_OF_A_USER: dict[str, tuple[int, Arguments]] = {
    "search_history": (5, {"query": "number", "limit": 200}),
    "get_user": (1, {}),
    "get_user_sessions": (1, {"limit": 500}),
    "find_sessions": (1, {"text": "0", "limit": 500}),
    "get_active_session": (1, {}),
    "get_session_tool_usage": (1, {"limit": 500}),
    "list_tool_usage": (2, {"limit": 500}),
    "summarize_tool_usage": (1, {}),
    # Of the user's own messages none is an answer: with nothing to count, it is asked whether there is such a user.
    "summarize_token_usage": (2, {"by": "day"}),
}


async def test_reading_takes_a_fixed_number_of_statements_for_10_and_for_10_000_entries(database_url: str) -> None:
    async with Database(database_url, readers=1) as database:
        service = ChatService(database)
        user_id = await new_user(service)
        statements = await watch_statements(database)
        for entries in (10, 10_000):
            session_id = await new_session(service, user_id)
            await fill(service, user_id, session_id, entries)
            await database.index()
            for name, (expected, arguments) in READ_STATEMENTS.items():
                statements.clear()
                await getattr(service, name)(user_id, session_id, **arguments)
                assert len(statements) == expected, (name, entries, statements)
            for name, (expected, arguments) in READ_STATEMENTS_OF_A_USER.items():
                statements.clear()
                await getattr(service, name)(user_id, **arguments)
                assert len(statements) == expected, (name, entries, statements)


async def test_reading_messages_alone_takes_no_statement_for_tool_usage(database_url: str) -> None:
    async with Database(database_url, readers=1) as database:
        service = ChatService(database)
        user_id = await new_user(service)
        session_id = await new_session(service, user_id)
        await service.add_messages(user_id, session_id, [said(f"Number {number}") for number in range(1, 31)])
        await service.add_tool_usage(user_id, session_id, done())
        fork_id = SessionId((await service.fork_session(user_id, session_id, 30))["id"])
        statements = await watch_statements(database)
        reads: list[Callable[..., Awaitable[Any]]] = [service.get_session_history, service.get_session_preview]
        for read in reads:
            for of_session, window, expected in (
                (session_id, {"limit": 10, "before_seq": 31}, 2),
                (session_id, {"limit": 10, "after_seq": 5}, 2),
                (session_id, {"limit": 10}, 3),
                (fork_id, {"limit": 10}, 2),
            ):
                statements.clear()
                answer = await read(user_id, of_session, **window)
                assert len(answer["entries"]) == 10
                assert len(statements) == expected, (of_session == fork_id, window, statements)


async def test_listing_takes_a_fixed_number_of_statements_for_any_number_of_sessions(database_url: str) -> None:
    async with Database(database_url, readers=1) as database:
        service = ChatService(database)
        user_id = await new_user(service)
        statements = await watch_statements(database)
        for more in (3, 997):
            await service.transaction(_creating(user_id, more))
            statements.clear()
            page = await service.get_user_sessions(user_id, limit=500)
            assert len(statements) == 1
            active = await service.get_active_session(user_id)
            assert len(statements) == 2
        assert len(page["sessions"]) == 500
        assert active["other_active"] == 999


@pytest.mark.parametrize("count", [1, 2, 500])
async def test_appending_takes_a_fixed_number_of_statements_whatever_the_size_of_the_batch(
    count: int, database_url: str
) -> None:
    async with Database(database_url, readers=1) as database:
        service = ChatService(database)
        user_id = await new_user(service)
        session_id = await new_session(service, user_id)
        statements = await watch_statements(database)
        await service.add_messages(user_id, session_id, [said()] * count)
        assert len(statements) == 3
        statements.clear()
        keyed = [said(idempotency_key=str(number)) for number in range(count)]
        first = await service.add_messages(user_id, session_id, keyed)
        assert len(statements) == 4
        statements.clear()
        assert await service.add_messages(user_id, session_id, keyed) == first
        assert len(statements) == 2


async def test_appending_takes_the_same_statements_to_a_session_of_10_and_of_10_000_entries(database_url: str) -> None:
    async with Database(database_url, readers=1) as database:
        service = ChatService(database)
        user_id = await new_user(service)
        statements = await watch_statements(database)
        for entries in (10, 10_000):
            session_id = await new_session(service, user_id)
            await fill(service, user_id, session_id, entries)
            statements.clear()
            await service.add_message(user_id, session_id, said())
            assert len(statements) == 3
            await service.add_tool_usage(user_id, session_id, done(tool_call_id="call"))
            assert len(statements) == 7
            await service.add_message(user_id, session_id, asking("call"))
            assert len(statements) == 12


def test_the_service_does_without_the_object_relational_mapper() -> None:
    loaded = (
        "import sys, chat_service.service; print([name for name in sys.modules if name.startswith('sqlalchemy.orm')])"
    )
    assert run_python(loaded) == "[]"


def test_no_source_declares_a_relationship() -> None:
    sources = [path for floor in ("models", "chat_service") for path in (ROOT / floor).rglob("*.py")]
    assert len(sources) > 20
    assert [path.name for path in sources if "relationship(" in path.read_text(encoding="utf-8")] == []


def _creating(user_id: UserId, count: int) -> Callable[[Work], list[SessionDict]]:
    return lambda work: [sessions.create(work, user_id, NewSession(title="Many")) for _ in range(count)]


async def everything(service: ChatService, database: Database, world: World) -> Any:
    own = [
        await service.get_user(world.user_id),
        await service.get_user_sessions(world.user_id),
        await service.get_session_history(world.user_id, world.session_id),
    ]
    return own, [await count_rows(database, table) for table in tables.metadata.sorted_tables]
