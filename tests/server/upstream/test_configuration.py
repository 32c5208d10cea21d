"""The configuration file: the shape that clients use, variables filled in, and refusals that show no value."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from models.errors import Invalid
from server.command_line.main import build
from server.upstream.configuration import UpstreamServer, read_configuration
from server.upstream.secrets import Secrets
from tests.server.upstream.support import KEY, over_stdio, write_configuration


def test_servers_are_read_and_disabled_ones_are_not(tmp_path: Path) -> None:
    path = write_configuration(
        tmp_path,
        files={"command": "npx", "args": ["-y", "x"], "env": {"A": "b"}, "cwd": "/", "timeout": 5, "tools": ["read"]},
        web={"type": "http", "url": "https://example.com/mcp", "headers": {"X": "y"}},
        off={"command": "x", "disabled": True},
    )
    servers = read_configuration(path)
    assert list(servers) == ["files", "web"]
    assert servers["files"].allows("read")
    assert not servers["files"].allows("write")
    assert servers["web"].allows("anything")
    assert servers["files"].timeout == 5


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({}, "command"),
        ({"command": "x", "url": "https://example.com"}, "url"),
        ({"command": "x", "alowedTools": [KEY]}, "alowedTools"),
        ({"command": "x", "timeout": 60_000}, "timeout"),
        ({"command": "x", "env": {"KEY": 5}}, "env"),
        ({"command": ["x", KEY]}, "command"),
        ({"command": "x", "tools": KEY}, "tools"),
    ],
)
def test_a_field_that_is_not_as_it_must_be_is_named_and_no_value_shown(
    tmp_path: Path, entry: dict[str, Any], named: str
) -> None:
    with pytest.raises(Invalid) as caught:
        read_configuration(write_configuration(tmp_path, one=entry))
    assert named in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"mcpServers": []}', '{"servers": {}}', "\xff"])
def test_a_file_of_another_shape_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "servers.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(Invalid, match=str(path)):
        read_configuration(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"cannot be read.*nowhere\.json"):
        read_configuration(tmp_path / "nowhere.json")


def test_variables_are_filled_in_everywhere_and_their_values_are_secrets() -> None:
    server = UpstreamServer(
        command="${HOME}/bin/run",
        args=["--token=${TOKEN}", "${ABSENT:-otherwise}"],
        env={"A": "x${TOKEN}y"},
        tools=["${TOKEN}"],
    )
    filled, secrets = server.filled({"HOME": "/home/somebody", "TOKEN": KEY})
    assert (filled.command, filled.args) == ("/home/somebody/bin/run", [f"--token={KEY}", "otherwise"])
    assert filled.env == {"A": f"x{KEY}y"}
    assert filled.tools == ["${TOKEN}"]
    assert secrets == {KEY}


def test_what_stands_in_a_header_is_a_secret_with_and_without_its_scheme() -> None:
    server = UpstreamServer(
        url="https://example.com", headers={"Authorization": "Bearer ${TOKEN}", "X-Key": "plain-key"}
    )
    _, secrets = server.filled({"TOKEN": KEY})
    assert {KEY, "plain-key"} <= secrets
    assert Secrets(secrets).hide({f"a {KEY}": [f"Bearer {KEY}", 5, None]}) == {"a [hidden]": ["[hidden]", 5, None]}


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(Invalid, match="MISSING_TOKEN"):
        UpstreamServer(command="x", env={"A": "${MISSING_TOKEN}"}).filled({})


def test_the_command_says_how_to_set_servers_up_and_shows_those_that_are(tmp_path: Path) -> None:
    told = CliRunner().invoke(build(), ["upstream"], env={"MCP_CHAT_UPSTREAM_FILE": None})
    assert told.exit_code == 0
    assert "MCP_CHAT_UPSTREAM_FILE=" in told.stdout
    path = write_configuration(
        tmp_path, helper=over_stdio(tmp_path, tools=["add"]), absent={"command": "no-such-command"}
    )
    shown = CliRunner().invoke(build(), ["upstream"], env={"MCP_CHAT_UPSTREAM_FILE": str(path)})
    assert shown.exit_code == 1
    assert "helper: add\n" in shown.stdout
    assert "absent: could not be reached: No such file or directory" in shown.stdout
