"""The tools that a model may ask for: those of the upstream servers, each under a name that every provider takes."""

import re
from dataclasses import dataclass
from typing import Any

from server.upstream.calls import Upstreams
from server.upstream.connection import NotReached
from server.upstream.outcome import storable, storable_text

_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")
_LONGEST_NAME = 64
_LONGEST_DESCRIPTION = 2_000


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool as the model knows it, and where it is."""

    name: str
    description: str | None
    input_schema: dict[str, Any]
    server: str
    tool: str


async def offered_to_model(upstreams: Upstreams | None) -> dict[str, OfferedTool]:
    """Return the tools by name; a server that cannot be reached offers none, and stands in nobody's way."""
    if upstreams is None:
        return {}
    listed = await upstreams.list_tools(sorted(upstreams.servers()))
    tools = [(server, tool) for server, given in listed.items() if not isinstance(given, NotReached) for tool in given]
    own_names = [tool.name for _, tool in tools]
    offered: dict[str, OfferedTool] = {}
    for server, tool in tools:
        # Its own name, which is what the record has, unless another tool has it too.
        plain = tool.name if own_names.count(tool.name) == 1 else f"{server}__{tool.name}"
        name = _free(_NOT_IN_NAMES.sub("_", plain)[:_LONGEST_NAME], offered)
        description = None if tool.description is None else storable_text(tool.description)[:_LONGEST_DESCRIPTION]
        schema = storable(tool.input_schema)
        if isinstance(schema, dict):
            offered[name] = OfferedTool(name, description, schema, server, tool.name)
    return offered


def _free(name: str, taken: dict[str, OfferedTool]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name[: _LONGEST_NAME - 4]}_{number}"
    return free
