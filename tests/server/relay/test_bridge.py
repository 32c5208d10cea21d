"""`record --url`: a server that speaks Streamable HTTP, used over stdio in both eras, and each call recorded once."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.server.relay.support import HELLO, RECORD, call, piped, recorded_in
from tests.server.relay.test_sdk import DIRECT, OUTCOMES, SEEN, tell
from tests.server.support import ERAS

pytestmark = pytest.mark.anyio


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
