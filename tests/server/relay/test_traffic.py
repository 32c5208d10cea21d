"""The traffic: byte for byte the same with and without the relay, and ends, exit codes and signals pass through."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.relay.pipes import Direction
from tests.server.relay.support import HELLO, Pipes, call, piped, relayed, scripted
from tests.server.support import WAIT_SECONDS, environment_of

CHUNKS = st.lists(
    st.binary(max_size=200)
    | st.sampled_from([b"\n", b"\r\n", b"{", b'{"jsonrpc":"2.0","id":1,"method":"tools/call"', b"\xff\xfe", b"\0"]),
    max_size=20,
)
ECHO = "import os\nwhile data := os.read(0, 65536):\n  while data: data = data[os.write(1, data):]\n"


def converse(pipes: Pipes) -> tuple[bytes, int]:
    """Tell a server a story in pieces that tear lines apart; return all that it wrote, and how it ended."""
    story = [
        b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}\r\n\r\n',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","argum',
        b'ents":{"text":"\xc3\xa9 and bad: \\ud800"}}}\n{"jsonrpc":"2.0","id":"1","method":"tools/call","params":',
        b'{"name":"fail"}}\n{"method":"notifications/cancelled","params":{"requestId":9}}\n',
        b'{"id":2,"jsonrpc":"2.0","method":"tools/call","params":{"name":"echo","arguments":"' + b"x" * 5_000_000,
        b'"}}\n{"id":3,"method":"tools/call","params":{"name":"answer","arguments":{"ids":[3, "3", 4.5, null]}}}\n',
        b'{"id":4,"method":"resources/read","params":{}}\n   {"an unfinished line',
    ]
    written: list[bytes] = []
    reader = threading.Thread(target=lambda: written.append(pipes.rest()))
    reader.start()
    for piece in story:
        pipes.send_bytes(piece)
    pipes.end_input()
    code = pipes.wait()
    reader.join()
    return written[0], code


def test_both_sides_see_the_same_bytes_with_and_without_the_relay(tmp_path: Path, database_url: str) -> None:
    with piped(scripted(tmp_path / "without"), database_url) as pipes:
        without = converse(pipes)
    with piped(relayed(*scripted(tmp_path / "with")), database_url) as pipes:
        assert converse(pipes) == without
        assert pipes.errors() == ""
    assert without[1] == 7
    assert len(without[0]) > 5_000_000
    assert without[0].endswith(b"no line\xff")
    assert (tmp_path / "with").read_bytes() == (tmp_path / "without").read_bytes()


def test_any_bytes_pass_as_they_are(database_url: str) -> None:
    with piped(relayed(sys.executable, "-S", "-c", ECHO), database_url) as pipes:

        @settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(CHUNKS)
        def check(chunks: list[bytes]) -> None:
            for chunk in chunks:
                pipes.send_bytes(chunk)
            assert pipes.read(sum(map(len, chunks))) == b"".join(chunks)

        check()
        pipes.end_input()
        assert (pipes.rest(), pipes.wait(), pipes.errors()) == (b"", 0, "")


@settings(deadline=None, max_examples=100, derandomize=True)
@given(CHUNKS)
def test_a_copy_is_taken_of_every_byte_before_it_goes_on(chunks: list[bytes]) -> None:
    source, into = os.pipe()
    out, target = os.pipe()
    seen: list[bytes] = []
    direction = Direction(source, target, seen.append)
    for chunk in chunks:
        os.write(into, chunk)
    os.close(into)
    passed = b""
    while data := os.read(out, 1_000):
        passed += data
        assert b"".join(seen).startswith(passed)
    direction.finish()
    os.close(out)
    assert passed == b"".join(seen) == b"".join(chunks)


def test_what_does_not_block_is_waited_for_and_stays_as_it_is(tmp_path: Path, database_url: str) -> None:
    (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
    theirs = their_in, their_out
    for descriptor in theirs:
        os.set_blocking(descriptor, False)
    command, environment = relayed(*scripted(tmp_path / "log")), environment_of(database_url)
    process = subprocess.Popen(command, stdin=their_in, stdout=their_out, env=environment)
    with process, os.fdopen(our_out, "wb") as to_relay, os.fdopen(our_in, "rb") as from_relay:
        for number in range(2):
            to_relay.write(json.dumps(call(number, "echo", long="x" * 300_000)).encode() + b"\n")
            to_relay.flush()
            assert json.loads(from_relay.readline())["id"] == number
        assert not any(map(os.get_blocking, theirs))
        to_relay.close()
        assert process.wait(WAIT_SECONDS) == 7
        assert not any(map(os.get_blocking, theirs))
        for descriptor in theirs:
            os.close(descriptor)


@pytest.mark.parametrize(
    ("code", "expected"), [("raise SystemExit(0)", 0), ("raise SystemExit(42)", 42), ("os.kill(os.getpid(), 9)", 137)]
)
def test_the_servers_exit_is_ours(code: str, expected: int, database_url: str) -> None:
    with piped(relayed(sys.executable, "-S", "-c", f"import os; os.write(1, b'bye'); {code}"), database_url) as pipes:
        assert pipes.rest() == b"bye"
        assert pipes.wait() == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_the_server_and_its_answer_to_them_is_ours(number: signal.Signals, database_url: str) -> None:
    code = (
        f"import os, signal\nsignal.signal({int(number)}, lambda *_: os._exit(50))\n"
        "os.write(1, b'ready')\nwhile True: signal.pause()"
    )
    with piped(relayed(sys.executable, "-S", "-c", code), database_url) as pipes:
        assert pipes.read(5) == b"ready"
        pipes.process.send_signal(number)
        assert pipes.wait() == 50


def test_a_signal_that_ends_the_server_is_told_as_a_shell_tells_it(database_url: str) -> None:
    code = "import os, signal; signal.signal(15, signal.SIG_DFL); os.write(1, b'ready'); os.read(0, 1)"
    with piped(relayed(sys.executable, "-S", "-c", code), database_url) as pipes:
        assert pipes.read(5) == b"ready"
        pipes.process.terminate()
        assert pipes.wait() == 128 + 15


def test_a_command_that_is_not_there_is_said_as_a_shell_says_it(tmp_path: Path, database_url: str) -> None:
    text = tmp_path / "text"
    text.write_text("no program")
    for command, code in ((str(tmp_path / "absent"), 127), (str(text), 126)):
        with piped(relayed(command), database_url) as pipes:
            assert pipes.wait() == code
            assert "does not start" in pipes.errors()


def test_a_server_that_closes_its_output_is_still_spoken_to(tmp_path: Path, database_url: str) -> None:
    code = f"import os; os.write(1, b'x'); os.close(1); open({str(tmp_path / 'heard')!r}, 'wb').write(os.read(0, 9))"
    with piped(relayed(sys.executable, "-S", "-c", code), database_url) as pipes:
        assert pipes.rest() == b"x"
        pipes.send_bytes(b"all right")
        assert pipes.wait() == 0
    assert (tmp_path / "heard").read_bytes() == b"all right"


def test_a_client_that_no_longer_reads_is_told_to_the_server(database_url: str) -> None:
    code = (
        "import os, signal\nos.read(0, 1)\n"
        "try:\n  while True: os.write(1, b'x' * 1000)\nexcept BrokenPipeError: os._exit(33)"
    )
    with piped(relayed(sys.executable, "-S", "-c", code), database_url) as pipes:
        assert pipes.process.stdout is not None
        pipes.process.stdout.close()
        pipes.send_bytes(b"go")
        assert pipes.wait() == 33


def test_what_a_server_leaves_behind_does_not_keep_us(database_url: str) -> None:
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', 'import os; os.read(0, 1)'])"
    with piped(relayed(sys.executable, "-S", "-c", code + "; print('done')"), database_url) as pipes:
        assert pipes.wait() == 0
        assert pipes.read(5) == b"done\n"


def test_the_servers_stderr_is_ours(database_url: str) -> None:
    with piped(relayed(sys.executable, "-S", "-c", "import os; os.write(2, b'a word\\n')"), database_url) as pipes:
        assert pipes.wait() == 0
        assert pipes.errors() == "a word\n"


def test_the_server_is_started_before_anything_large_is_imported(database_url: str) -> None:
    code = (
        "import json, sys\n"
        "import server.relay.relay\n"
        "print([name for name in ('typer', 'pydantic', 'mcp', 'sqlalchemy', 'asyncio', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_listing_of_a_server_that_is_not_called_opens_no_database(tmp_path: Path, new_file_url: str) -> None:
    with piped(relayed(*scripted(tmp_path / "log")), new_file_url) as pipes:
        pipes.send(HELLO, {"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        assert pipes.answer()["id"] == 0
        pipes.end_input()
        assert pipes.wait() == 7
    assert not list(tmp_path.glob("*.db*"))


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--sesion", "x", "--", "true"],
        ["--url", "http://x", "--", "true"],
        *(["--wait", seconds, "--", "true"] for seconds in ("-1", "nan", "inf", "1e300")),
        *(["--title", title, "--", "true"] for title in ("", "\udcff")),
        ["--session", "", "--", "true"],
    ],
    ids=repr,
)
def test_wrong_options_are_refused_before_anything_starts(options: list[str], database_url: str) -> None:
    command = relayed()[:3] + options
    with piped(command, database_url) as pipes:
        assert pipes.wait() == 2
        assert "usage: mcp-chat-server record" in pipes.errors()
