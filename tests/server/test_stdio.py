"""The stdio transport as a client meets it: the real command on raw pipes, with frames that nobody should send."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import empty_database, url_of
from tests.server.support import (
    COMMAND,
    WAIT_SECONDS,
    ServerProcess,
    environment_of,
    frame_of,
    request,
    started,
    tool_call,
    tools_of,
)

MAX_FRAME = 65_536
CANARY = "zq7canary"
PARSE_ERROR, INVALID_REQUEST = -32700, -32600


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One process for all frames that it must survive, each followed by a call that works."""
    folder = tmp_path_factory.mktemp("stdio")
    with started(empty_database(folder / "chat.db"), MCP_CHAT_MAX_FRAME_BYTES=str(MAX_FRAME)) as server:
        yield server
        server.end_input()
        assert server.wait() == 0


def calling(request_id: str, argument: str) -> bytes:
    """Write a call of start_session by hand: the texts are JSON, or what passes for it."""
    params = f'{{"name":"start_session","arguments":{{"title":{argument}}}}}'
    return f'{{"jsonrpc":"2.0","id":{request_id},"method":"tools/call","params":{params}}}\n'.encode()


UNPARSEABLE = {
    "a lone surrogate": calling("7", '"\\ud800"'),
    "a lone surrogate under a textual id": calling('"seven"', '"\\ud83d and more"'),
    "depth 250": calling("7", "[" * 250 + "]" * 250),
    "depth 100,000 cut short": calling("7", "[" * 30_000),
    "an integer of 5,000 digits": calling("7", "9" * 5_000),
    "NaN": calling("7", "NaN"),
    "infinity": calling("7", "-Infinity"),
    "a trailing comma": calling("7", '"a",'),
    "a string without its end": calling("7", '"a'),
    "a control character": calling("7", '"a\x01b"'),
    "bad UTF-8": calling("7", '"a"').replace(b'"a"', b'"\xff\xfe"'),
    "UTF-8 cut in a character": calling("7", '"a"').replace(b'"a"', b'"\xf0\x9f\x98"'),
    "a surrogate in UTF-8": calling("7", '"a"').replace(b'"a"', b'"\xed\xa0\x80"'),
    "two objects on a line": calling("7", '"a"').strip() + b'{"id":8}\n',
    "single quotes": calling("7", "'a'"),
    "an id after the trouble": b'{"jsonrpc":"2.0","method":"tools/call","params":{"id":5,"x":NaN},"id":7}\n',
}


@pytest.mark.parametrize("frame", UNPARSEABLE.values(), ids=UNPARSEABLE.keys())
def test_a_frame_that_cannot_be_parsed_is_answered_under_its_id(server: ServerProcess, frame: bytes) -> None:
    server.send(frame)
    answer = server.receive()
    assert answer["id"] == ("seven" if b'"seven"' in frame else 7)
    assert answer["error"]["code"] == PARSE_ERROR
    assert "JSON" in answer["error"]["message"]
    assert_alive(server)


NAMELESS = {
    "no JSON at all": b"hello\n",
    "half a frame": b'{"jsonrpc":"2.0",\n',
    "bytes": b"\xff\xfe\x00\x01\n",
    "a NUL": b"\0\n",
    "a null id": calling("null", '"a"'),
    "a boolean id": calling("true", '"a"'),
    "an id that is an object": calling('{"id":1}', '"a"'),
    "an id that is a list": calling("[7]", '"a"'),
    "a number": b"5\n",
    "a text": b'"text"\n',
    "null": b"null\n",
    "an empty batch": b"[]\n",
    "a batch of notifications": b'[{"jsonrpc":"2.0","method":"notifications/initialized"}]\n',
    "a batch of nonsense": b"[1,2,[3]]\n",
}


@pytest.mark.parametrize("frame", NAMELESS.values(), ids=NAMELESS.keys())
def test_a_frame_without_an_id_that_can_be_used_is_answered_under_null(server: ServerProcess, frame: bytes) -> None:
    server.send(frame)
    answer = server.receive()
    assert answer["id"] is None
    assert answer["error"]["code"] in (PARSE_ERROR, INVALID_REQUEST)
    assert_alive(server)


