"""How a command ends whose output cannot be written, whose streams are closed, or that is asked to end: cleanly."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.test_disk import linux
from tests.server.relay.support import scripted
from tests.server.support import COMMAND, WAIT_SECONDS, environment_of, frame_of, tool_call
from tests.server.test_command_line import record_of

PRINTING = [["sessions"], ["show", "--json"], ["search", "word"], ["export"], ["config", "cursor"]]


def ended(
    database_url: str, *words: str, limit: Callable[[], None] | None = None, **more: object
) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end."""
    given = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, str(COMMAND), *words],
        env=environment_of(database_url),
        text=True,
        errors="replace",
        check=False,
        timeout=WAIT_SECONDS,
        preexec_fn=limit,
        **given,
    )


def with_session(words: list[str], session_id: str) -> list[str]:
    return [*words, session_id] if words[0] in ("show", "export") else words


@linux
@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_what_cannot_be_printed_is_told(database_url: str, words: list[str]) -> None:
    words = with_session(words, record_of(database_url, "word"))
    with Path("/dev/full").open("wb") as full:
        told = ended(database_url, *words, stdout=full)
    assert told.returncode == 1
    assert told.stderr.splitlines()[-1] == "mcp-chat-server: No space left on device"
    assert "Traceback" not in told.stderr


@linux
def test_answers_that_cannot_be_written_are_told(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "calls").write_bytes(frame_of(tool_call(1, "list_sessions")))
    with (tmp_path / "calls").open("rb") as calls, Path("/dev/full").open("wb") as full:
        told = ended(database_url, stdin=calls, stdout=full)
    assert told.stderr.endswith("nothing more can be written to stdout: No space left on device\n")


@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_one_who_has_read_enough_is_told_nothing(database_url: str, words: list[str]) -> None:
    words = with_session(words, record_of(database_url, "word"))
    reading, writing = os.pipe()
    os.close(reading)
    told = ended(database_url, *words, stdout=writing)
    os.close(writing)
    assert told.returncode == 1
    assert "Error" not in told.stderr


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_an_export_that_does_not_fit_is_told_and_leaves_nothing(database_url: str, tmp_path: Path) -> None:
    session_id = record_of(database_url, *["long " * 40_000] * 3)
    file = tmp_path / "export.jsonl"
    told = ended(database_url, "export", session_id, "--output", str(file), limit=limit_files)
    assert told.returncode == 1
    assert (
        told.stderr == f"mcp-chat-server: {file} cannot be written (File too large): make room, or name another file.\n"
    )
    assert not file.exists()


def test_a_configuration_that_does_not_fit_stays_as_it_was_alone(database_url: str, tmp_path: Path) -> None:
    servers: dict[str, Any] = {}
    file = tmp_path / "folder" / "config.json"
    file.parent.mkdir()
    for size in (150, 95):
        # The copy that is kept does not fit, or what is to be written.
        servers["mcpServers"] = {str(number): {"command": "x" * 1_000} for number in range(size)}
        file.write_text(json.dumps(servers))
        told = ended(database_url, "config", "--wrap", str(file), "--write", limit=limit_files)
        assert told.stderr.endswith(f"{file} cannot be written: File too large.\n")
        assert json.loads(file.read_text()) == servers
        left = [each for each in file.parent.iterdir() if each != file]
        assert all(each.read_text() == file.read_text() for each in left), left
        assert len(left) == (size < 100)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: str(number.name))
def test_an_export_that_is_asked_to_end_leaves_no_half_of_it(
    database_url: str, tmp_path: Path, number: signal.Signals
) -> None:
    session_id = record_of(database_url, *["long " * 10_000] * 100)
    file = tmp_path / "export.jsonl"
    code = 0
    # Where it was done before the signal came, or was just leaving, it is tried again.
    while code in (0, -number):
        file.unlink(missing_ok=True)
        process = subprocess.Popen(
            [sys.executable, str(COMMAND), "export", session_id, "--output", str(file)],
            env=environment_of(database_url),
            stderr=subprocess.DEVNULL,
            # Whoever started the tests may ignore it, with nohup for one.
            preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
        )
        while not file.exists():
            assert process.poll() is None
        # It has begun to write.
        process.send_signal(number)
        code = process.wait(WAIT_SECONDS)
    assert code == 128 + number
    assert not file.exists()


@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1, 2)], ids=str)
def test_streams_that_are_closed_are_taken_for_empty(
    database_url: str, tmp_path: Path, closed: tuple[int, ...]
) -> None:
    def close() -> None:
        for descriptor in closed:
            os.close(descriptor)

    session_id = record_of(database_url, "word")
    started = frame_of(tool_call(1, "start_session", title="unseen"))
    (tmp_path / "calls").write_bytes(started)
    for words, expected in (([], 0), (["export", session_id], 0), (["record", "--", *scripted(tmp_path / "log")], 7)):
        with (tmp_path / "calls").open("rb") as calls:
            told = ended(database_url, *words, stdin=calls, limit=close)
        assert told.returncode == expected
        assert told.stderr == ""
    assert (tmp_path / "log").read_bytes() == (b"" if 0 in closed else started)


@pytest.mark.parametrize("words", [[], ["record"], ["sessions"]], ids=repr)
def test_ctrl_c_at_the_very_beginning_is_no_failure(words: list[str]) -> None:
    pressed = (
        "import signal, sys, mcp_chat_server\n"
        "class Pressing:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.startswith('server'): signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Pressing())\n"
        f"sys.argv = ['mcp-chat-server', *{words!r}]\n"
        "mcp_chat_server.main()"
    )
    done = subprocess.run([sys.executable, "-c", pressed], cwd=COMMAND.parent, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")
