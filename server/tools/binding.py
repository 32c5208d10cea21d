"""From a typed function to an MCP tool: its schemas, its arguments checked, its refusals told.

A tool is an async function whose first parameter is the caller, whose others are its arguments, and whose docstring is
the description that models read. Differences from the SDK's own binding, each of them promised: unknown arguments are
refused by name, argument errors are short and show no value, and results are made by us.
"""

import inspect
import json
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from typing import Any, get_args

import mcp_types as types
from pydantic import BaseModel, ConfigDict, TypeAdapter, create_model

from server.errors import explain
from server.record import CallerSource, as_caller
from server.results import Reply


class Tool:
    """A tool: how it is listed, and how it is called; `needs` is the setting without which there is none."""

    def __init__(
        self,
        function: Callable[..., Awaitable[Reply[Any]]],
        *,
        title: str,
        read_only: bool = False,
        destructive: bool = False,
        idempotent: bool = False,
        open_world: bool = False,
        needs: str | None = None,
    ) -> None:
        self.name = function.__name__
        self._function = function
        self._title = title
        self.needs = needs
        self._annotations = types.ToolAnnotations(
            title=title,
            read_only_hint=read_only,
            destructive_hint=destructive,
            idempotent_hint=idempotent or read_only,
            open_world_hint=open_world,
        )

    def listed(self) -> types.Tool:
        """Return how the tool is described to clients."""
        return types.Tool(
            name=self.name,
            title=self._title,
            description=inspect.getdoc(self._function),
            input_schema=self.input_schema,
            output_schema=self.output_schema,
            annotations=self._annotations,
        )

    async def answer(self, caller: CallerSource, arguments: dict[str, Any]) -> Reply[Any]:
        """Check the arguments and call the function; raises ValidationError, and whatever the function raises."""
        checked = self._arguments.model_validate(self._unwrapped(arguments))
        given = {name: getattr(checked, name) for name in self._arguments.model_fields}
        return await as_caller(caller, lambda who: self._function(who, **given))

    async def call(self, caller: CallerSource, arguments: dict[str, Any]) -> dict[str, Any]:
        """Check the arguments, call the function, and return its reply or its refusal, as it stands on the wire."""
        try:
            reply = await self.answer(caller, arguments)
        except Exception as error:
            return _result((explain(error, self.input_schema),), is_error=True)
        return _result(reply.texts, is_error=reply.is_error) | {"structuredContent": reply.structured}

    @cached_property
    def input_schema(self) -> dict[str, Any]:
        """JSON schema of the arguments."""
        schema: dict[str, Any] = _lean(self._arguments.model_json_schema())
        return schema

    @cached_property
    def output_schema(self) -> dict[str, Any]:
        """JSON schema of the structured result; what may be null is left out of a result where it is."""
        (shape,) = get_args(inspect.signature(self._function).return_annotation)
        schema: dict[str, Any] = _with_optional_nulls(_lean(TypeAdapter(shape).json_schema()))
        return schema

    @cached_property
    def _arguments(self) -> type[BaseModel]:
        _, *parameters = inspect.signature(self._function).parameters.values()
        fields: dict[str, Any] = {
            each.name: (each.annotation, ... if each.default is each.empty else each.default) for each in parameters
        }
        return create_model(self.name, __config__=ConfigDict(extra="forbid"), **fields)

    @cached_property
    def _takes_json(self) -> frozenset[str]:
        properties: dict[str, Any] = self.input_schema.get("properties", {})
        return frozenset(name for name, schema in properties.items() if _kinds(schema) <= {"array", "object", "null"})

    def _unwrapped(self, arguments: dict[str, Any]) -> dict[str, Any]:
        # Some clients send lists and objects as JSON inside a string.
        unwrapped = dict(arguments)
        for name in self._takes_json & arguments.keys():
            value = arguments[name]
            if isinstance(value, str):
                try:
                    unwrapped[name] = json.loads(value)
                except (ValueError, RecursionError):
                    continue
        return unwrapped


def _result(texts: Sequence[str], *, is_error: bool) -> dict[str, Any]:
    # Not the SDK's model: it would be dumped whole, into what the SDK then checks and dumps once more.
    blocks = [{"type": "text", "text": text} for text in texts]
    return {"content": blocks, "isError": is_error, "resultType": "complete"}


def _kinds(schema: dict[str, Any]) -> set[str]:
    if "anyOf" in schema:
        return {kind for each in schema["anyOf"] for kind in _kinds(each)}
    return {schema.get("type", "any")}


def _lean(schema: Any) -> Any:
    # What tells a model nothing is left out: the titles that pydantic makes of names, and that an optional may be null.
    if isinstance(schema, list):
        return [_lean(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: value for name, value in schema.items() if not (name == "title" and isinstance(value, str))}
    if "default" in kept and kept["default"] is None and "anyOf" in kept:
        del kept["default"]
        given = [each for each in kept["anyOf"] if each != {"type": "null"}]
        if len(given) == 1:
            del kept["anyOf"]
            kept = {**given[0], **kept}
    return {
        name: {key: _lean(inner) for key, inner in value.items()} if name in ("properties", "$defs") else _lean(value)
        for name, value in kept.items()
    }


def _with_optional_nulls(schema: Any) -> Any:
    for each in (schema, *schema.get("$defs", {}).values()):
        properties = each.get("properties", {})
        if "required" in each:
            each["required"] = [name for name in each["required"] if "null" not in _kinds(properties[name])]
    return schema