def test_a_float_as_id_is_answered_under_it(server: ServerProcess) -> None:
    server.send(calling("7.5", '"a"'))
    answer = server.receive()
    assert answer["id"] == 7.5
    assert answer["error"]["code"] == INVALID_REQUEST
    assert_alive(server)


MALFORMED = {
    "no method": {"jsonrpc": "2.0", "id": 7},
    "a method that is a number": {"jsonrpc": "2.0", "id": 7, "method": 5},
    "params that are a list": {"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": [1]},
    "params that are text": {"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": "x"},
    "no version": {"id": 7, "method": "tools/list"},
    "another version": {"jsonrpc": "1.0", "id": 7, "method": "tools/list"},
    "an unknown method": request(7, "no/such/method"),
    "a tool without a name": request(7, "tools/call", arguments={}),
    "a tool whose name is a number": request(7, "tools/call", name=5),
    "arguments that are a list": request(7, "tools/call", name="list_sessions", arguments=[1]),
    "an unknown tool": tool_call(7, "no_such_tool"),
    "a resource without an address": request(7, "resources/read"),
}


@pytest.mark.parametrize("message", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_request_that_is_not_well_formed_is_answered_under_its_id(
    server: ServerProcess, message: dict[str, Any]
) -> None:
    answer = server.ask(message)
    assert answer["id"] == 7
    assert answer["error"]["code"] < 0
    assert_alive(server)


def test_every_request_of_a_batch_is_answered(server: ServerProcess) -> None:
    server.send(frame_of_batch(tool_call(1, "list_sessions"), tool_call("two", "list_sessions"), {"no": "id"}))
    answers = [server.receive(), server.receive()]
    assert {answer["id"] for answer in answers} == {1, "two"}
    assert {answer["error"]["code"] for answer in answers} == {INVALID_REQUEST}
    assert_alive(server)


def test_a_frame_that_is_too_large_is_answered_under_its_id(server: ServerProcess) -> None:
    filler = CANARY * (MAX_FRAME // len(CANARY))
    id_first = tool_call(7, "start_session", title=filler)
    params = id_first["params"]
    id_last = {"jsonrpc": "2.0", "method": "tools/call", "params": params, "id": "seven"}
    for message, request_id in ((id_first, 7), (id_last, "seven")):
        server.send(frame_of(message))
        answer = server.receive()
        assert answer["id"] == request_id
        assert answer["error"]["code"] == INVALID_REQUEST
        assert str(MAX_FRAME) in answer["error"]["message"]
        assert CANARY not in answer["error"]["message"]
        assert_alive(server)


def test_a_frame_of_exactly_the_limit_is_served_and_one_byte_more_is_not(server: ServerProcess) -> None:
    empty = len(frame_of(tool_call(7, "list_sessions", query=""))) - 1
    for size in (MAX_FRAME, MAX_FRAME + 1):
        frame = frame_of(tool_call(7, "list_sessions", query="x" * (size - empty)))
        assert len(frame) == size + 1
        server.send(frame)
        answer = server.receive()
        assert answer["id"] == 7
        assert ("error" in answer) is (size > MAX_FRAME)
        assert_alive(server)


def test_a_frame_many_times_the_limit_does_not_stay_in_the_way(server: ServerProcess) -> None:
    server.send(calling("7", f'"{"x" * (MAX_FRAME * 50)}"'))
    assert server.receive()["id"] == 7
    assert_alive(server)


def test_blank_lines_are_passed_over_and_crlf_ends_a_line(server: ServerProcess) -> None:
    frame = frame_of(tool_call(7, "list_sessions"))
    server.send(b"\n\r\n  \n\t\n", frame.replace(b"\n", b"\r\n"), b"\n", b"  " + frame)
    assert [server.receive()["id"], server.receive()["id"]] == [7, 7]
    assert_alive(server)


def test_a_frame_that_comes_in_single_bytes_is_one_frame(server: ServerProcess) -> None:
    for byte in frame_of(tool_call(7, "list_sessions", query="é😀")):
        server.send(bytes([byte]))
    assert not server.receive()["result"]["isError"]


def test_fifty_calls_at_once_are_all_answered_under_their_own_ids(server: ServerProcess) -> None:
    session = server.answer("start_session", title="busy")["id"]
    calls = [
        tool_call(f"call {number}", "add_messages", session_id=session, messages=[said(f"number {number}")])
        for number in range(50)
    ]
    server.send(*map(frame_of, calls))
    answers = {frame["id"]: frame["result"] for frame in (server.receive() for _ in calls)}
    assert answers.keys() == {call["id"] for call in calls}
    seqs = {name: result["structuredContent"]["messages"][0]["seq"] for name, result in answers.items()}
    assert sorted(seqs.values()) == list(range(1, 51))
    # Each answer is that of its own call.
    history = server.answer("get_session_history", session_id=session, limit=500)
    stored = {entry["seq"]: entry["content"] for entry in history["entries"]}
    assert all(stored[seq] == f"number {name.removeprefix('call ')}" for name, seq in seqs.items())


def test_good_and_bad_frames_at_once_are_each_answered(server: ServerProcess) -> None:
    frames: list[bytes] = []
    for number in range(0, 60, 3):
        frames.append(frame_of(tool_call(number, "list_sessions")))
        frames.append(calling(str(number + 1), "NaN"))
        frames.append(calling(str(number + 2), f'"{"x" * MAX_FRAME}"'))
    server.send(*frames)
    answers = {frame["id"]: frame for frame in (server.receive() for _ in frames)}
    assert set(answers) == set(range(60))
    assert all(("result" in answers[number]) is (number % 3 == 0) for number in range(60))


def test_ids_come_back_as_they_were_sent(server: ServerProcess) -> None:
    for request_id in (0, -1, 2**53, 2**63, "", "0", 'é😀\n"\\', "x" * 5_000):
        answer = server.ask(tool_call(request_id, "list_sessions"))
        assert answer["id"] == request_id
        assert type(answer["id"]) is type(request_id)


def test_an_older_client_may_shake_hands_and_an_older_still_too(database_url: str) -> None:
    for version in ("2024-11-05", "2025-11-25"):
        with started(database_url) as server:
            about = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "old", "version": "1"}}
            answer = server.ask({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": about})
            assert answer["result"]["protocolVersion"] == version
            server.send(frame_of({"jsonrpc": "2.0", "method": "notifications/initialized"}))
            call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "start_session"}}
            assert server.ask(call)["result"]["structuredContent"]["client"] == "old"


