"""The command line: each command does what its help says, refuses in one sentence, and shows stored text harmlessly."""

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner, Result

from chat_service.service import ChatService
from models.database import Database
from models.errors import ChatError, Conflict, Invalid, NotFound, Unavailable
from models.ids import SessionId, UserId, new_id
from models.inputs import (
    BlobPart,
    FilePart,
    NewMessage,
    NewSession,
    NewToolUsage,
    NewUser,
    ReasoningPart,
    ToolCallPart,
    UriPart,
)
from server.command_line.config import server_command
from server.command_line.main import build
from server.command_line.terminal import printable
from server.tools import all_tools
from tests.conftest import url_of
from tests.support import ROOT

COMMAND = [sys.executable, str(ROOT / "mcp_chat_server.py")]


@pytest.fixture
def environment(database_url: str) -> dict[str, str]:
    return {"MCP_CHAT_DATABASE_URL": database_url, "MCP_CHAT_USER": "ada"}


def run(environment: Mapping[str, str], *arguments: str, answer: str | None = None) -> str:
    """Run a command that must succeed, and return what it printed."""
    result = invoke(environment, *arguments, answer=answer)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def invoke(environment: Mapping[str, str], *arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(build(), list(arguments), env=dict(environment), input=answer)


def refused(environment: Mapping[str, str], *arguments: str) -> ChatError:
    """Run a command that must be refused, and return the refusal."""
    error = invoke(environment, *arguments).exception
    assert isinstance(error, ChatError), error
    return error


def record_of(database_url: str, *contents: str, title: str = "A title") -> str:
    """Store a session with messages and a tool call, and return its id."""

    async def store() -> str:
        async with Database(database_url) as database:
            service = ChatService(database)
            user_id = UserId((await service.get_or_create_user(NewUser(username="ada")))["id"])
            session_id = SessionId((await service.create_chat_session(user_id, NewSession(title=title)))["id"])
            if contents:
                said = [NewMessage(role="user", content=content) for content in contents]
                await service.add_messages(user_id, session_id, said)
            usage = NewToolUsage(tool_name="scale", arguments={"servings": 8}, result="3½ cups")
            await service.add_tool_usage(user_id, session_id, usage)
            return session_id

    return asyncio.run(store())


def test_sessions_lists_what_there_is(environment: dict[str, str], database_url: str) -> None:
    assert "no sessions yet" in run(environment, "sessions")
    session_id = record_of(database_url, "hello", title="Crêpes for eight")
    listed = run(environment, "sessions", "--query", "crêpes", "--status", "active")
    assert session_id in listed
    assert "Crêpes for eight" in listed
    assert session_id not in run(environment, "sessions", "--status", "archived")


@pytest.mark.parametrize("columns", [200, 100, 80, 60])
def test_an_id_is_whole_in_a_terminal_of_any_width(
    environment: dict[str, str], database_url: str, columns: int
) -> None:
    titles = ["Crêpes " * 30, "日本語" * 40, "short"]
    stored = [record_of(database_url, "hello", title=title.strip()) for title in titles]
    terminal = {**environment, "FORCE_COLOR": "1", "COLUMNS": str(columns)}
    listed = run(terminal, "sessions").splitlines()
    for session_id, beginning in zip(stored, ("Crêpes Crêpes", "日本語日本語", "short"), strict=True):
        number = next(number for number, line in enumerate(listed) if line.startswith(session_id))
        assert re.search(r" active +2  \d{4}-\d\d-\d\d \d\d:\d\d", listed[number])
        assert beginning in listed[number if columns > 99 else number + 1]
    assert columns == 60 or max(map(cell_len, listed)) <= columns


def test_sessions_page_by_page_are_all_sessions_once(environment: dict[str, str], database_url: str) -> None:
    stored = [record_of(database_url, title=f"{number}") for number in range(3)]
    first = json.loads(run(environment, "sessions", "--json", "--limit", "2"))
    rest = json.loads(run(environment, "sessions", "--json", "--limit", "2", "--cursor", first["next_cursor"]))
    assert [each["id"] for each in [*first["sessions"], *rest["sessions"]]] == stored[::-1]
    assert rest["next_cursor"] is None


def test_show_prints_every_entry_in_order(environment: dict[str, str], database_url: str) -> None:
    session_id = record_of(database_url, *(f"message {number}" for number in range(250)))
    shown = run(environment, "show", session_id)
    places = [shown.index(f"    message {number}\n") for number in range(250)]
    assert places == sorted(places)
    assert re.search(r'\n251 tool, success, \d{4}-\d\d-\d\d \d\d:\d\d\n    scale {"servings":8}\n    3½ cups\n', shown)
    entries = [json.loads(line) for line in run(environment, "show", session_id, "--json").splitlines()]
    assert [entry["seq"] for entry in entries] == list(range(1, 252))
    assert "message 9\n" not in run(environment, "show", session_id, "--after-seq", "200")

    def shown_with(*options: str) -> list[int]:
        lines = run(environment, "show", session_id, "--json", *options).splitlines()
        return [json.loads(line)["seq"] for line in lines]

    assert shown_with("--last", "2") == [250, 251]
    assert shown_with("--last", "0") == []
    assert shown_with("--last", "500") == list(range(1, 252))
    assert shown_with("--last", "2", "--after-seq", "250") == [251]


def test_show_says_what_a_message_without_text_is(environment: dict[str, str], database_url: str) -> None:
    session_id = record_of(database_url)
    parts: list[Any] = [
        ReasoningPart(type="reasoning", content="Weigh it."),
        ToolCallPart(type="tool_call", id="call_1", name="scale"),
        UriPart(type="uri", uri="https://example.org/a.png"),
        FilePart(type="file", file_id="file_1"),
        BlobPart(type="blob", content="iVBORw0=", mime_type="image/png"),
    ]
    append_to(database_url, session_id, NewMessage(role="assistant", parts=parts))
    shown = [line.strip() for line in run(environment, "show", session_id).splitlines()]
    assert shown[-5:] == [
        "(thinks) Weigh it.",
        "→ scale",
        "[uri https://example.org/a.png]",
        "[file file_1]",
        "[image/png, 5 bytes]",
    ]


def test_show_says_why_a_call_failed_once_and_what_it_gave(environment: dict[str, str], database_url: str) -> None:
    session_id = record_of(database_url)
    failed = [
        NewToolUsage(tool_name="ls", arguments={}, error="no such file", result=result)
        for result in ("no such file", "no such file\nnor folder", "ls: no such file")
    ]
    append_to(database_url, session_id, *failed)
    shown = run(environment, "show", session_id)
    assert [shown.count(f"    {line}\n") for line in ("no such file", "nor folder", "ls: no such file")] == [3, 1, 1]


def test_show_cuts_what_is_long_unless_told(environment: dict[str, str], database_url: str) -> None:
    session_id = record_of(database_url, "x" * 5_000 + "end")
    assert "end" not in run(environment, "show", session_id).split("2 tool")[0]
    assert "3003 more characters" in run(environment, "show", session_id)
    assert "end" in run(environment, "show", session_id, "--full")


@pytest.mark.parametrize("as_json", [False, True])
def test_show_follows_what_others_append_until_it_is_interrupted(
    environment: dict[str, str], database_url: str, as_json: bool
) -> None:
    session_id = record_of(database_url, "old")
    flags = ["--json"] if as_json else []
    with subprocess.Popen(
        [*COMMAND, "show", session_id, "--follow", *flags],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as following:
        try:
            assert following.stdout is not None
            assert following.stderr is not None
            read_until(following.stdout, "3½ cups" if not as_json else '"seq": 2')
            append_to(database_url, session_id, "new \x1b]0;title\x07 one")
            last = read_until(following.stdout, "new ")
            assert "\x1b" not in last
            if as_json:
                assert json.loads(last)["seq"] == 3
            following.send_signal(signal.SIGINT)
            assert following.stdout.read().strip() == ""
            assert following.wait(60) == 0
            assert following.stderr.read() == ""
        finally:
            following.kill()


def read_until(lines: IO[str], text: str) -> str:
    """Read lines until one holds the text, and return it."""
    for line in lines:
        if text in line:
            return line
    raise AssertionError("the output ended before")


def append_to(database_url: str, session_id: str, *entries: str | NewMessage | NewToolUsage) -> None:
    """Append messages and tool calls as another client does."""

    async def append() -> None:
        async with Database(database_url) as database:
            service = ChatService(database)
            user_id = UserId((await service.get_or_create_user(NewUser(username="ada")))["id"])
            for entry in entries:
                if isinstance(entry, NewToolUsage):
                    await service.add_tool_usage(user_id, SessionId(session_id), entry)
                else:
                    message = NewMessage(role="user", content=entry) if isinstance(entry, str) else entry
                    await service.add_message(user_id, SessionId(session_id), message)

    asyncio.run(append())


def test_search_prints_hits_for_people_and_for_programs(environment: dict[str, str], database_url: str) -> None:
    session_id = record_of(database_url, "two cups\nof orchid tea", "orchid " * 3, title="Tea")
    shown = run(environment, "search", "orchid")
    assert f"{session_id} [1] user  Tea\n    two cups of **orchid** tea\n" in shown
    found = json.loads(run(environment, "search", "orchid", "--json", "--limit", "1"))
    rest = json.loads(run(environment, "search", "orchid", "--json", "--cursor", found["next_cursor"]))
    assert [hit["seq"] for hit in [*found["hits"], *rest["hits"]]] == [2, 1]
    assert "tool scale" in run(environment, "search", '"3½ cups"')
    assert "nothing found" in (said := run(environment, "search", "tea gardens"))
    assert "sessions --query" in said
    assert "--cursor" in run(environment, "search", "orchid", "--limit", "1")


def test_stored_text_cannot_steer_the_terminal(environment: dict[str, str], database_url: str) -> None:
    hostile = "\x1b]0;title\x07\x1b[2Jplain\u202e\u200b\U000e0041\x9b31m \x1bPq\x1b\\tab\tend"
    session_id = record_of(database_url, hostile, title=f"title {hostile}")
    for arguments in (("show", session_id), ("show", session_id, "--full"), ("sessions",), ("search", "end")):
        printed = run(environment, *arguments)
        assert "plain" in printed
        assert printed == printable(printed)
        assert "\x1b" not in printed


def test_a_title_is_one_line_whatever_it_holds(environment: dict[str, str], database_url: str) -> None:
    session_id = record_of(database_url, "said", title="title\n9 user\n    forged")
    for arguments, lines in (
        (("show", session_id), 8),
        (("sessions",), 2),
        (("search", "said"), 3),
        (("sessions", "archive", session_id), 1),
    ):
        assert len(run(environment, *arguments).splitlines()) == lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("windows\r\nline", "windows\nline"),
        ("over\rwritten", "overwritten"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("naïve 🎉 だし", "naïve 🎉 だし"),
    ],
)
def test_printable_text_is_what_a_person_reads(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_session_is_renamed_archived_and_reopened(environment: dict[str, str], database_url: str) -> None:
    session_id = record_of(database_url, "hello")
    assert run(environment, "sessions", "rename", session_id, "Crêpes") == f"{session_id} active, 2 entries: Crêpes\n"
    assert "archived" in run(environment, "sessions", "archive", session_id)
    assert session_id in run(environment, "sessions", "--status", "archived")
    assert isinstance(refused(environment, "sessions", "fork", session_id, "--at-seq", "9"), Invalid)
    assert "active" in run(environment, "sessions", "reopen", session_id)
    for command in (["rename", new_id(), "x"], ["archive", new_id()], ["reopen", new_id()]):
        assert isinstance(refused(environment, "sessions", *command), NotFound)


def test_sessions_are_forked_and_merged(environment: dict[str, str], database_url: str) -> None:
    source, target = record_of(database_url, "one", title="Source"), record_of(database_url, "two", title="Target")
    assert run(environment, "sessions", "merge", source, target) == f"{target} active, 4 entries: Target\n"
    shown = run(environment, "show", target)
    assert shown.index("two") < shown.index("one")
    assert target in str(refused(environment, "sessions", "merge", source, target))
    forked = run(environment, "sessions", "fork", target, "--at-seq", "2", "--title", "Another way")
    assert forked.endswith("active, 2 entries: Another way\n")
    assert isinstance(refused(environment, "sessions", "merge", target, record_of(database_url)), Conflict)


def test_a_session_is_deleted_only_when_told(environment: dict[str, str], database_url: str) -> None:
    session_id = record_of(database_url, "hello")
    fork_id = run(environment, "sessions", "fork", session_id).split()[0]
    asked = invoke(environment, "sessions", "delete", session_id, answer="n\n")
    assert (asked.exit_code, asked.stdout.startswith("Delete “A title” with its 2 entries, for good?")) == (1, True)
    assert isinstance(refused(environment, "sessions", "delete", new_id()), NotFound), "nobody is asked"
    assert session_id in run(environment, "sessions")
    assert (
        run(environment, "sessions", "delete", session_id, "--yes")
        == "deleted 1 sessions, 1 messages, 1 tool calls; receipt 1 in the audit log\n"
    )
    assert "hello" in run(environment, "show", fork_id)
    run(environment, "sessions", "fork", fork_id)
    assert "2 sessions, 1 messages" in run(environment, "sessions", "delete", fork_id, "--with-forks", "--yes")
    assert "no sessions yet" in run(environment, "sessions")


def test_the_user_is_shown_and_changed(environment: dict[str, str]) -> None:
    assert "ada" in run(environment, "user", "show")
    changed = run(environment, "user", "update", "--email", "ada@example.org", "--display-name", "Ada")
    assert "ada@example.org" in changed
    assert "ada@example.org" not in run(environment, "user", "update", "--email", "")
    assert isinstance(refused(environment, "user", "update"), Invalid)


def test_the_user_is_deleted_only_when_told(environment: dict[str, str], database_url: str) -> None:
    session_id = record_of(database_url, "hello")
    assert invoke(environment, "user", "delete", answer="n\n").exit_code == 1
    assert session_id in run(environment, "sessions", "--json")
    assert "1 sessions, 1 messages, 1 tool calls" in run(environment, "user", "delete", "--yes")
    assert "no sessions yet" in run(environment, "sessions")


def test_check_changes_nothing_and_upgrade_creates(
    environment: dict[str, str], new_file_url: str, tmp_path: Path
) -> None:
    environment["MCP_CHAT_DATABASE_URL"] = new_file_url
    assert "there is no file yet" in run(environment, "db", "check")
    assert not (tmp_path / "new.db").exists()
    upgraded = run(environment, "db", "upgrade")
    assert run(environment, "db", "check") == upgraded
    assert "-rw-------" in upgraded


def test_a_backup_is_restored_and_what_was_there_is_kept(environment: dict[str, str], tmp_path: Path) -> None:
    run(environment, "user", "update", "--email", "before@example.org")
    backup = str(tmp_path / "copies" / "backup.db")
    run(environment, "db", "backup", backup)
    assert isinstance(refused(environment, "db", "backup", backup), Conflict)
    run(environment, "user", "update", "--email", "after@example.org")
    assert isinstance(refused(environment, "db", "restore", backup), Conflict)
    assert isinstance(refused(environment, "db", "restore", str(tmp_path / "none.db"), "--replace"), NotFound)
    restored = run(environment, "db", "restore", backup, "--replace")
    assert "before@example.org" in run(environment, "user", "show")
    kept = next(tmp_path.glob("chat.db.before-restore-*"))
    assert str(kept) in restored
    assert "after@example.org" in run({**environment, "MCP_CHAT_DATABASE_URL": url_of(kept)}, "user", "show")


def test_the_audit_log_shows_receipts_and_is_verified(environment: dict[str, str], database_url: str) -> None:
    for _ in range(2):
        run(environment, "sessions", "delete", record_of(database_url, "hello", title="Secret"), "--yes")
    lines = run(environment, "audit").splitlines()
    assert [line.split("  ")[-1] for line in lines] == [
        "erased on the disk: blobs 0, receipt 3, source records 0",
        "session deleted: messages 1, sessions 1, tool usages 1",
        "erased on the disk: blobs 0, receipt 1, source records 0",
        "session deleted: messages 1, sessions 1, tool usages 1",
    ]
    first = run(environment, "audit", "--limit", "3")
    assert run(environment, *shlex.split(first.splitlines()[-1])[2:]).splitlines() == lines[3:]
    assert json.loads(run(environment, "audit", "--json"))["entries"][0]["detail"]["receipt"] == 3
    assert run({**environment, "MCP_CHAT_USER": "grace"}, "audit") == ""
    whole = run(environment, "audit", "--verify")
    assert whole.startswith("4 rows, each as it was written; the detail of 0 was erased\nhead ")
    change(database_url, "UPDATE audit_log SET detail = '{}' WHERE key = 2")
    result = invoke(environment, "audit", "--verify")
    assert (result.exit_code, result.stdout[:31]) == (1, "row 2 is not as it was written,")
    assert json.loads(invoke(environment, "audit", "--verify", "--json").stdout)["broken_at"] == 2
    assert "PROBLEM" in invoke(environment, "doctor").stdout


def change(database_url: str, statement: str) -> None:
    """Change the file as another program would."""

    async def write() -> None:
        async with Database(database_url) as database:
            await database.write(lambda connection: connection.exec_driver_sql(statement).rowcount)

    asyncio.run(write())


def test_the_doctor_is_content_with_a_sound_record(environment: dict[str, str], new_file_url: str) -> None:
    environment["MCP_CHAT_DATABASE_URL"] = new_file_url
    assert "does not exist yet" in run(environment, "doctor")
    record_of(new_file_url, "hello")
    report = run(environment, "doctor")
    assert "PROBLEM" not in report
    assert "1 sessions, each numbered from 1 without a gap" in report


def test_the_doctor_refuses_what_is_no_database(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "chat.db").write_text("not a database", encoding="utf-8")
    assert isinstance(refused(environment, "doctor"), Unavailable)
    assert (tmp_path / "chat.db").read_text(encoding="utf-8") == "not a database"


@pytest.mark.parametrize("client", ["claude-desktop", "cursor", "vscode"])
def test_config_prints_json_that_starts_this_installation(environment: dict[str, str], client: str) -> None:
    printed = json.loads(run(environment, "config", client))
    entry = (printed.get("mcpServers") or printed["servers"])["chat"]
    assert [entry["command"], *entry["args"]] == server_command()
    assert entry["env"] == environment
    assert entry.get("type") == ("stdio" if client == "vscode" else None)


def test_config_prints_a_command_for_claude_code(environment: dict[str, str]) -> None:
    words = shlex.split(run(environment, "config", "claude-code"))
    given = [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]
    # Its --env takes all words up to the next option, so the name cannot follow one.
    assert words == ["claude", "mcp", "add", *given, "--scope", "user", "chat", "--", *server_command()]


def test_config_prints_a_command_for_codex(environment: dict[str, str]) -> None:
    words = shlex.split(run(environment, "config", "codex"))
    given = [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]
    assert words == ["codex", "mcp", "add", "chat", *given, "--", *server_command()]


def test_the_command_that_config_prints_starts_a_server(environment: dict[str, str]) -> None:
    given = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    frame = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": given}
    answered = subprocess.run(
        server_command(),
        input=json.dumps(frame) + "\n",
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(answered.stdout)["result"]["serverInfo"]["name"] == "mcp-chat-server"


@pytest.mark.parametrize(
    "arguments",
    [["config", "emacs"], ["sessions", "--status", "lost"], ["show"], ["nothing"], ["sessions", "--limit", "0"]],
)
def test_wrong_arguments_are_refused_with_usage(environment: dict[str, str], arguments: list[str]) -> None:
    assert invoke(environment, *arguments).exit_code == 2


def test_a_refusal_is_one_sentence_of_commands_and_exit_code_1(environment: dict[str, str], database_url: str) -> None:
    archived, other = record_of(database_url, "hello"), record_of(database_url, "hello")
    run(environment, "sessions", "archive", archived)
    for changed, arguments, sentence in (
        ({}, ["show", "nope"], "session_id is not a session's id: use the id that `mcp-chat-server sessions` lists."),
        ({}, ["show", new_id()], "no session with this session_id: `mcp-chat-server sessions` lists those you have."),
        ({}, ["search", "session:x"], "needs a session's id, as `mcp-chat-server sessions` lists it."),
        ({}, ["sessions", "merge", archived, other], "open it with `mcp-chat-server sessions reopen`, then merge."),
        ({"MCP_CHAT_DATABASE_URL": "sqlite+aiosqlite:///here.db"}, ["sessions"], "must name an absolute path"),
        ({"MCP_CHAT_LOG_LEVEL": "loud"}, ["sessions"], "MCP_CHAT_LOG_LEVEL"),
    ):
        ended = subprocess.run(
            [*COMMAND, *arguments],
            env={**os.environ, **environment, **changed},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert ended.returncode == 1
        assert ended.stdout == ""
        assert ended.stderr.startswith("mcp-chat-server: ")
        assert sentence in ended.stderr
        assert not any(tool.name in ended.stderr for tool in all_tools() if "_" in tool.name)
        assert len(ended.stderr.splitlines()) == 1


def test_the_demo_records_survives_and_reads_back(
    environment: dict[str, str], new_file_url: str, tmp_path: Path
) -> None:
    environment["MCP_CHAT_DATABASE_URL"] = new_file_url
    printed = run(environment, "demo")
    assert "70 entries, seq 1 to 70 without a gap, each equal to what was sent" in printed
    assert "24 tool calls with their results, 24 joined" in printed
    assert printed.endswith("mcp-chat-server config claude-code\n"), "it says how to go on"
    assert not (tmp_path / "new.db").exists(), "the demo keeps to a folder of its own"


def test_the_demo_plays_a_transcript_that_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    line = {"type": "user", "uuid": "1", "sessionId": "s", "message": {"role": "user", "content": "Good morning"}}
    (tmp_path / "one.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    assert "Good morning" in run(environment, "demo", str(tmp_path / "one.jsonl"))
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    assert isinstance(refused(environment, "demo", str(tmp_path / "empty.jsonl")), Invalid)
    assert isinstance(refused(environment, "demo", str(tmp_path / "none.jsonl")), Invalid)


def test_a_value_that_cannot_be_is_refused_without_repeating_it(environment: dict[str, str]) -> None:
    ended = subprocess.run(
        [*COMMAND, "user", "update", "--email", "secret" * 200],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("mcp-chat-server: email: ")
    assert "secret" not in ended.stderr


def test_a_data_folder_of_any_name_is_the_one_that_is_used(tmp_path: Path) -> None:
    folder = tmp_path / "50%41 a?b#c é"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MCP_CHAT_")}
    checked = subprocess.run(
        [*COMMAND, "db", "upgrade"],
        env={**environment, "XDG_DATA_HOME": str(folder), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert str(folder) in checked.stdout
