"""The record: every call once, in the right session; and whatever becomes of the database, the calls still pass."""

import os
import resource
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chat_service.service import ChatService
from models.database import Database
from models.ids import SessionId, UserId
from models.inputs import NewToolUsage, NewUser, SessionChanges
from models.sqlite import choose_library
from server.record import Caller
from server.relay.destination import Destination
from server.relay.recording import Recording
from server.settings import Settings
from tests.reliability.test_disk import linux, without_the_right_to_override
from tests.server.relay.support import HELLO, Pipes, call, piped, recorded_in, relayed, scripted
from tests.server.support import WAIT_SECONDS
from tests.support import done, new_session, start_python

pytestmark = pytest.mark.anyio

HOLDER = """
import sys
from models.sqlite import choose_library
connection = choose_library().connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


async def make_record(url: str) -> UserId:
    async with Database(url) as database:
        return UserId((await ChatService(database).get_or_create_user(NewUser(username="ada")))["id"])


def call_thrice(pipes: Pipes) -> None:
    """Shake hands and call three tools, each of which answers."""
    pipes.send(HELLO)
    assert pipes.answer()["id"] == 0
    assert "result" in pipes.call(1, "echo", password="hunter2")  # noqa: S106
    assert "error" in pipes.call("2", "fail")
    assert pipes.call(1, "refuse")["result"]["isError"]


THRICE = [("echo", "success"), ("fail", "error"), ("refuse", "error")]


async def test_each_call_is_recorded_once_with_all_that_is_known_of_it(tmp_path: Path, database_url: str) -> None:
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=1"}
    traced = call(9, "echo", a=1)
    traced["params"]["_meta"] = trace
    with piped(relayed(*scripted(tmp_path / "log")), database_url) as pipes:
        call_thrice(pipes)
        pipes.send(traced)
        assert pipes.answer()["id"] == 9
        pipes.end_input()
        assert pipes.wait() == 7
        assert pipes.errors() == ""
    recorded = await recorded_in(database_url)
    assert recorded.outcomes() == [*THRICE, ("echo", "success")]
    first, failed, refused, last = recorded.calls
    assert first["arguments"] == {"password": "[redacted: password]"}
    assert (first["server_name"], first["origin"]) == ("scripted", "proxy")
    assert first["duration_ms"] is not None
    assert first["started_at"] is not None
    assert (failed["error"], refused["error"]) == ("no such tool", "not today")
    assert last["result"] == {"content": [{"type": "text", "text": '{"a": 1}'}]}
    assert last["call_metadata"] == {"request_id": 9, "client": "tester", **trace}
    (session,) = recorded.sessions
    assert (session["title"], session["client"]) == ("Tool calls of scripted", "tester")
    assert session["session_data"] == {"workspace": str(Path.cwd()), "recorded": "proxy"}


@pytest.mark.parametrize(("tool", "code"), [("crash", 3), ("die", 137)])
async def test_calls_in_flight_when_the_server_dies_are_unknown(
    tool: str, code: int, tmp_path: Path, database_url: str
) -> None:
    with piped(relayed(*scripted(tmp_path / "log")), database_url) as pipes:
        pipes.send(call(1, "hang"), call(2, tool))
        assert pipes.wait() == code
    assert (await recorded_in(database_url)).outcomes() == [("hang", "unknown"), (tool, "unknown")]


async def test_calls_in_flight_when_the_client_leaves_are_unknown(tmp_path: Path, database_url: str) -> None:
    with piped(relayed(*scripted(tmp_path / "log")), database_url) as pipes:
        pipes.send(call(1, "hang"), call(2, "echo"))
        assert pipes.answer()["id"] == 2
        pipes.end_input()
        assert pipes.wait() == 7
    assert (await recorded_in(database_url)).outcomes() == [("echo", "success"), ("hang", "unknown")]


async def test_a_call_that_the_client_cancels_is_recorded_as_cancelled(tmp_path: Path, database_url: str) -> None:
    cancel = {"method": "notifications/cancelled", "params": {"requestId": 1, "reason": "too slow"}}
    with piped(relayed(*scripted(tmp_path / "log")), database_url) as pipes:
        pipes.send(call(1, "hang"), cancel, call(2, "answer", ids=[1, 2]))
        assert [pipes.answer()["id"], pipes.answer()["id"]] == [1, 2]
        pipes.end_input()
        pipes.wait()
    recorded = await recorded_in(database_url)
    assert recorded.outcomes() == [("hang", "cancelled"), ("answer", "success")]
    assert recorded.calls[0]["error"] == "too slow"


# Where it goes


async def test_a_folder_that_is_removed_meanwhile_does_not_stop_the_record(tmp_path: Path, database_url: str) -> None:
    (tmp_path / "folder").mkdir()

    def stay_in_what_is_removed() -> None:
        os.chdir(tmp_path / "folder")
        (tmp_path / "folder").rmdir()

    with piped(relayed(*scripted(tmp_path / "log")), database_url, stay_in_what_is_removed) as pipes:
        call_thrice(pipes)
        pipes.end_input()
        assert pipes.wait() == 7
        assert pipes.errors() == ""
    assert (await recorded_in(database_url)).outcomes() == THRICE


async def test_calls_go_into_the_session_that_is_named(tmp_path: Path, database_url: str) -> None:
    user_id = await make_record(database_url)
    async with Database(database_url) as database:
        session_id = await new_session(ChatService(database), user_id, title="mine")
        await new_session(ChatService(database), user_id, title="newer")
    options = ("--wait", "60", "--session", session_id)
    with piped(relayed(*scripted(tmp_path / "log"), options=options), database_url) as pipes:
        call_thrice(pipes)
        pipes.end_input()
        pipes.wait()
    recorded = await recorded_in(database_url)
    assert {each["session_id"] for each in recorded.calls} == {session_id}
    assert recorded.outcomes() == THRICE


async def test_a_title_opens_one_session(tmp_path: Path, database_url: str) -> None:
    options = ("--wait", "60", "--title", "Night shift")
    with piped(relayed(*scripted(tmp_path / "log"), options=options), database_url) as pipes:
        call_thrice(pipes)
        pipes.end_input()
        pipes.wait()
    recorded = await recorded_in(database_url)
    assert [session["title"] for session in recorded.sessions] == ["Night shift"]
    assert recorded.outcomes() == THRICE


async def test_without_either_the_active_session_of_this_client_and_folder_is_taken(database_url: str) -> None:
    user_id = await make_record(database_url)
    async with Database(database_url) as database:
        service = ChatService(database)
        caller = Caller(service, user_id)
        elsewhere = await new_session(service, user_id, client="cursor", session_data={"workspace": "/elsewhere"})
        destination = Destination(None, None, "/here", "run")
        opened = await destination.choose(caller, "cursor", "files")
        assert opened != elsewhere
        # The next relay of the same client finds what the first has opened, one of another client does not.
        assert await Destination(None, None, "/here", "other").choose(caller, "cursor", "web") == opened
        assert await Destination(None, None, "/here", "other").choose(caller, "zed", "web") != opened
        started = await new_session(service, user_id, client="cursor")
        await service.add_tool_usage(user_id, started, done())
        await service.update_session(user_id, opened, SessionChanges(status="archived"))
        assert await destination.choose(caller, "cursor", "files") == started


async def test_a_session_that_is_deleted_is_followed_by_another(database_url: str) -> None:
    user_id = await make_record(database_url)
    async with Database(database_url) as database:
        service = ChatService(database)
        for title in (None, "Night shift"):
            destination = Destination(None, title, "/here", f"run {title}")
            first = await destination.choose(Caller(service, user_id), None, None)
            await service.delete_session(user_id, first)
            assert destination.forget(first)
            assert await destination.choose(Caller(service, user_id), None, None) != first


async def test_a_named_session_that_is_not_there_is_said_and_the_calls_pass(tmp_path: Path, database_url: str) -> None:
    options = ("--wait", "60", "--session", "01a1fc1f-9aeb-7cd6-a61c-f8f3462d9756")
    with piped(relayed(*scripted(tmp_path / "log"), options=options), database_url) as pipes:
        call_thrice(pipes)
        pipes.end_input()
        assert pipes.wait() == 7
        assert "3 tool calls were not recorded. You have no session with this session_id" in pipes.errors()
    assert (await recorded_in(database_url)).calls == []


# What becomes of the database


@contextmanager
def held(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold a database's lock."""
    holder = start_python(HOLDER, path)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
    finally:
        holder.kill()
        holder.communicate()


