"""Calls of other servers' tools: answered, bounded, allowed, and recorded however they end."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chat_service.service import ChatService
from models.database import Database
from models.ids import UserId
from models.inputs import NewUser
from server.results import MAX_CHARACTERS
from tests.server.support import (
    COMMAND,
    Tools,
    environment_of,
    frame_of,
    size_of,
    started,
    text_of,
    tool_call,
    tools_of,
)
from tests.server.upstream.support import (
    KEY,
    notes,
    over_stdio,
    processes,
    runs,
    served_over_http,
    write_configuration,
)

pytestmark = pytest.mark.anyio

ODD = Path(__file__).with_name("odd_server.py")


@asynccontextmanager
async def helped(database_url: str, tmp_path: Path, **more: Any) -> AsyncIterator[Tools]:
    """Connect a client to a server that has a helper over stdio."""
    path = write_configuration(tmp_path, helper=over_stdio(tmp_path, **more))
    async with tools_of(database_url, upstream_file=path) as tools:
        yield tools


async def usages(database_url: str) -> list[dict[str, Any]]:
    """Read every recorded call, oldest first."""
    async with Database(database_url) as database:
        service = ChatService(database)
        user_id = UserId((await service.get_or_create_user(NewUser(username="ada")))["id"])
        page = await service.get_session_tool_usage(user_id, limit=100)
        return [dict(usage) for usage in page["tool_usages"][::-1]]


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something shows outside of this process."""
    async with asyncio.timeout(60):
        # What another process does can only be looked for again and again.
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_call_is_answered_and_recorded_with_all_that_is_known(database_url: str, tmp_path: Path) -> None:
    async with helped(database_url, tmp_path) as tools:
        session_id = await tools.new_session()
        answer = await tools.answer(
            "call_tool", server="helper", tool="add", arguments={"a": 2, "b": 3}, session_id=session_id
        )
        assert (answer["status"], answer["result"], answer["seq"]) == ("success", {"result": 5}, 1)
    (usage,) = await usages(database_url)
    assert (usage["session_id"], usage["seq"], usage["server_name"], usage["tool_name"]) == (
        session_id,
        1,
        "helper",
        "add",
    )
    assert (usage["arguments"], usage["result"], usage["status"]) == ({"a": 2, "b": 3}, {"result": 5}, "success")
    assert (usage["error"], usage["origin"]) == (None, "proxy")
    assert usage["duration_ms"] > 0
    assert usage["started_at"] is not None


async def test_a_server_is_started_once_and_on_first_use(database_url: str, tmp_path: Path) -> None:
    async with helped(database_url, tmp_path) as tools:
        await tools.answer("list_sessions")
        assert processes(tmp_path) == []
        for number in range(3):
            await tools.answer("call_tool", server="helper", tool="add", arguments={"a": number, "b": 0})
        (process_id,) = processes(tmp_path)
        assert runs(process_id)
    assert not runs(process_id)


async def test_without_a_session_calls_go_to_the_active_one_or_to_a_new_one(database_url: str, tmp_path: Path) -> None:
    async with helped(database_url, tmp_path) as tools:
        call = {"server": "helper", "tool": "add", "arguments": {"a": 1, "b": 1}}
        both = await asyncio.gather(*(tools.answer("call_tool", **call) for _ in range(2)))
        assert both[0]["session_id"] == both[1]["session_id"]
        session_id = await tools.new_session(title="mine")
        await tools.say(session_id, "hello")
        assert (await tools.answer("call_tool", **call))["session_id"] == session_id


async def test_a_session_of_nobodys_is_refused_before_the_call(database_url: str, tmp_path: Path) -> None:
    async with helped(database_url, tmp_path) as tools:
        nobody = "01a1fc1f-9aeb-7cd6-a61c-f8f3462d9756"
        refusal = await tools.refusal("call_tool", server="helper", tool="add", arguments={}, session_id=nobody)
        assert refusal.startswith("NotFound")
        assert processes(tmp_path) == []


async def test_what_a_tool_says_of_its_failure_is_told_and_recorded(database_url: str, tmp_path: Path) -> None:
    async with helped(database_url, tmp_path) as tools:
        result = await tools.call("call_tool", server="helper", tool="fail", arguments={"text": "no such page"})
        assert result.is_error
        assert result.structured_content is not None
        assert "no such page" in result.structured_content["error"]
        unknown = await tools.call("call_tool", server="helper", tool="no_such_tool", arguments={})
        assert unknown.is_error
    assert [usage["status"] for usage in await usages(database_url)] == ["error", "error"]


