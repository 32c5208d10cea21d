"""The commands that import and export: what they print adds up, what they write comes back, and they end when told."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from models.errors import ChatError, Conflict, Invalid, NotFound
from models.ids import new_id
from tests.chat_service.transcripts.support import SHORT, write_chatgpt, write_claude_code
from tests.conftest import url_of
from tests.server.test_command_line import COMMAND, invoke, record_of, refused, run


@pytest.fixture
def environment(database_url: str) -> dict[str, str]:
    return {"MCP_CHAT_DATABASE_URL": database_url, "MCP_CHAT_USER": "ada"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as a client keeps it, with a transcript in it."""
    (tmp_path / "projects" / "garden").mkdir(parents=True)
    (tmp_path / "projects" / "garden" / "s-1.jsonl").write_text(write_claude_code(SHORT), encoding="utf-8")
    (tmp_path / "projects" / "notes.txt").write_text("not a transcript")
    return tmp_path / "projects"


def test_import_says_what_became_of_every_record(environment: dict[str, str], folder: Path) -> None:
    said = run(environment, "import", "claude-code", str(folder))
    assert said.splitlines()[0] == "10 records in 1 file: 9 stored, 0 already there, 1 skipped"
    assert "  added 7 messages" in said.splitlines()
    assert "  added 2 tool calls" in said.splitlines()
    again = run(environment, "import", "claude-code", str(folder))
    assert again == "10 records in 1 file: 0 stored, 10 already there, 0 skipped\n"
    assert json.loads(run(environment, "import", "claude-code", str(folder), "--json"))["already_there"]


def test_import_leaves_out_what_was_deleted_here_until_it_is_to_come_back(
    environment: dict[str, str], folder: Path
) -> None:
    run(environment, "import", "claude-code", str(folder))
    [session] = json.loads(run(environment, "sessions", "--json"))["sessions"]
    run(environment, "sessions", "delete", session["id"], "--yes")
    said = run(environment, "import", "claude-code", str(folder)).splitlines()
    assert said[0] == "10 records in 1 file: 0 stored, 0 already there, 10 skipped"
    assert {line.split(": ")[1] for line in said[1:]} == {"deleted here"}
    assert json.loads(run(environment, "sessions", "--json"))["sessions"] == []
    said = run(environment, "import", "claude-code", str(folder), "--bring-back").splitlines()
    assert said[0] == "10 records in 1 file: 9 stored, 0 already there, 1 skipped"


def test_import_takes_several_paths(environment: dict[str, str], folder: Path) -> None:
    path = folder / "conversations.json"
    path.write_text(write_chatgpt(SHORT))
    told = json.loads(run(environment, "import", "chatgpt", str(path), str(folder), "--json"))
    assert (told["files"], told["problems"]) == (1, [])


def test_import_ends_with_1_where_something_could_not_be_read(environment: dict[str, str], folder: Path) -> None:
    (folder / "bad.jsonl").write_text("no transcript\nat all\n")
    result = invoke(environment, "import", "claude-code", str(folder), str(folder / "absent.jsonl"))
    assert result.exit_code == 1
    assert "9 stored" in result.stdout
    assert "  skipped 2 unreadable line: could not be read" in result.stdout
    complaints = result.stderr.splitlines()
    assert complaints[-2].endswith("bad.jsonl: could not be read in full (unreadable line: 2)")
    assert complaints[-1].endswith("absent.jsonl: could not be read (No such file or directory)")
    assert "at all" not in result.output


def test_import_refuses_what_it_does_not_know(environment: dict[str, str], folder: Path) -> None:
    assert "format is one of claude-code, codex" in str(refused(environment, "import", "\x1b[31m", str(folder)))
    refusal = refused(environment, "import", "jsonl", str(folder), "--into", "x")
    assert isinstance(refusal, Invalid)
    assert "an archive restores its own sessions" in str(refusal)