async def test_calls_pass_while_another_process_holds_the_database_and_are_recorded_when_it_is_killed(
    tmp_path: Path, database_url: str
) -> None:
    await make_record(database_url)
    with held(tmp_path / "chat.db") as holder, piped(relayed(*scripted(tmp_path / "log")), database_url) as pipes:
        call_thrice(pipes)
        assert holder.poll() is None
        pipes.send(call(5, "hang"))
        holder.kill()
        pipes.send(call(6, "echo"))
        assert pipes.answer()["id"] == 6
        pipes.end_input()
        assert pipes.wait() == 7
        assert pipes.errors() == ""
    assert (await recorded_in(database_url)).outcomes() == [*THRICE, ("echo", "success"), ("hang", "unknown")]


async def test_calls_pass_where_there_can_be_no_database_and_what_is_missing_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    url = f"sqlite+aiosqlite:///{tmp_path}/file/chat.db"
    with piped(relayed(*scripted(tmp_path / "log"), options=("--wait", "1")), url) as pipes:
        call_thrice(pipes)
        pipes.end_input()
        assert pipes.wait() == 7
        assert "3 tool calls were not recorded, of which 3 are tried for 10 seconds more. " in pipes.errors()
        assert "hunter2" not in pipes.errors()


@linux
async def test_calls_pass_where_the_database_is_read_only(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    url = f"sqlite+aiosqlite:///{folder}/chat.db"
    await make_record(url)
    (folder / "chat.db").chmod(0o400)
    folder.chmod(0o500)
    try:
        command = relayed(*scripted(tmp_path / "log"), options=("--wait", "1"))
        with piped(command, url, without_the_right_to_override) as pipes:
            call_thrice(pipes)
            pipes.end_input()
            assert pipes.wait() == 7
            assert "3 tool calls were not recorded" in pipes.errors()
    finally:
        folder.chmod(0o700)
        (folder / "chat.db").chmod(0o600)
    assert (await recorded_in(url)).calls == []


async def test_calls_pass_where_the_disk_is_full(tmp_path: Path, database_url: str) -> None:
    await make_record(database_url)
    size = (tmp_path / "chat.db").stat().st_size

    def no_file_grows() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    command = relayed(*scripted(tmp_path / "log"), options=("--wait", "1"))
    with piped(command, database_url, no_file_grows) as pipes:
        call_thrice(pipes)
        for number in range(10, 20):
            assert "result" in pipes.call(number, "echo", text="x" * 10_000)
        pipes.end_input()
        assert pipes.wait() == 7
        assert "were not recorded" in pipes.errors()


async def test_calls_pass_where_no_process_can_be_started_to_record_them(tmp_path: Path, database_url: str) -> None:
    def nothing_more_is_opened() -> None:
        # Enough for the server's pipes, and not for the recorder's.
        resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10))

    command = relayed(*scripted(tmp_path / "log"), options=("--wait", "0"))
    with piped(command, database_url, nothing_more_is_opened) as pipes:
        call_thrice(pipes)
        pipes.end_input()
        assert pipes.wait() == 7
        assert "nothing is recorded: Too many open files" in pipes.errors()