async def test_only_what_the_configuration_allows_is_listed_and_called(database_url: str, tmp_path: Path) -> None:
    path = write_configuration(
        tmp_path,
        helper=over_stdio(tmp_path, tools=["add"]),
        off=over_stdio(tmp_path, disabled=True),
    )
    async with tools_of(database_url, upstream_file=path) as tools:
        listed = await tools.answer("list_server_tools")
        assert [(tool["server"], tool["name"]) for tool in listed["tools"]] == [("helper", "add")]
        for server, tool in (("helper", "crash"), ("off", "add"), ("nobody", "add")):
            refusal = await tools.refusal("call_tool", server=server, tool=tool, arguments={})
            assert refusal.startswith(("Forbidden: tool", "NotFound: server"))
    assert "crash" not in notes(tmp_path)
    assert await usages(database_url) == []


async def test_schemas_are_given_for_one_server_and_for_one_tool(database_url: str, tmp_path: Path) -> None:
    async with helped(database_url, tmp_path) as tools:
        everything = await tools.answer("list_server_tools")
        assert all("input_schema" not in tool for tool in everything["tools"])
        one = await tools.answer("list_server_tools", server="helper", tool="add")
        (tool,) = one["tools"]
        assert set(tool["input_schema"]["properties"]) == {"a", "b"}
        assert tool["description"] == "Add two numbers."


async def test_a_crash_in_the_middle_is_unknown_and_the_next_call_starts_anew(
    database_url: str, tmp_path: Path
) -> None:
    async with helped(database_url, tmp_path) as tools:
        await tools.answer("call_tool", server="helper", tool="add", arguments={"a": 1, "b": 1})
        crashed = await tools.call("call_tool", server="helper", tool="crash", arguments={})
        assert crashed.is_error
        assert crashed.structured_content is not None
        assert crashed.structured_content["status"] == "unknown"
        again = await tools.answer("call_tool", server="helper", tool="add", arguments={"a": 1, "b": 1})
        assert again["status"] == "success"
    assert [usage["status"] for usage in await usages(database_url)] == ["success", "unknown", "success"]
    assert notes(tmp_path).count("crash") == 1, "a call of unknown outcome is not repeated"
    assert len(processes(tmp_path)) == 2


async def test_a_server_that_went_while_idle_is_started_anew_and_the_call_succeeds(
    database_url: str, tmp_path: Path
) -> None:
    async with helped(database_url, tmp_path) as tools:
        await tools.answer("call_tool", server="helper", tool="add", arguments={"a": 1, "b": 1})
        (process_id,) = processes(tmp_path)
        os.kill(process_id, signal.SIGKILL)
        await until(lambda: all(task.get_name() != "upstream helper" for task in asyncio.all_tasks()))
        again = await tools.answer("call_tool", server="helper", tool="add", arguments={"a": 1, "b": 1})
        assert again["status"] == "success"


async def test_a_tool_that_is_too_slow_is_unknown_and_told_to_stop(database_url: str, tmp_path: Path) -> None:
    async with helped(database_url, tmp_path) as tools:
        await tools.answer("list_server_tools")
    async with helped(database_url, tmp_path, timeout=8) as tools:
        slow = await tools.call("call_tool", server="helper", tool="wait", arguments={})
        assert slow.is_error
        assert slow.structured_content is not None
        assert slow.structured_content["status"] == "unknown"
        assert "within 8 seconds" in slow.structured_content["error"]
        await until(lambda: notes(tmp_path) == ["begun", "cancelled"])
        assert (await tools.answer("call_tool", server="helper", tool="add", arguments={"a": 1, "b": 1}))["seq"] == 2


async def test_a_cancelled_call_is_cancelled_there_and_recorded(database_url: str, tmp_path: Path) -> None:
    async with helped(database_url, tmp_path) as tools:
        call = asyncio.create_task(tools.call("call_tool", server="helper", tool="wait", arguments={}))
        await until(lambda: notes(tmp_path) == ["begun"])
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: notes(tmp_path) == ["begun", "cancelled"])
    (usage,) = await usages(database_url)
    assert usage["status"] == "cancelled"


