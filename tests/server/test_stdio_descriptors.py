"""What clients and shells hand the server as its stdin and stdout: pipes, sockets as Node's, files, terminals."""

import json
import os
import socket
import subprocess
import sys
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from tests.server.support import (
    COMMAND,
    WAIT_SECONDS,
    ServerProcess,
    environment_of,
    frame_of,
    started,
    tool_call,
    tools_of,
)

CALLS = [tool_call(number, "list_sessions") for number in range(5)]


class Client:
    """A server process, and our ends of its stdin and stdout."""

    def __init__(self, process: "subprocess.Popen[bytes]", to_server: BinaryIO, from_server: BinaryIO) -> None:
        self.process, self._to_server, self._from_server = process, to_server, from_server

    def send(self, *messages: dict[str, Any]) -> None:
        """Send messages."""
        self._to_server.write(b"".join(map(frame_of, messages)))
        self._to_server.flush()

    def receive(self) -> dict[str, Any]:
        """Wait for the next frame."""
        frame: dict[str, Any] = json.loads(self._from_server.readline())
        return frame

    def end_input(self) -> None:
        """Close the server's stdin."""
        self._to_server.close()

    def wait(self) -> int:
        """Wait for the process to end and return its exit code."""
        return self.process.wait(WAIT_SECONDS)


@contextmanager
def client_over(kind: str, database_url: str) -> Iterator[Client]:
    """Start the server as a client does that hands over ends of this kind."""
    if kind == "pipes":
        (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
    elif kind == "sockets":
        pairs = socket.socketpair(), socket.socketpair()
        (their_in, our_out), (our_in, their_out) = ([each.detach() for each in pair] for pair in pairs)
    else:
        ours, theirs = (each.detach() for each in socket.socketpair())
        their_in, their_out, our_out, our_in = theirs, os.dup(theirs), ours, os.dup(ours)
    process = start(database_url, their_in, their_out)
    # Kept open, as by a parent that shares it with others: so what is set for it shows here as well.
    shared = their_in, their_out
    with process, os.fdopen(our_out, "wb") as to_server, os.fdopen(our_in, "rb") as from_server:
        try:
            yield Client(process, to_server, from_server)
            assert all(map(os.get_blocking, shared))
        finally:
            process.kill()
            for descriptor in shared:
                os.close(descriptor)


@pytest.mark.parametrize("kind", ["pipes", "sockets"])
def test_a_client_is_answered_whatever_it_talks_through(database_url: str, kind: str) -> None:
    with client_over(kind, database_url) as client:
        client.send(tool_call("start", "start_session"))
        session = client.receive()["result"]["structuredContent"]["id"]
        long = "long " * 40_000
        client.send(tool_call("add", "add_messages", session_id=session, messages=[{"role": "user", "content": long}]))
        assert client.receive()["id"] == "add"
        client.send(*(tool_call(n, "get_session_history", session_id=session, entry_seq=1) for n in range(20)))
        answers = {answer["id"]: answer["result"] for answer in (client.receive() for _ in range(20))}
        assert answers.keys() == set(range(20))
        assert all(long.startswith(each["structuredContent"]["piece"]["content"]) for each in answers.values())
        client.send(CALLS[0])
        client.end_input()
        assert client.receive()["id"] == 0
        assert client.wait() == 0


def test_one_socket_serves_as_both(database_url: str) -> None:
    with client_over("one socket", database_url) as client:
        client.send(*CALLS)
        assert {client.receive()["id"] for _ in CALLS} == set(range(len(CALLS)))


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["pipes", "sockets"])
async def test_calls_are_served_while_their_client_does_not_read(database_url: str, kind: str) -> None:
    with started(database_url) as server:
        session = new_long_session(server)
    with client_over(kind, database_url) as client:
        # More answers than it holds, and then calls that change something.
        client.send(*(tool_call(f"read {n}", "get_session_history", session_id=session) for n in range(30)))
        client.send(*(tool_call(f"start {n}", "start_session", title=f"title {n}") for n in range(10)))
        async with tools_of(database_url) as tools:
            while len((await tools.answer("list_sessions"))["sessions"]) < 11:
                assert client.process.poll() is None
        answers = [client.receive() for _ in range(40)]
        assert {answer["id"] for answer in answers} == {f"read {n}" for n in range(30)} | {
            f"start {n}" for n in range(10)
        }
        assert not any(answer["result"]["isError"] for answer in answers)
        client.end_input()
        assert client.wait() == 0