@linux
@pytest.mark.parametrize("answers_read", [0, 1, 200])
async def test_every_call_whose_answer_has_passed_is_recorded_when_we_are_killed(
    answers_read: int, tmp_path: Path, database_url: str
) -> None:
    with piped(relayed(*scripted(tmp_path / "log")), database_url) as pipes:
        call_thrice(pipes)
        pipes.send(*(call(number, "echo") for number in range(10, 210)))
        for _ in range(answers_read):
            pipes.answer()
        recorder = recorder_of(pipes)
        pipes.process.kill()
        pipes.process.wait()
        wait_for_the_end_of(recorder)
    outcomes = (await recorded_in(database_url)).outcomes()
    answered = [*THRICE, *[("echo", "success")] * answers_read]
    assert outcomes[: len(answered)] == answered
    assert set(outcomes[len(answered) :]) <= {("echo", "success"), ("echo", "unknown")}


@linux
async def test_a_server_that_does_not_mind_its_stdin_is_not_left_behind_when_we_are_killed(database_url: str) -> None:
    code = "import os, signal\nos.write(1, b'ready')\nwhile True: signal.pause()"
    with piped(relayed(sys.executable, "-S", "-c", code), database_url) as pipes:
        assert pipes.read(5) == b"ready"
        server, _ = processes_of(pipes)
        pipes.process.kill()
        pipes.process.wait()
        wait_for_the_end_of(server)


def recorder_of(pipes: Pipes) -> int:
    """Return the process that records."""
    return processes_of(pipes)[1]


