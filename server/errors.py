"""Refusals, translated once: from the errors of the house to what an MCP client reads.

What a smarter caller could have avoided is a tool error with a sentence; the unknown is logged and nothing of it shown.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from models.errors import ChatError

logger = logging.getLogger(__name__)

Schema = Mapping[str, Any]

MAX_PROBLEMS = 5
_IN_JSON = {
    "dict_type": "must be a JSON object",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
    "list_type": "must be a JSON array",
    "too_short": "needs at least {min_length} of them",
    "too_long": "may have at most {max_length} of them",
}
"""What the validator says in words of Python, for callers who write JSON."""
_LONGEST_NAME = 60


def explain(error: Exception, schema: Schema | None = None) -> str:
    """Return the sentence that tells what to do; log where it is our own fault."""
    if isinstance(error, ChatError):
        return f"{type(error).__name__}: {error}"
    if isinstance(error, ValidationError):
        return f"Invalid: {explain_arguments(error, schema)}"
    logger.error("a call failed", exc_info=error)
    return "The server failed at this call; its log says where. Read the session before you repeat an append."


def explain_arguments(error: ValidationError, schema: Schema | None = None) -> str:
    """Return each problem as `field: what to do`, without the values that were sent.

    With the JSON schema of what was wanted, it also tells which fields there are where one is unknown.
    """
    problems = error.errors(include_url=False, include_input=False)
    told = list(_told(problems, schema or {}))
    more = f"; and {len(told) - MAX_PROBLEMS} more" if len(told) > MAX_PROBLEMS else ""
    return "; ".join(told[:MAX_PROBLEMS]) + more + "."


def _told(problems: Sequence[ErrorDetails], schema: Schema) -> Iterator[str]:
    names: set[str] = set()
    for problem in problems:
        field, known = _place(problem["loc"], schema)
        # Once is enough, where each of many messages has the same.
        yield _tell(problem, field, "" if known in names else known)
        if problem["type"] == "extra_forbidden":
            names.add(known)


def _tell(problem: ErrorDetails, field: str, known: str) -> str:
    kind = problem["type"]
    if kind == "extra_forbidden":
        return f"{field}: no such argument" + (f" (known: {known})" if known else "")
    if kind == "missing":
        return f"{field}: is required"
    if kind == "union_tag_invalid":
        # The validator's own sentence repeats what was sent.
        return f"{field}.type: is one of {problem['ctx']['expected_tags']}"
    if kind == "union_tag_not_found":
        return f"{field}.type: is required"
    if kind in _IN_JSON:
        return f"{field}: {_IN_JSON[kind].format(**problem.get('ctx', {}))}"
    text = problem["msg"].removeprefix("Value error, ")
    return f"{field}: {text}" if field else text


def _place(location: Sequence[int | str], schema: Schema) -> tuple[str, str]:
    """Return where a problem is, as the caller would write it, and the names of the fields that there are."""
    path, node, around = "", schema, schema
    for part in location:
        tags: Schema = node.get("discriminator", {}).get("mapping", {})
        if part in tags:
            # The validator names the member of a union that it took; nobody has written that.
            node = _resolved({"$ref": tags[str(part)]}, schema)
            continue
        around = node
        if isinstance(part, int):
            path, node = f"{path}[{part}]", _resolved(node.get("items"), schema)
        else:
            path = f"{path}.{_printable(part)}" if path else _printable(part)
            node = _resolved(node.get("properties", {}).get(part, node.get("additionalProperties")), schema)
    return path, ", ".join(around.get("properties", ()))


def _resolved(node: Any, schema: Schema) -> Schema:
    if not isinstance(node, dict):
        return {}
    name = node.get("$ref", "").rpartition("/")[2]
    found: Schema = schema.get("$defs", {}).get(name, node)
    return found


def _printable(name: Any) -> str:
    text = "".join(character if character.isprintable() else "?" for character in str(name))
    return text if len(text) <= _LONGEST_NAME else text[:_LONGEST_NAME] + "…"