@pytest.mark.parametrize("kind", ["pipes", "sockets"])
def test_a_client_that_has_gone_with_its_answers_unread_ends_the_server(database_url: str, kind: str) -> None:
    with started(database_url) as server:
        session = new_long_session(server)
    with client_over(kind, database_url) as client:
        client.send(tool_call("first", "list_sessions"))
        assert client.receive()["id"] == "first"
        client.send(*(tool_call(n, "get_session_history", session_id=session) for n in range(30)))
        client.end_input()
        assert client.wait() == 0


def test_calls_in_a_file_are_answered_into_a_file(database_url: str, tmp_path: Path) -> None:
    calls, answers = tmp_path / "calls", tmp_path / "answers"
    calls.write_bytes(b"".join(map(frame_of, CALLS)).rstrip())
    with calls.open("rb") as standard_in, answers.open("wb") as standard_out:
        assert start(database_url, standard_in, standard_out).wait(WAIT_SECONDS) == 0
    assert {json.loads(line)["id"] for line in answers.read_bytes().splitlines()} == set(range(len(CALLS)))


@pytest.mark.anyio
async def test_calls_are_carried_out_whose_answers_nobody_wants(database_url: str, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    calls.write_bytes(frame_of(tool_call(1, "start_session", title="unheard")))
    with calls.open("rb") as standard_in:
        assert start(database_url, standard_in, subprocess.DEVNULL).wait(WAIT_SECONDS) == 0
    async with tools_of(database_url) as tools:
        assert [each["title"] for each in (await tools.answer("list_sessions"))["sessions"]] == ["unheard"]


def test_a_named_pipe_whose_writer_has_gone_before_it_is_read_ends_the_server(
    database_url: str, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(tmp_path / "pipe", os.O_WRONLY)
    os.write(writing, b"".join(map(frame_of, CALLS)))
    os.close(writing)
    process = start(database_url, reading, subprocess.PIPE)
    os.close(reading)
    answers, _ = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0
    assert {json.loads(line)["id"] for line in answers.splitlines()} == set(range(len(CALLS)))


@pytest.mark.parametrize("blocks", [True, False], ids=["blocks", "does not block"])
def test_a_terminal_will_do_and_stays_as_it_is(database_url: str, blocks: bool) -> None:
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    # Whoever else has the terminal open shares this with the server, for as long as it lives and after.
    os.set_blocking(theirs, blocks)
    process = start(database_url, theirs, theirs)
    try:
        os.write(ours, frame_of(CALLS[0]))
        answer = b""
        while not answer.endswith(b"\n"):
            answer += os.read(ours, 65_536)
        assert json.loads(answer)["id"] == 0
        assert os.get_blocking(theirs) is blocks
        process.terminate()
        assert process.wait(WAIT_SECONDS) == 0
        assert os.get_blocking(theirs) is blocks
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


def start(database_url: str, standard_in: Any, standard_out: Any) -> "subprocess.Popen[bytes]":
    """Start the command."""
    return subprocess.Popen(
        [sys.executable, str(COMMAND)],
        stdin=standard_in,
        stdout=standard_out,
        stderr=subprocess.DEVNULL,
        env=environment_of(database_url),
    )


def new_long_session(server: ServerProcess) -> str:
    """Make a session whose history is as long as a result may be."""
    session = str(server.answer("start_session")["id"])
    messages = [{"role": "user", "content": "x" * 1_000}] * 30
    server.answer("add_messages", session_id=session, messages=messages)
    return session