# The end


def test_the_answer_to_the_last_call_comes_after_the_end_of_input(database_url: str) -> None:
    with started(database_url) as server:
        server.send(frame_of(tool_call(1, "start_session", title="last")))
        server.end_input()
        (answer,) = server.receive_all()
        assert answer["id"] == 1
        assert answer["result"]["structuredContent"]["title"] == "last"
        assert server.wait() == 0


def test_a_last_line_without_its_newline_is_served(database_url: str) -> None:
    with started(database_url) as server:
        server.send(frame_of(tool_call(1, "list_sessions")), frame_of(tool_call(2, "list_sessions")).rstrip(b"\n"))
        server.end_input()
        assert sorted(frame["id"] for frame in server.receive_all()) == [1, 2]
        assert server.wait() == 0


def test_a_last_line_that_is_torn_is_answered_and_the_end_is_clean(database_url: str) -> None:
    with started(database_url) as server:
        server.send(frame_of(tool_call(2, "list_sessions"))[:-20])
        server.end_input()
        assert [frame["id"] for frame in server.receive_all()] == [2]
        assert server.wait() == 0


def test_input_that_ends_at_once_ends_the_server_cleanly(tmp_path: Path) -> None:
    with started(url_of(tmp_path / "chat.db")) as server:
        server.end_input()
        assert server.receive_all() == []
        assert server.wait() == 0
        assert server.errors() == ""
    assert not (tmp_path / "chat.db").exists(), "nobody has asked for anything"


