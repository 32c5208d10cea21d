"""The same call captured twice, by a proxy and in the client's transcript, is one record; what is not surely the same
call stays two."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection, text

from chat_service.service import ChatService
from models.database import Database
from models.errors import Conflict, Invalid, NotFound
from models.ids import SessionId, UserId, to_microseconds
from models.inputs import NewToolUsage
from tests.chat_service.transcripts.support import history_of, take_in
from tests.conftest import url_of
from tests.support import done, new_session, new_user, watch_statements

pytestmark = pytest.mark.anyio


def transcript(name: str = "mcp__files__read", arguments: Any = None, *, calls: int = 1, ends: str = "05") -> str:
    """Write a conversation in which a tool is called at 10:00:01 and answers at a second of the same minute."""
    lines = []
    for number in range(calls):
        use = {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": arguments or {"path": "a", "n": 1}}
        result = {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": "from the transcript"}
        for kind, block, second in (("assistant", use, "01"), ("user", result, ends)):
            about = {"uuid": f"{kind}-{number}", "sessionId": "s-1", "timestamp": f"2026-03-01T10:00:{second}Z"}
            lines.append(json.dumps({"type": kind, "message": {"role": kind, "content": [block]}, **about}))
    return "\n".join(lines) + "\n"


def by_proxy(**more: Any) -> NewToolUsage:
    """Make what a proxy records of the call."""
    known = {"arguments": {"n": 1, "path": "a"}, "server_name": "files", "started_at": "2026-03-01T10:00:02Z"}
    return done("read", origin="proxy", result="from the proxy", **known | more)


async def usages_of(service: ChatService, user_id: UserId, session_id: str) -> list[Any]:
    return [entry for entry in await history_of(service, user_id, session_id) if "message_type" not in entry]


async def recorded_later(service: ChatService, user_id: UserId, *usages: NewToolUsage, text: str) -> list[Any]:
    """Import the transcript, then record calls by a proxy in the same session, twice; return the tool usages."""
    session_id = await new_session(service, user_id)
    await take_in(service, user_id, "claude-code", text, into=session_id)
    imported = len(await usages_of(service, user_id, session_id))
    for usage in usages:
        first = await service.add_tool_usage(user_id, session_id, usage)
        if usage.idempotency_key is not None:
            assert await service.add_tool_usage(user_id, session_id, usage) == first
    again = await take_in(service, user_id, "claude-code", text)
    assert again["added"] == {}
    found = await usages_of(service, user_id, session_id)
    session = await service.get_session(user_id, session_id)
    assert (session["tool_usage_count"], len(found) >= imported) == (len(found), True)
    return found


async def captured(service: ChatService, user_id: UserId, *usages: NewToolUsage, text: str) -> list[Any]:
    """Record calls by a proxy, import the transcript into the same session twice, and return the tool usages."""
    session_id = await new_session(service, user_id)
    for usage in usages:
        await service.add_tool_usage(user_id, session_id, usage)
    first = await take_in(service, user_id, "claude-code", text, into=session_id)
    again = await take_in(service, user_id, "claude-code", text)
    assert again["added"] == {}
    found = await usages_of(service, user_id, session_id)
    assert len(found) == len(usages) + first["added"].get("tool calls", 0)
    return found


async def test_a_call_of_the_same_id_is_one_record(service: ChatService, user_id: UserId) -> None:
    [usage] = await captured(
        service, user_id, by_proxy(tool_call_id="toolu_0", arguments={"path": "[removed]"}), text=transcript()
    )
    assert (usage["result"], usage["origin"], usage["message_seq"]) == ("from the proxy", "proxy", 2)


@pytest.mark.parametrize("name", ["read", "mcp__files__read", "files__read", "files.read"])
async def test_a_call_of_the_same_tool_arguments_and_time_is_one_record(
    service: ChatService, user_id: UserId, name: str
) -> None:
    [usage] = await captured(service, user_id, by_proxy(), text=transcript(name))
    assert (usage["tool_call_id"], usage["tool_name"], usage["message_seq"]) == ("toolu_0", "read", 2)
    assert usage["result"] == "from the proxy"


async def test_calls_that_are_alike_are_joined_one_by_one(service: ChatService, user_id: UserId) -> None:
    usages = await captured(service, user_id, by_proxy(), by_proxy(), text=transcript(calls=3))
    assert [usage["tool_call_id"] for usage in usages] == ["toolu_0", "toolu_1", "toolu_2"]
    assert [usage["origin"] for usage in usages] == ["proxy", "proxy", "import"]


async def test_a_record_with_a_key_of_its_own_keeps_it(service: ChatService, user_id: UserId) -> None:
    [usage] = await captured(service, user_id, by_proxy(idempotency_key="proxy:1"), text=transcript())
    assert usage["tool_call_id"] == "toolu_0"


KEY = {"idempotency_key": "proxy:run:7", "tool_call_id": "run:7:3"}
"""What the relay names a call that the client did not name: the id is made of the key and the request's own id."""

