"""`record --url`: a server that speaks Streamable HTTP, used over stdio in both eras, and each call recorded once."""

import json
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from models.errors import Invalid
from server.relay.address import check_headers
from tests.server.relay.support import HELLO, RECORD, call, piped, recorded_in
from tests.server.relay.test_sdk import DIRECT, OUTCOMES, SEEN, tell
from tests.server.support import ERAS, MODERN, WAIT_SECONDS

pytestmark = pytest.mark.anyio

CUTS = 8
"""So often a stream ends after an event: more than it is tried again where nothing comes."""


@contextmanager
def listening(*words: str) -> Iterator[str]:
    """Start the server of the SDK on a free port, and return its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [*DIRECT, str(port), *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    try:
        for line in server.stderr:
            if "running on" in line:
                break
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        server.kill()
        server.wait()
        server.stderr.close()


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_over_stdio_sees_what_it_would_see_of_a_stdio_server(era: str, database_url: str) -> None:
    with listening() as url:
        seen = await tell([*RECORD, "--wait", "60", "--url", url], database_url, era)
    assert seen[1:] == SEEN
    assert sorted((await recorded_in(database_url)).outcomes()) == OUTCOMES


async def test_answers_that_are_no_streams_are_lines_too(database_url: str) -> None:
    with listening("json") as url, piped([*RECORD, "--wait", "60", "--url", url], database_url) as pipes:
        handshake = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        pipes.send({**HELLO, "params": handshake})
        assert pipes.answer()["result"]["serverInfo"]["name"] == "sdk tools"
        pipes.send({"jsonrpc": "2.0", "method": "notifications/initialized"}, call(1, "add", a=1, b=2))
        assert pipes.answer()["result"]["structuredContent"] == {"result": 3}
        pipes.end_input()
        assert pipes.wait() == 0
    assert (await recorded_in(database_url)).outcomes() == [("add", "success")]


async def test_an_address_where_nobody_answers_is_an_error_of_each_call(database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/mcp"
    with piped([*RECORD, "--wait", "60", "--url", url], database_url) as pipes:
        assert "cannot be reached" in pipes.call(1, "add")["error"]["message"]
        pipes.end_input()
        assert pipes.wait() == 0
    assert (await recorded_in(database_url)).outcomes() == [("add", "error")]


class OddServer(ThreadingHTTPServer):
    """Listens on a free port until it is stopped."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}/mcp"
        self.is_asked, self.is_stopping = threading.Event(), threading.Event()


class Odd(BaseHTTPRequestHandler):
    """Answers as no server should: a session's id that cannot be sent back, a handshake that never ends."""

    protocol_version = "HTTP/1.1"
    server: "OddServer"

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if message["method"] == "initialize":
            self.server.is_asked.set()
            self.server.is_stopping.wait()
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {"content": []}}).encode()
        self.send_response(200)
        self.send_header("mcp-session-id", "\xe9")
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Cut(Odd):
    """Ends each stream after one event: the answer is the last of so many."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._send_event(1)

    def do_GET(self) -> None:
        self._send_event(int(self.headers["last-event-id"]) + 1)

    def _send_event(self, number: int) -> None:
        progress = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": number}}
        message = {"jsonrpc": "2.0", "id": 1, "result": {"content": []}} if number == CUTS else progress
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(f"id: {number}\ndata: {json.dumps(message)}\n\n".encode())


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[OddServer]:
    """Start a server with this handler, and stop it at the end."""
    with OddServer(handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.is_stopping.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def odd() -> Iterator[OddServer]:
    with serving(Odd) as server:
        yield server


async def test_a_stream_is_taken_up_again_for_as_long_as_something_comes(database_url: str) -> None:
    with serving(Cut) as server, piped([*RECORD, "--wait", "60", "--url", server.url], database_url) as pipes:
        pipes.send(call(1, "add"))
        seen = [pipes.answer() for _ in range(CUTS)]
        assert [each["params"]["progress"] for each in seen[:-1]] == list(range(1, CUTS))
        assert seen[-1] == {"jsonrpc": "2.0", "id": 1, "result": {"content": []}}
        pipes.end_input()
        assert pipes.wait() == 0
    assert (await recorded_in(database_url)).outcomes() == [("add", "success")]


NO_IDS: list[Any] = [[], {}, None, True, 1.5]


async def test_no_message_of_a_client_and_no_header_of_a_server_ends_it(odd: OddServer, database_url: str) -> None:
    asked = call(1, "add")
    asked["params"]["_meta"] = MODERN
    with piped([*RECORD, "--wait", "60", "--url", odd.url], database_url) as pipes:
        pipes.send(asked)
        assert pipes.answer()["id"] == 1
        for request_id in NO_IDS:
            cancelled = {"method": "notifications/cancelled", "params": {"requestId": request_id}}
            pipes.send(asked, cancelled)
            assert pipes.answer() == {"jsonrpc": "2.0", "id": 1, "result": {"content": []}}
        pipes.end_input()
        assert pipes.wait() == 0
        assert pipes.errors() == ""
    assert (await recorded_in(database_url)).outcomes() == [("add", "success")] * (len(NO_IDS) + 1)


@pytest.mark.parametrize("ending", [None, signal.SIGINT, signal.SIGTERM])
def test_a_handshake_that_is_never_answered_keeps_nobody(
    odd: OddServer, database_url: str, ending: signal.Signals | None
) -> None:
    with piped([*RECORD, "--url", odd.url], database_url) as pipes:
        pipes.send(HELLO)
        if ending is None:
            pipes.end_input()
        else:
            assert odd.is_asked.wait(WAIT_SECONDS)
            pipes.process.send_signal(ending)
        assert pipes.wait() == (0 if ending is None else 128 + ending)
        assert pipes.errors() == ""


@pytest.mark.parametrize("url", ["http://[::1", "ftp://localhost/", "http://", "here", "\udcff"], ids=repr)
def test_an_address_that_cannot_be_one_is_refused(url: str, database_url: str) -> None:
    with piped([*RECORD, "--url", url], database_url) as pipes:
        assert pipes.wait() == 2
        assert pipes.errors() == "mcp-chat-server: --url is no address: write it like https://example.com/mcp.\n"


@pytest.mark.parametrize("headers", [{"x": "\xe9"}, {"x": "a\nb"}, {"a b": "x"}, {"": "x"}, {"a:": "x"}], ids=repr)
def test_headers_that_cannot_be_sent_are_refused_and_not_repeated(headers: dict[str, str]) -> None:
    with pytest.raises(Invalid) as refused:
        check_headers(headers)
    assert str(refused.value) == "MCP_CHAT_RECORD_HEADERS: names and values are printable ASCII, names without spaces."