def test_a_client_that_no_longer_reads_ends_the_server(database_url: str) -> None:
    process = subprocess.Popen(
        [sys.executable, str(COMMAND)],
        env=environment_of(database_url),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(frame_of(tool_call(1, "list_sessions")))
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == 1
        process.stdout.close()
        process.stdin.write(frame_of(tool_call(2, "list_sessions")))
        process.stdin.flush()
        # Its stdin stays open: the broken stdout is enough.
        assert process.wait(WAIT_SECONDS) == 0


@pytest.mark.anyio
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: str(number.name))
async def test_a_signal_ends_the_server_and_what_it_acknowledged_is_stored(
    database_url: str, number: signal.Signals
) -> None:
    with started(database_url) as server:
        session = server.answer("start_session")["id"]
        frames = [
            frame_of(tool_call(index, "add_messages", session_id=session, messages=[said(f"m{index}")]))
            for index in range(300)
        ]
        server.send(*frames[:40])
        first = server.receive()
        server.process.send_signal(number)
        server.send_what_it_takes(frames[40:])
        answers = [first, *server.receive_all()]
        assert server.wait() == 0, server.errors()
    acknowledged = {
        f"m{frame['id']}": frame["result"]["structuredContent"]["messages"][0]["seq"]
        for frame in answers
        if "result" in frame and not frame["result"]["isError"]
    }
    assert acknowledged
    async with tools_of(database_url) as tools:
        history = await tools.answer("get_session_history", session_id=session, limit=500)
    stored = {entry["content"]: entry["seq"] for entry in history["entries"]}
    assert acknowledged.items() <= stored.items()
    assert sorted(stored.values()) == list(range(1, len(stored) + 1)), "nothing twice, and no gap"


def test_a_signal_to_an_idle_server_ends_it(database_url: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with started(database_url) as server:
            server.answer("list_sessions")
            server.process.send_signal(number)
            assert server.wait() == 0
            assert server.errors() == ""


# What reaches stdout, stderr, and nothing else


def test_what_a_library_prints_goes_to_stderr(database_url: str, tmp_path: Path) -> None:
    # It prints while the SDK is imported, from Python and straight to the descriptor, and so do its children.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, subprocess, sys\n"
        "class Noisy:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('mcp.server.lowlevel', 'chat_service.service'):\n"
        "            print('noise from python', flush=True)\n"
        "            os.write(1, b'noise from below\\n')\n"
        "            subprocess.run([sys.executable, '-S', '-c', 'print(\"noise from a child\")'])\n"
        "        return None\n"
        "sys.meta_path.insert(0, Noisy())\n"
    )
    with started(database_url, PYTHONPATH=str(tmp_path)) as server:
        # Each line is parsed as JSON where it is received.
        server.answer("list_sessions")
        server.answer("start_session")
        server.end_input()
        assert server.receive_all() == []
        assert server.wait() == 0
        for noise in ("noise from python", "noise from below", "noise from a child"):
            assert server.errors().count(noise) == 2, server.errors()