async def test_progress_passes_through(database_url: str, tmp_path: Path) -> None:
    heard: list[tuple[float, float | None, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total, message))

    async with helped(database_url, tmp_path) as tools:
        arguments = {"server": "helper", "tool": "count", "arguments": {"to": 3}}
        await tools.client.call_tool("call_tool", arguments, progress_callback=hear)
    assert heard == [(1, 3, "at 1"), (2, 3, "at 2"), (3, 3, "at 3")]


async def test_a_result_is_bounded_here_and_whole_in_the_record(database_url: str, tmp_path: Path) -> None:
    async with helped(database_url, tmp_path) as tools:
        for letter in ("w", '"', "\x01", "😀"):
            arguments = {"text": letter, "times": 100_000}
            result = await tools.call("call_tool", server="helper", tool="repeat", arguments=arguments)
            assert not result.is_error
            assert size_of(result) <= MAX_CHARACTERS, repr(letter)
            answer = result.structured_content
            assert answer is not None
            assert answer["result_length"] == 100_000
            _, entry = await tools.read_whole(answer["session_id"], answer["seq"])
            assert json.loads(entry)["result"] == letter * 100_000


async def test_blocks_that_are_no_text_are_kept_as_they_came(database_url: str, tmp_path: Path) -> None:
    async with helped(database_url, tmp_path) as tools:
        answer = await tools.answer("call_tool", server="helper", tool="picture", arguments={})
    text, picture = answer["result"]
    assert text == {"type": "text", "text": "a dot"}
    assert (picture["type"], picture["data"], picture["mimeType"]) == ("image", "aGVsbG8=", "image/png")
    (usage,) = await usages(database_url)
    assert usage["result"] == answer["result"]


async def test_an_answer_that_cannot_be_recorded_is_given_and_says_so(database_url: str, tmp_path: Path) -> None:
    async with helped(database_url, tmp_path) as tools:
        session_id = await tools.new_session()
        call = {"server": "helper", "tool": "wait", "arguments": {}, "session_id": session_id}
        waiting = asyncio.create_task(tools.call("call_tool", **call))
        await until(lambda: notes(tmp_path) == ["begun"])
        await tools.answer("delete_session", session_id=session_id)
        (process_id,) = processes(tmp_path)
        os.kill(process_id, signal.SIGKILL)
        answered = (await waiting).structured_content
        assert answered is not None
        assert answered["status"] == "unknown"
        assert answered["not_recorded"].startswith("NotFound")
        assert "seq" not in answered


def test_keys_reach_neither_answers_nor_the_record_nor_logs(database_url: str, tmp_path: Path) -> None:
    path = write_configuration(tmp_path, helper=over_stdio(tmp_path, env={"HELPER_KEY": "${UPSTREAM_CANARY}"}))
    more = {"MCP_CHAT_UPSTREAM_FILE": str(path), "UPSTREAM_CANARY": KEY, "MCP_CHAT_LOG_LEVEL": "DEBUG"}
    with started(database_url, None, **more) as server:
        told = server.call("call_tool", server="helper", tool="key", arguments={})
        failed = server.call("call_tool", server="helper", tool="fail", arguments={"text": KEY})
        listed = server.call("list_server_tools")
        server.end_input()
        assert server.wait() == 0
        said = json.dumps([told, failed, listed]) + server.errors()
    assert "the key is [hidden]" in said
    assert KEY not in said
    files = [tmp_path / f"chat.db{ending}" for ending in ("", "-wal")]
    stored = b"".join(file.read_bytes() for file in files if file.exists())
    assert b"the key is [hidden]" in stored
    assert KEY.encode() not in stored


@pytest.mark.parametrize("how", ["eof", "term"])
@pytest.mark.parametrize("manner", ["willing", "stubborn"])
def test_an_ending_leaves_no_child_and_records_what_was_under_way(
    database_url: str, tmp_path: Path, how: str, manner: str
) -> None:
    path = write_configuration(tmp_path, helper=over_stdio(tmp_path, manner))
    with started(database_url, MCP_CHAT_UPSTREAM_FILE=str(path)) as server:
        server.answer("call_tool", server="helper", tool="add", arguments={"a": 1, "b": 1})
        server.send(frame_of(tool_call(7, "call_tool", server="helper", tool="wait", arguments={})))
        asyncio.run(until(lambda: "begun" in notes(tmp_path)))
        if how == "eof":
            server.end_input()
        else:
            server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
    (process_id,) = processes(tmp_path)
    assert not runs(process_id)
    statuses = [usage["status"] for usage in asyncio.run(usages(database_url))]
    assert statuses == ["success", "cancelled"]