TRACE = {"traceparent": "00-1"}


@pytest.mark.parametrize("named", [{}, KEY, {"tool_call_id": "toolu_0"}, KEY | {"tool_call_id": "toolu_0"}])
@pytest.mark.parametrize("capture", [captured, recorded_later])
async def test_in_either_order_the_record_has_what_both_know(
    service: ChatService, user_id: UserId, capture: Any, named: dict[str, str]
) -> None:
    usage = by_proxy(call_metadata=TRACE, duration_ms=12.5, **named)
    [found] = await capture(service, user_id, usage, text=transcript())
    assert (found["tool_call_id"], found["message_seq"] is not None) == ("toolu_0", True)
    known = (found["server_name"], found["tool_name"], found["origin"], found["duration_ms"], found["call_metadata"])
    assert known == ("files", "read", "proxy", 12.5, TRACE)
    assert found["started_at"] == "2026-03-01T10:00:02.000000Z"


@pytest.mark.parametrize("capture", [captured, recorded_later])
async def test_who_saw_the_end_says_how_it_ended(service: ChatService, user_id: UserId, capture: Any) -> None:
    unseen = by_proxy(**KEY).model_copy(update={"result": None, "status": "unknown"})
    [found] = await capture(service, user_id, unseen, text=transcript())
    assert (found["status"], found["result"]) == ("success", "from the transcript")
    without_result = transcript().partition("\n")[0] + "\n"
    failed = by_proxy(**KEY, error="no")
    [found] = await capture(service, user_id, failed, text=without_result.replace("s-1", "s-2"))
    assert (found["status"], found["error"], found["result"]) == ("error", "no", "from the proxy")


@pytest.mark.parametrize("capture", [captured, recorded_later])
async def test_alike_calls_are_joined_one_by_one_in_either_order(
    service: ChatService, user_id: UserId, capture: Any
) -> None:
    usages = [by_proxy(idempotency_key=f"proxy:run:{each}", tool_call_id=f"run:{each}:{each}") for each in range(2)]
    found = await capture(service, user_id, *usages, text=transcript(calls=3))
    assert [usage["tool_call_id"] for usage in found] == ["toolu_0", "toolu_1", "toolu_2"]
    assert [usage["origin"] for usage in found] == ["proxy", "proxy", "import"]


async def test_a_call_more_than_was_imported_is_a_record_of_its_own(service: ChatService, user_id: UserId) -> None:
    usages = [by_proxy(idempotency_key=f"proxy:run:{each}", tool_call_id=f"run:{each}:{each}") for each in range(2)]
    found = await recorded_later(service, user_id, *usages, text=transcript())
    assert [usage["tool_call_id"] for usage in found] == ["toolu_0", "run:1:1"]


