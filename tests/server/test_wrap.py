"""Wrapping a client's configuration: shown first, written with a backup, the same when done twice, and undone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.command_line.wrap import unwrap, wrap
from tests.server.relay.support import recorded_in, scripted
from tests.server.support import COMMAND, environment_of
from tests.server.test_command_line import invoke, run

OURS = ["/opt/chat/bin/mcp-chat-server"]
WORDS = st.text(st.characters(codec="utf-8"), max_size=8)
STDIO = st.fixed_dictionaries(
    {"command": WORDS.filter(bool), "args": st.lists(WORDS | st.sampled_from(["--", "record", "--url"]), max_size=4)},
    optional={
        "env": st.dictionaries(st.sampled_from(["TOKEN", "PATH"]), WORDS, min_size=1),
        "type": st.just("stdio"),
        "cwd": WORDS,
        "disabled": st.booleans(),
    },
)
HTTP = st.fixed_dictionaries(
    {"url": st.just("https://example.org/mcp")},
    optional={"type": st.just("http"), "headers": st.dictionaries(WORDS, WORDS, min_size=1), "disabled": st.booleans()},
)
ODD = st.sampled_from(
    [None, 5, {}, {"command": 7}, {"url": "http://x/sse", "type": "sse"}, {"command": "a", "args": "b"}]
)
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "mcpServers": st.dictionaries(WORDS, STDIO | HTTP | ODD, max_size=4),
        "servers": st.dictionaries(WORDS, STDIO | HTTP, max_size=2),
        "mcp": st.fixed_dictionaries({"servers": st.dictionaries(WORDS, STDIO, max_size=2)}),
        "projects": st.dictionaries(
            WORDS, st.fixed_dictionaries({"mcpServers": st.dictionaries(WORDS, STDIO)}), max_size=2
        ),
        "theme": st.just("dark"),
    },
)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(DOCUMENTS, st.sampled_from([OURS, ["/usr/bin/python3", "/opt/chat/mcp_chat_server.py"]]), st.booleans())
def test_wrapping_twice_changes_nothing_more_and_unwrapping_restores(
    document: Any, command: list[str], with_settings: bool
) -> None:
    given = {"MCP_CHAT_DATABASE_URL": "sqlite+aiosqlite:////x/chat.db"} if with_settings else {}
    wrapped = wrap(document, command, given)
    assert wrap(wrapped, command, given) == wrapped
    assert wrap(wrapped, OURS, {}) == wrapped
    assert unwrap(wrapped) == document
    assert unwrap(document) == document


@pytest.mark.parametrize(
    "words",
    [[], ["--"], ["--url"], ["--url=http://localhost/"], ["--title", "x"], ["--url", "http://localhost/"]],
    ids=str,
)
def test_what_somebody_has_written_otherwise_is_not_unwrapped(words: list[str]) -> None:
    entry = {"command": "mcp-chat-server", "args": ["record", *words], "env": {"MCP_CHAT_RECORD_HEADERS": "{"}}
    document = {"mcpServers": {"odd": entry}}
    assert unwrap(document) == document


def test_our_own_server_is_not_wrapped() -> None:
    document = {
        "mcpServers": {
            "chat": {"command": "/opt/chat/bin/mcp-chat-server", "args": []},
            "again": {"command": "C:\\chat\\mcp-chat-server.exe"},
            "source": {"command": "python", "args": ["/src/mcp_chat_server.py"]},
        }
    }
    assert wrap(document, OURS, {}) == document


def test_a_server_over_http_is_reached_through_us() -> None:
    headers = {"Authorization": "Bearer abc"}
    document = {"servers": {"web": {"type": "http", "url": "https://example.org/mcp", "headers": headers}}}
    (entry,) = wrap(document, OURS, {})["servers"].values()
    assert entry == {
        "type": "stdio",
        "command": OURS[0],
        "args": ["record", "--url", "https://example.org/mcp"],
        "env": {"MCP_CHAT_RECORD_HEADERS": json.dumps(headers)},
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "claude.json"
    server = {"command": sys.executable, "args": scripted(tmp_path / "log")[1:], "env": {"KEY": "é"}}
    path.write_text(json.dumps({"theme": "dark", "mcpServers": {"files": server}}, indent=4, ensure_ascii=False) + "\n")
    path.chmod(0o600)
    return path


def test_the_difference_is_shown_and_nothing_written_until_told(file: Path, database_url: str) -> None:
    environment = {"MCP_CHAT_DATABASE_URL": database_url}
    before = file.read_bytes()
    shown = run(environment, "config", "--wrap", str(file))
    assert '+                "record",' in shown
    assert "dark" not in [line.strip("+- ") for line in shown.splitlines() if line[:1] in "+-"]
    assert (file.read_bytes(), len(list(file.parent.glob("claude*")))) == (before, 1)

    run(environment, "config", "--wrap", str(file), "--write")
    assert file.with_name("claude.json.backup").read_bytes() == before
    assert oct(file.stat().st_mode)[-3:] == "600"
    assert run(environment, "config", "--wrap", str(file), "--write") == ""
    assert len(list(file.parent.glob("claude*"))) == 2

    run(environment, "config", "--unwrap", str(file), "--write")
    assert file.read_bytes() == before
    assert len(list(file.parent.glob("claude*"))) == 3


@pytest.mark.anyio
async def test_what_is_written_records(file: Path, database_url: str) -> None:
    run({"MCP_CHAT_DATABASE_URL": database_url, "MCP_CHAT_USER": "ada"}, "config", "--wrap", str(file), "--write")
    call_it(file)
    assert (await recorded_in(database_url)).outcomes() == [("echo", "success")]


def call_it(file: Path) -> None:
    """Start a server as a client does that reads the file, and call a tool."""
    entry = json.loads(file.read_text())["mcpServers"]["files"]
    call = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}\n'
    words = [entry["command"], *entry["args"]]
    words.insert(words.index("record") + 1, "--wait=60")
    done = subprocess.run(words, input=call, capture_output=True, check=False, env=environment_of(None, entry["env"]))
    assert done.returncode == 7, done.stderr
    assert os.path.basename(COMMAND) in done.args[1] or "mcp-chat-server" in done.args[0]  # noqa: PTH119


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("// a comment\n{'theme': 1}", "is not JSON (line 2)"),
        ('{"theme": 1}', "names no servers"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "mcp.json"
    if text is not None:
        path.write_text(text)
    result = invoke({}, "config", "--wrap", str(path))
    assert said in str(result.exception)


@pytest.mark.parametrize("words", [[], ["cursor", "--wrap", "x"], ["--wrap", "x", "--unwrap", "x"]])
def test_one_thing_is_asked_of_config_at_a_time(words: list[str]) -> None:
    result = invoke({}, "config", *words)
    assert result.exit_code == 2