async def test_a_server_over_http_is_called_with_its_headers(database_url: str, tmp_path: Path) -> None:
    with served_over_http(tmp_path) as url:
        path = write_configuration(tmp_path, remote={"type": "http", "url": url, "headers": {"X-Key": KEY}})
        async with tools_of(database_url, upstream_file=path) as tools:
            answer = await tools.answer("call_tool", server="remote", tool="add", arguments={"a": 2, "b": 3})
            assert answer["result"] == {"result": 5}
            crashed = await tools.call("call_tool", server="remote", tool="crash", arguments={})
            assert crashed.structured_content is not None
            assert crashed.structured_content["status"] == "unknown"
            gone = await tools.call("call_tool", server="remote", tool="add", arguments={"a": 2, "b": 3})
            assert gone.is_error
            assert KEY not in text_of(gone)
    assert [usage["status"] for usage in await usages(database_url)][:2] == ["success", "unknown"]


async def test_a_server_that_cannot_be_started_stands_in_nobodys_way(database_url: str, tmp_path: Path) -> None:
    path = write_configuration(
        tmp_path,
        absent={"command": "no-such-command-anywhere"},
        keyless={"command": "x", "env": {"KEY": "${NOT_SET_ANYWHERE}"}},
        helper=over_stdio(tmp_path, tools=["add"]),
    )
    async with tools_of(database_url, upstream_file=path) as tools:
        listed = await tools.answer("list_server_tools")
        assert {server["server"]: "error" in server for server in listed["servers"]} == {
            "absent": True,
            "keyless": True,
            "helper": False,
        }
        assert "NOT_SET_ANYWHERE" in json.dumps(listed["servers"])
        failed = await tools.call("call_tool", server="absent", tool="x", arguments={})
        assert failed.structured_content is not None
        assert failed.structured_content["status"] == "error"
        assert "not called" in failed.structured_content["error"]


@pytest.mark.parametrize("how", ["wrongly", "never", "otherwise"])
async def test_a_server_that_lists_its_tools_as_none_should_is_called_and_stands_in_nobodys_way(
    database_url: str, tmp_path: Path, how: str
) -> None:
    odd = {"command": sys.executable, "args": ["-S", str(ODD), how], "timeout": 2}
    path = write_configuration(tmp_path, odd=odd, other=odd, helper=over_stdio(tmp_path, tools=["add"]))
    async with tools_of(database_url, upstream_file=path) as tools:
        # What a tool gave is told, whatever its server lists.
        called = await tools.answer("call_tool", server="odd", tool="do", arguments={})
        assert called["status"] == "success"
        assert called["result"]["structuredContent"] == {"x": "no integer"}
        listed = await tools.answer("list_server_tools")
        assert {each["server"]: each.get("tools", "none") for each in listed["servers"]} == {
            "odd": 2 if how == "otherwise" else "none",
            "other": 2 if how == "otherwise" else "none",
            "helper": 1,
        }


def test_each_server_is_shown_on_a_line_of_its_own(database_url: str, tmp_path: Path) -> None:
    odd = {how: {"command": sys.executable, "args": ["-S", str(ODD), how]} for how in ("wrongly", "otherwise")}
    path = write_configuration(tmp_path, **odd, helper=over_stdio(tmp_path, tools=["add"]))
    shown = subprocess.run(
        [sys.executable, str(COMMAND), "upstream"],
        env=environment_of(database_url, {"MCP_CHAT_UPSTREAM_FILE": str(path)}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 1
    assert [line.partition(":")[0] for line in shown.stdout.splitlines()] == ["wrongly", "otherwise", "helper"]


async def test_without_a_configuration_the_tools_are_not_there(database_url: str) -> None:
    async with tools_of(database_url) as tools:
        names = {tool.name for tool in (await tools.client.list_tools()).tools}
    assert not names & {"call_tool", "list_server_tools"}