async def test_both_writing_at_once_make_one_record_of_each_call(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with Database(url_of(path)) as one, Database(url_of(path)) as other:
        importer, recorder = ChatService(one), ChatService(other)
        user_id = await new_user(importer)
        session_id = await new_session(importer, user_id)
        text = transcript(calls=60)
        lines = text.splitlines(keepends=True)
        await take_in(importer, user_id, "claude-code", lines[0], into=session_id)

        async def import_all() -> None:
            for end in range(10, len(lines) + 1, 10):
                await take_in(importer, user_id, "claude-code", "".join(lines[:end]))

        async def record_all() -> None:
            for each in range(60):
                named = {"idempotency_key": f"proxy:run:{each}", "tool_call_id": f"toolu_{each}"}
                await recorder.add_tool_usage(user_id, session_id, by_proxy(**named))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(import_all)
            tasks.start_soon(record_all)
        found = await usages_of(importer, user_id, session_id)
        assert sorted(usage["tool_call_id"] for usage in found) == sorted(f"toolu_{each}" for each in range(60))
        assert {usage["origin"] for usage in found} == {"proxy"}
        assert all(usage["message_seq"] for usage in found)


async def test_joining_takes_as_many_statements_whatever_was_imported(
    service: ChatService, user_id: UserId, database: Database
) -> None:
    counts = []
    for calls in (1, 50):
        session_id = await new_session(service, user_id)
        text = transcript(calls=calls).replace("s-1", f"s-{calls}")
        await take_in(service, user_id, "claude-code", text, into=session_id)
        statements = await watch_statements(database)
        await service.add_tool_usage(user_id, session_id, by_proxy(**KEY))
        counts.append(len(statements))
    assert counts[0] == counts[1] <= 10


async def test_a_batch_looks_for_its_twins_in_two_statements(
    service: ChatService, user_id: UserId, database: Database
) -> None:
    session_id = await new_session(service, user_id)
    for each in range(50):
        named = {"idempotency_key": f"proxy:run:{each}", "tool_call_id": f"run:{each}:{each}"}
        await service.add_tool_usage(user_id, session_id, by_proxy(**named))
    statements = await watch_statements(database)
    told = await take_in(service, user_id, "claude-code", transcript(calls=50), into=session_id)
    assert told["added"]["tool calls joined"] == 50
    looking = [each for each in statements if each.startswith("SELECT") and "origin = " in each]
    assert len(looking) == 2


def lengthen(connection: Connection, calls: int, origin: str) -> None:
    """Add records of calls to the newest session, one a minute from nine o'clock of the day before on."""
    connection.execute(
        text(
            "WITH RECURSIVE n(seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM n WHERE seq < :calls) "
            "INSERT INTO tool_usages (session_key, seq, tool_call_id, tool_name, status, started_at, duration_ms, "
            "origin, created_at, arguments) SELECT (SELECT max(key) FROM chat_sessions), seq, "
            "CASE :origin WHEN 'import' THEN 'earlier-' || seq END, 'mcp__files__read', 'success', "
            ":start + seq * 60000000, 1000, :origin, 0, '{}' FROM n"
        ),
        {"calls": calls, "origin": origin, "start": to_microseconds("2026-02-01T09:00:00.000000Z")},
    )
    connection.execute(
        text(
            "UPDATE chat_sessions SET last_seq = :calls, tool_usage_count = :calls "
            "WHERE key = (SELECT max(key) FROM chat_sessions)"
        ),
        {"calls": calls},
    )


async def watch_steps(database: Database) -> list[int]:
    """Note every tenth step that SQLite takes for statements of ours from now on."""
    steps: list[int] = []
    statement = ""

    def begin(text: str) -> None:
        nonlocal statement
        statement = text

    def step() -> None:
        # The full-text index has statements of its own, and puts its pieces together now and then.
        if not statement.startswith("--"):
            steps.append(1)

    def listen(connection: Connection) -> None:
        raw: Any = connection.connection.driver_connection
        raw.set_trace_callback(begin)
        raw.set_progress_handler(step, 10)

    await database.write(listen)
    return steps


@pytest.mark.parametrize("named", [KEY, KEY | {"tool_call_id": "toolu_0"}])
@pytest.mark.parametrize("order", ["the proxy first", "the transcript first"])
async def test_joining_takes_as_many_steps_in_a_session_of_20_000_calls_as_in_one_of_2_000(
    database_url: str, order: str, named: dict[str, Any]
) -> None:
    costs = []
    async with Database(database_url, readers=1) as database:
        service = ChatService(database)
        user_id = await new_user(service)
        for calls in (2_000, 20_000):
            session_id = await new_session(service, user_id)
            origin = "proxy" if order == "the proxy first" else "import"
            await database.write(partial(lengthen, calls=calls, origin=origin))
            transcribed = transcript().replace("s-1", f"s-{calls}")
            if order == "the proxy first":
                await service.add_tool_usage(user_id, session_id, by_proxy(**named))
            else:
                await take_in(service, user_id, "claude-code", transcribed, into=session_id)
            await database.index()
            steps = await watch_steps(database)
            if order == "the proxy first":
                await take_in(service, user_id, "claude-code", transcribed, into=session_id)
            else:
                await service.add_tool_usage(user_id, session_id, by_proxy(**named))
            session = await service.get_session(user_id, session_id)
            assert session["tool_usage_count"] == calls + 1
            costs.append(len(steps))
    few, many = costs
    assert many <= few + 20


async def test_a_call_is_joined_however_much_was_imported_after_it(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    later = transcript(calls=600).replace("toolu_", "later_").replace("assistant-", "a-").replace("user-", "u-")
    text = transcript() + later.replace("T10:", "T12:")
    await take_in(service, user_id, "claude-code", text, into=session_id)
    usage = await service.add_tool_usage(user_id, session_id, by_proxy(**KEY))
    assert (usage["seq"], usage["tool_call_id"]) == (2, "toolu_0")


async def test_a_call_that_took_hours_is_joined(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    text = transcript().replace('"2026-03-01T10:00:05Z"', '"2026-03-01T14:00:00Z"')
    await take_in(service, user_id, "claude-code", text, into=session_id)
    usage = await service.add_tool_usage(user_id, session_id, by_proxy(**KEY | {"started_at": "2026-03-01T13:00:00Z"}))
    assert usage["tool_call_id"] == "toolu_0"


@pytest.mark.parametrize("key", ["proxy:1", None])
@pytest.mark.parametrize("grows", [True, False])
async def test_a_result_that_comes_after_the_conversation_went_on_ends_the_call_of_a_proxy(
    service: ChatService, user_id: UserId, grows: bool, key: str | None
) -> None:
    session_id = await new_session(service, user_id)
    usage = by_proxy(status="unknown", idempotency_key=key).model_copy(update={"result": None})
    first = await service.add_tool_usage(user_id, session_id, usage)
    call, result = transcript().splitlines(keepends=True)
    about = {"uuid": "u-9", "sessionId": "s-1", "timestamp": "2026-03-01T10:00:03Z"}
    went_on = json.dumps({"type": "user", "message": {"role": "user", "content": "And now?"}, **about}) + "\n"
    for lines in (call + went_on, call + went_on + result)[not grows :]:
        await take_in(service, user_id, "claude-code", lines, into=session_id)
    [ended] = await usages_of(service, user_id, session_id)
    assert (ended["seq"], ended["status"], ended["result"]) == (first["seq"], "success", "from the transcript")
    if key is not None:
        assert (await service.add_tool_usage(user_id, session_id, usage))["seq"] == first["seq"]


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
async def test_a_call_at_the_end_of_the_calendar_is_joined_like_any(
    service: ChatService, user_id: UserId, moment: str
) -> None:
    text = transcript().replace("2026-03-01T10:00:01Z", moment).replace("2026-03-01T10:00:05Z", moment)
    usage = by_proxy(started_at=moment, idempotency_key="proxy:1")
    assert len(await captured(service, user_id, usage, text=text)) == 1
    assert len(await recorded_later(service, user_id, usage, text=text.replace("s-1", "s-2"))) == 1


@pytest.mark.parametrize(
    "difference",
    [
        {"arguments": {"path": "b", "n": 1}},
        {"arguments": {"path": "a", "n": 1.5}},
        {"server_name": "other"},
        {"server_name": None},
        {"started_at": "2026-03-01T10:00:08Z"},
        {"started_at": "2026-03-01T09:59:58Z"},
        {"started_at": None},
        {"tool_call_id": "toolu_other"},
        {"origin": "agent"},
    ],
)
async def test_what_is_not_surely_the_same_call_stays_a_record_of_its_own(
    service: ChatService, user_id: UserId, difference: dict[str, Any]
) -> None:
    usage = by_proxy().model_copy(
        update=NewToolUsage.model_validate({"tool_name": "read", "arguments": {}} | difference).model_dump(
            include=set(difference)
        )
    )
    usages = await captured(service, user_id, usage, text=transcript())
    assert [usage["origin"] for usage in usages][1:] == ["import"]
    later = await recorded_later(service, user_id, usage, text=transcript().replace("s-1", "s-2"))
    assert [usage["origin"] for usage in later][:1] == ["import"]
    assert len(later) == 2


async def test_a_conversation_goes_on_in_the_session_that_it_was_recorded_in(
    service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id, title="Recorded")
    await take_in(service, user_id, "claude-code", transcript(), into=session_id)
    session = await service.get_session(user_id, session_id)
    assert (session["source"], session["source_id"], session["title"]) == ("claude-code", "s-1", "Recorded")
    told = await take_in(service, user_id, "claude-code", transcript(calls=2))
    assert (told["added"].get("sessions"), told["added"]["messages"]) == (None, 1)


async def test_no_second_conversation_goes_into_a_session(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    await take_in(service, user_id, "claude-code", transcript(), into=session_id)
    with pytest.raises(Conflict, match="that of another conversation"):
        await take_in(service, user_id, "claude-code", transcript().replace("s-1", "s-2"), into=session_id)


async def test_nobody_imports_into_the_session_of_somebody_else(service: ChatService, user_id: UserId) -> None:
    stranger = await new_user(service, "mallory")
    session_id = SessionId(await new_session(service, user_id))
    with pytest.raises(NotFound):
        await take_in(service, stranger, "claude-code", transcript(), into=session_id)
    await take_in(service, user_id, "claude-code", transcript(), into=session_id)
    with pytest.raises(NotFound):
        await service.add_tool_usage(stranger, session_id, by_proxy(**KEY))
    with pytest.raises(Invalid):
        await service.add_tool_usage(user_id, SessionId("none"), by_proxy())