def processes_of(pipes: Pipes) -> tuple[int, int]:
    """Return the server and the process that records, which another may just be taking the place of."""
    tasks = Path(f"/proc/{pipes.process.pid}/task")
    while True:
        children = [int(child) for task in tasks.iterdir() for child in _children_of(task)]
        recorders = [child for child in children if _is_recorder(child)]
        if recorders:
            # The server is the first that the relay starts, on the thread that it begins with.
            return int(_children_of(tasks / str(pipes.process.pid))[0]), recorders[0]


def _children_of(task: Path) -> list[str]:
    try:
        return (task / "children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        # A thread that has ended meanwhile.
        return []


def _is_recorder(process_id: int) -> bool:
    # What is not one yet is a copy of the relay, which holds all that the relay has open.
    try:
        return b"--copies" in Path(f"/proc/{process_id}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False


def has_ended(process_id: int) -> bool:
    """Tell whether a process has ended, also where nobody has asked yet how."""
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def wait_for_the_end_of(process_id: int) -> None:
    """Wait for a process that is not a child of ours."""
    try:
        handle = os.pidfd_open(process_id)
    except ProcessLookupError:
        return
    assert select.select([handle], [], [], WAIT_SECONDS)[0]
    os.close(handle)


async def test_what_does_not_fit_is_counted_and_an_entry_says_so_at_its_place(
    tmp_path: Path, database_url: str
) -> None:
    user_id = await make_record(database_url)
    holder = choose_library().connect(str(tmp_path / "chat.db"), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    settings = Settings(database_url=database_url, user="ada")
    async with Database(database_url) as database:
        recording = Recording(settings, Destination(None, "full", "/here", "run"), held_calls=3)
        for number in range(5):
            recording.add(entry(number), "tester")
        recording.add_gap("bytes", missed_bytes=1_000)
        assert recording.finish(0) == 3
        assert (recording.lost_calls, recording.lost_bytes) == (2, 1_000)
        holder.execute("ROLLBACK")
        holder.close()
        assert recording.finish(WAIT_SECONDS) == 0
        service = ChatService(database)
        (session,) = (await service.get_user_sessions(user_id))["sessions"]
        history = await service.get_session_history(user_id, SessionId(session["id"]))
    *calls, gap = history["entries"]
    assert [each["tool_name"] for each in calls if "tool_name" in each] == ["tool0", "tool1", "tool2"]
    assert "message_type" in gap
    assert (gap["author"], gap["message_type"]) == ("proxy", "system")
    assert gap["content"].startswith("2 tool calls and 1000 bytes of traffic, with the tool calls in them, were not")
    assert gap["message_metadata"] is not None
    assert gap["message_metadata"]["recording_gap"]["calls"] == 2


def entry(number: int) -> NewToolUsage:
    return NewToolUsage(tool_name=f"tool{number}", arguments={}, origin="proxy", idempotency_key=f"proxy:{number}")


async def test_many_calls_are_recorded_in_order(database_url: str) -> None:
    settings = Settings(database_url=database_url, user="ada")
    recording = Recording(settings, Destination(None, "many", "/here", "run"))
    for number in range(300):
        recording.add(entry(number), None)
    assert recording.finish(WAIT_SECONDS) == 0
    recorded = await recorded_in(database_url)
    assert [each["tool_name"] for each in recorded.calls] == [f"tool{number}" for number in range(300)]


async def test_names_that_cannot_be_stored_do_not_stop_the_record(tmp_path: Path, database_url: str) -> None:
    odd = "\0" + "x" * 5_000 + "\ud800"
    with piped(relayed(*scripted(tmp_path / "log")), database_url) as pipes:
        pipes.send({**HELLO, "params": {"clientInfo": {"name": odd}}})
        assert pipes.answer()["id"] == 0
        pipes.call(1, "echo")
        pipes.send(call(odd, odd))
        pipes.end_input()
        assert pipes.wait() == 7
        assert pipes.errors() == ""
    recorded = await recorded_in(database_url)
    assert [status for _, status in recorded.outcomes()] == ["success", "unknown"]


async def test_a_setting_that_is_wrong_is_said_and_the_calls_pass(tmp_path: Path, database_url: str) -> None:
    options = ("--wait", "60", "--redact-pattern", "bad=(")
    with piped(relayed(*scripted(tmp_path / "log"), options=options), database_url) as pipes:
        call_thrice(pipes)
        pipes.end_input()
        assert pipes.wait() == 7
        assert "nothing was recorded, 3 tool calls passed: The pattern of the rule 'bad'" in pipes.errors()
