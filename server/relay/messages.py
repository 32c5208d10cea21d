"""What the bridge reads in messages, and the headers that it makes of them."""

import json
from typing import Any


class ParameterHeaders:
    """The headers in which the stateless protocol repeats a message's method, name and marked arguments."""

    def __init__(self) -> None:
        self._maps: dict[str, Any] = {}

    def learn(self, tools: Any) -> None:
        """Take note of which arguments of which tools are marked."""
        from mcp.shared.inbound import find_invalid_x_mcp_header, x_mcp_header_map

        for tool in map(as_dict, tools if isinstance(tools, list) else []):
            schema = tool.get("inputSchema")
            if find_invalid_x_mcp_header(schema) is None:
                self._maps[str(tool.get("name"))] = x_mcp_header_map(schema)

    def of(self, message: dict[str, Any]) -> dict[str, str]:
        """Return the headers of a message."""
        from mcp.shared.inbound import (
            MCP_METHOD_HEADER,
            MCP_NAME_HEADER,
            NAME_BEARING_METHODS,
            encode_header_value,
            mcp_param_headers,
        )

        method, params = str(message.get("method")), params_of(message)
        headers = {MCP_METHOD_HEADER: encode_header_value(method)}
        name = params.get(NAME_BEARING_METHODS.get(method, ""))
        if isinstance(name, str):
            headers[MCP_NAME_HEADER] = encode_header_value(name)
            if method == "tools/call" and name in self._maps:
                headers |= mcp_param_headers(self._maps[name], as_dict(params.get("arguments")))
        return headers


def is_message(body: bytes, request_id: Any) -> bool:
    """Tell whether bytes are the answer to a request, or several messages."""
    try:
        message = json.loads(body)
    except ValueError:
        return False
    return isinstance(message, list) or (as_dict(message).get("id") == request_id and "jsonrpc" in message)


def is_answer(data: bytes, request_id: Any) -> bool:
    """Tell whether bytes are the answer to a request."""
    try:
        message = as_dict(json.loads(data))
    except ValueError:
        return False
    return "method" not in message and message.get("id") == request_id


def params_of(message: dict[str, Any]) -> dict[str, Any]:
    """Return the params of a message, none where they are no object."""
    return as_dict(message.get("params"))


def as_dict(value: Any) -> dict[str, Any]:
    """Return an object, an empty one where the value is none."""
    return value if isinstance(value, dict) else {}