@pytest.mark.parametrize("level", ["DEBUG", "INFO"])
def test_logs_hold_nothing_of_what_is_said(database_url: str, level: str) -> None:
    canary = {"deep": {CANARY: [CANARY]}}
    with started(database_url, MCP_CHAT_LOG_LEVEL=level) as server:
        session = server.answer("start_session", title=CANARY, metadata=canary, idempotency_key=CANARY)["id"]
        message: dict[str, Any] = {"role": "user", "content": CANARY, "metadata": canary, "model": CANARY}
        message |= {"parts": [{"type": "text", "content": CANARY}, {"type": "tool_call", "id": CANARY}]}
        message |= {"idempotency_key": CANARY}
        server.answer("add_messages", session_id=session, messages=[message])
        usage: dict[str, Any] = {"session_id": session, "tool_name": CANARY, "arguments": canary, "result": canary}
        usage |= {"error": CANARY, "tool_call_id": CANARY, "server_name": CANARY, "idempotency_key": CANARY * 2}
        server.answer("log_tool_usage", **usage)
        for detail in ("concise", "detailed"):
            server.answer("get_session_history", session_id=session, detail=detail)
        server.answer("get_session_history", session_id=session, entry_seq=1)
        server.answer("list_sessions", query=CANARY)
        server.answer("list_tool_usage", tool_name=CANARY)
        server.answer("get_active_session", client=CANARY, workspace=CANARY)
        server.answer("update_session", session_id=session, title=CANARY, metadata=canary)
        # And where it goes wrong.
        wrong: list[tuple[str, dict[str, Any]]] = [
            ("get_session_history", {"session_id": CANARY}),
            ("list_sessions", {"cursor": CANARY, "status": CANARY, "limit": CANARY}),
            ("start_session", {"title": CANARY * 100, "metadata": CANARY}),
            ("add_messages", {"session_id": session, "messages": [{"role": CANARY, "content": {"a": CANARY}}]}),
            ("add_messages", {"session_id": session, "messages": [message | {"content": CANARY + "more"}]}),
            ("add_messages", {"session_id": session, "messages": [message], "expected_seq": 2**63}),
            ("log_tool_usage", usage | {"status": CANARY}),
        ]
        for name, arguments in wrong:
            server.call(name, **arguments)
        server.ask(tool_call(1, CANARY))
        server.ask(request(1, CANARY))
        server.ask(request(1, "resources/read", uri=f"chat://sessions/{CANARY}"))
        server.ask({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": CANARY})
        server.ask({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": [CANARY]}})
        server.send(calling("1", f'"{CANARY}\\ud800"'))
        server.receive()
        server.send(f"{CANARY}\n".encode())
        server.receive()
        server.send(frame_of({"jsonrpc": "2.0", "method": "notifications/unheard", "params": {"a": CANARY}}))
        server.send(frame_of({"jsonrpc": "2.0", "method": 5, "params": CANARY}))
        server.answer("delete_session", session_id=session)
        server.end_input()
        server.receive_all()
        assert server.wait() == 0
        logged = server.errors()
        assert "INFO" in logged or "WARNING" in logged
        leaks = [line for line in logged.splitlines() if CANARY in line]
        assert leaks == []


# Settings, and the folder it is started in


def test_settings_that_cannot_be_are_named_on_stderr(tmp_path: Path) -> None:
    wrong = {
        "MCP_CHAT_LOG_LEVEL": "loud",
        "MCP_CHAT_MAX_FRAME_BYTES": "many",
        "MCP_CHAT_DEADLINE_SECONDS": "0",
        "MCP_CHAT_USER": "",
        "MCP_CHAT_OTHER_MODELS": "[",
        "MCP_CHAT_RECORD_HEADERS": "Authorization: secret",
        "MCP_CHAT_DATABSE_URL": "secret",
        "mcp_chat_models": "secret",
    }
    for name, value in wrong.items():
        environment = environment_of(url_of(tmp_path / "chat.db"), {name: value})
        ended = subprocess.run(
            [sys.executable, str(COMMAND)], env=environment, input=b"", capture_output=True, timeout=WAIT_SECONDS
        )
        assert ended.returncode == 2, name
        assert ended.stdout == b""
        told = ended.stderr.decode()
        assert told.startswith(f"mcp-chat-server: {name}: ")
        assert "secret" not in told
        assert len(told) < 400


@pytest.mark.parametrize(
    "url",
    [
        "sqlite+aiosqlite:///chat.db",
        "sqlite+aiosqlite:///:memory:",
        "sqlite+aiosqlite://",
        "mysql://host/base",
        f"postgresql+asyncpg://user:{CANARY}@host/base",
        "chat.db",
        "",
        "/data/chat.db",
    ],
)
@pytest.mark.anyio
async def test_a_database_url_that_cannot_be_is_told_to_the_caller(url: str) -> None:
    async with tools_of(url) as tools:
        for _ in range(2):
            told = await tools.refusal("list_sessions")
            assert "MCP_CHAT_DATABASE_URL" in told or "sqlite+aiosqlite:///" in told
            assert "server failed" not in told
            assert CANARY not in told, "a URL may hold a password"
            assert len(told) < 400


@pytest.mark.parametrize("url", ["sqlite+aiosqlite:///chat.db", f"postgresql+asyncpg://user:{CANARY}@host/base", ""])
def test_a_server_whose_database_url_cannot_be_says_so_and_makes_and_logs_nothing(tmp_path: Path, url: str) -> None:
    with started(url, tmp_path) as server:
        for _ in range(2):
            result = server.call("list_sessions")
            assert result["isError"]
            (told,) = (block["text"] for block in result["content"])
            assert "MCP_CHAT_DATABASE_URL" in told or "sqlite+aiosqlite:///" in told
            assert "server failed" not in told
            assert CANARY not in told, "a URL may hold a password"
            assert len(told) < 400
        server.end_input()
        assert server.wait() == 0
        assert CANARY not in server.errors()
    assert list(tmp_path.iterdir()) == [], "nothing was made where it was started"


def test_a_project_with_packages_of_our_names_does_not_get_in_the_way(database_url: str, tmp_path: Path) -> None:
    project = tmp_path / "project"
    for package in ("server", "chat_service"):
        (project / package).mkdir(parents=True)
        (project / package / "__init__.py").write_text("raise RuntimeError('the wrong package')\n")
    (project / "models.py").write_text("raise RuntimeError('the wrong module')\n")
    paths = ["", ".", f".{os.pathsep}{project}"]
    for path in paths:
        with started(database_url, project, PYTHONPATH=path) as server:
            assert "sessions" in server.answer("list_sessions")
            assert server.errors() == ""


def test_the_installed_command_works_in_a_project_with_packages_of_our_names(database_url: str, tmp_path: Path) -> None:
    command = shutil.which("mcp-chat-server", path=str(Path(sys.executable).parent))
    start = [command] if command else [sys.executable, "-c", "import mcp_chat_server; mcp_chat_server.main()"]
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "__init__.py").write_text("raise RuntimeError('the wrong package')\n")
    (tmp_path / "models.py").write_text("raise RuntimeError('the wrong module')\n")
    path = {"PYTHONPATH": "."} if command else {"PYTHONPATH": f".{os.pathsep}{COMMAND.parent}"}
    ended = subprocess.run(
        start,
        env=environment_of(database_url, path),
        cwd=tmp_path,
        input=frame_of(tool_call(1, "list_sessions")),
        capture_output=True,
        timeout=WAIT_SECONDS,
    )
    assert ended.returncode == 0, ended.stderr.decode()
    assert json.loads(ended.stdout)["result"]["structuredContent"] == {"sessions": []}


def assert_alive(server: ServerProcess) -> None:
    """The next good call works."""
    assert not server.call("list_sessions", limit=1)["isError"]


def said(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def frame_of_batch(*messages: dict[str, Any]) -> bytes:
    return json.dumps(messages).encode() + b"\n"


@pytest.mark.parametrize("ending", ["SIGTERM", "end of input"])
def test_a_client_that_has_stopped_reading_does_not_keep_the_server(database_url: str, ending: str) -> None:
    with started(database_url) as server:
        session = server.answer("start_session")["id"]
        for number in range(20):
            said_long = said("x" * 5_000)
            server.answer("add_messages", session_id=session, messages=[said_long] * 2, expected_seq=number * 2)
    deaf = subprocess.Popen(
        [sys.executable, str(COMMAND)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment_of(database_url, {}),
    )
    assert deaf.stdin is not None
    assert deaf.stdout is not None
    try:
        deaf.stdin.write(frame_of(tool_call(0, "list_sessions")))
        deaf.stdin.flush()
        assert json.loads(deaf.stdout.readline())["id"] == 0
        # More answers than a pipe holds, and nobody reads them.
        calls = [frame_of(tool_call(number, "get_session_history", session_id=session)) for number in range(1, 21)]
        deaf.stdin.write(b"".join(calls))
        deaf.stdin.flush()
        if ending == "SIGTERM":
            deaf.send_signal(signal.SIGTERM)
        else:
            deaf.stdin.close()
        assert deaf.wait(WAIT_SECONDS) == 0
    finally:
        deaf.kill()
        deaf.wait()
        deaf.stdin.close()
        deaf.stdout.close()