def test_import_goes_on_in_the_session_that_is_named(
    environment: dict[str, str], database_url: str, folder: Path
) -> None:
    session_id = record_of(database_url, "hello")
    run(environment, "import", "claude-code", str(folder), "--into", session_id)
    shown = run(environment, "show", session_id)
    assert shown.index("hello") < shown.index("In May.")


def test_an_export_is_imported_and_exported_again_byte_for_byte(
    environment: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    run(environment, "import", "claude-code", str(folder))
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    run(environment, "export", "--all", "--output", str(first))
    other = environment | {"MCP_CHAT_DATABASE_URL": url_of(tmp_path / "other.db"), "MCP_CHAT_USER": "grace"}
    said = run(other, "import", "jsonl", str(first)).splitlines()
    assert {"  added 1 sessions", "  added 7 messages", "  added 2 tool calls", "  added 10 records kept"} == set(
        said[1:]
    )
    run(other, "export", "--all", "--output", str(second))
    assert second.read_bytes() == first.read_bytes()
    assert first.read_bytes() == run(environment, "export", "--all").encode()
    assert os.name == "nt" or first.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("shape", "beginning"),
    [
        ("markdown", "# Beans\n"),
        ("html", "<!doctype html>\n"),
        ("openai", "{"),
        ("openai-responses", "{"),
        ("anthropic", "{"),
    ],
)
def test_export_writes_what_people_read(environment: dict[str, str], folder: Path, shape: str, beginning: str) -> None:
    run(environment, "import", "claude-code", str(folder))
    [session] = json.loads(run(environment, "sessions", "--json"))["sessions"]
    text = run(environment, "export", session["id"], "--format", shape)
    assert text.startswith(beginning)
    assert "And peas?" in text


def test_export_refuses_what_cannot_be_done(environment: dict[str, str], database_url: str, tmp_path: Path) -> None:
    session_id = record_of(database_url, "hello")
    file = tmp_path / "kept.jsonl"
    file.write_text("kept")
    cases: list[tuple[tuple[str, ...], type[ChatError]]] = [
        ((), Invalid),
        ((session_id, "--all"), Invalid),
        (("x",), Invalid),
        (("01a1fcb5-e09e-7cbf-a114-e031c2f80169",), NotFound),
        ((session_id, "--output", str(file)), Conflict),
        ((session_id, "--output", str(tmp_path / "none" / "file")), Invalid),
        (("01a1fcb5-e09e-7cbf-a114-e031c2f80169", "--output", str(tmp_path / "new.jsonl")), NotFound),
    ]
    for arguments, refusal in cases:
        assert isinstance(refused(environment, "export", *arguments), refusal), arguments
    assert file.read_text() == "kept"
    assert not (tmp_path / "new.jsonl").exists()


@pytest.mark.skipif(os.name == "nt", reason="needs the signal of Ctrl-C")
def test_watch_follows_a_folder_until_it_is_told_to_stop(environment: dict[str, str], folder: Path) -> None:
    command = [*COMMAND, "import", "claude-code", str(folder), "--watch", "--interval", "0.02", "--json"]
    path = folder / "garden" / "s-1.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:3]), encoding="utf-8")
    process = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        told = [json.loads(process.stdout.readline())]
        with path.open("a", encoding="utf-8") as file:
            file.writelines(lines[3:])
        told.append(json.loads(process.stdout.readline()))
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    stored = [sum(each["stored"].values()) for each in told + [json.loads(line) for line in output.splitlines()]]
    assert sum(stored) == 9
    assert stored[0] == 2


@pytest.mark.parametrize("shape", ["jsonl", "markdown", "html", "openai"])
def test_an_export_of_a_session_that_is_not_there_prints_nothing(
    environment: dict[str, str], database_url: str, shape: str
) -> None:
    there = record_of(database_url, "hello")
    result = invoke(environment, "export", there, new_id(), "--format", shape)
    assert isinstance(result.exception, NotFound)
    assert result.stdout == ""
