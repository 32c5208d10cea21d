"""The configuration file: upstream servers in the shape that clients use, and which of their tools may be called.

`${NAME}` stands for a variable of the environment, `${NAME:-text}` for it or else the text, so that keys need not stand
in the file. A field that we do not know is refused: an allow list that is misspelled must not allow everything.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from models.errors import Invalid
from models.inputs import Name
from server.errors import explain_arguments

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class UpstreamServer(BaseModel):
    """A server: a command or an address, the tools that may be called, and how many seconds a call may take."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    type: Literal["stdio", "http", "streamable-http", "streamableHttp"] | None = None
    command: str | None = None
    args: list[str] = []
    env: dict[str, str] = {}
    cwd: str | None = None
    url: str | None = None
    headers: dict[str, str] = {}
    tools: list[str] = ["*"]
    disabled: bool = False
    timeout: Annotated[float, Field(gt=0, le=3_600)] = 60.0

    @model_validator(mode="after")
    def _is_reached_in_one_way(self) -> "UpstreamServer":
        if (self.command is None) == (self.url is None):
            raise ValueError("give a command to start or a url, and not both")
        return self

    def allows(self, tool: str) -> bool:
        """Tell whether a tool of this name may be called."""
        return "*" in self.tools or tool in self.tools

    def filled(self, environment: Mapping[str, str] = os.environ) -> tuple["UpstreamServer", frozenset[str]]:
        """Return the server with its variables filled in, and the texts that may be keys; raises Invalid."""
        found: dict[str, str] = {}
        fields = _filled(self.model_dump(exclude={"tools"}), environment, found)
        secrets = {value for name, value in found.items() if name not in _PLAIN_VARIABLES}
        secrets |= {value for value in fields["headers"].values() if "${" not in value}
        secrets |= {word for value in secrets for word in value.split()}
        return UpstreamServer(**fields, tools=self.tools), frozenset(each for each in secrets if len(each) >= _SHORTEST)


_PLAIN_VARIABLES = frozenset({"HOME", "USER", "LOGNAME", "PATH", "PWD", "SHELL", "TMPDIR", "LANG", "TERM"})
"""Variables whose values are no keys, and may stand in a result."""

_SHORTEST = 8
_SERVERS: TypeAdapter[dict[str, UpstreamServer]] = TypeAdapter(dict[Name, UpstreamServer])


def read_configuration(path: Path) -> dict[str, UpstreamServer]:
    """Read the servers that are not disabled; raises Invalid, naming the file or the field and showing no value."""
    from json import loads

    try:
        content = loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Invalid(f"The file of upstream servers cannot be read ({error.strerror}): {path}") from None
    except ValueError:
        raise Invalid(f"The file of upstream servers is not JSON: {path}") from None
    servers = content.get("mcpServers") if isinstance(content, dict) else None
    if not isinstance(servers, dict):
        raise Invalid(f'The file of upstream servers has no "mcpServers" with an entry for each server: {path}')
    try:
        read = _SERVERS.validate_python(servers)
    except ValidationError as error:
        problems = explain_arguments(error, _SERVERS.json_schema())
        raise Invalid(f"The file of upstream servers is not as it must be: {problems}") from None
    return {name: server for name, server in read.items() if not server.disabled}


def _filled(value: Any, environment: Mapping[str, str], found: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _filled(inner, environment, found) for name, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, environment, found) for inner in value]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        name, otherwise = match.groups()
        given = environment.get(name, otherwise)
        if given is None:
            raise Invalid(f"The environment variable {name}, which the configuration names, is not set.")
        if name in environment:
            found[name] = given
        return given

    return _VARIABLE.sub(variable, value)
