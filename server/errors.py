"""Refusals, translated once: from the errors of the house to what an MCP client reads.

What a smarter caller could have avoided is a tool error with a sentence; the unknown is logged and nothing of it shown.
"""

import logging
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from models.errors import ChatError

logger = logging.getLogger(__name__)

MAX_PROBLEMS = 5
_LONGEST_NAME = 60


def explain(error: Exception, known_arguments: Sequence[str] = ()) -> str:
    """Return the sentence that tells what to do; log where it is our own fault."""
    if isinstance(error, ChatError):
        return f"{type(error).__name__}: {error}"
    if isinstance(error, ValidationError):
        return f"Invalid: {explain_arguments(error, known_arguments)}"
    logger.error("a call failed", exc_info=error)
    return "The server failed at this call; its log says where. Read the session before you repeat an append."


def explain_arguments(error: ValidationError, known_arguments: Sequence[str] = ()) -> str:
    """Return each problem as `field: what to do`, without the values that were sent."""
    problems = error.errors(include_url=False, include_input=False)
    told = [_tell(problem, known_arguments) for problem in problems]
    more = f"; and {len(told) - MAX_PROBLEMS} more" if len(told) > MAX_PROBLEMS else ""
    return "; ".join(told[:MAX_PROBLEMS]) + more + "."


def _tell(problem: ErrorDetails, known_arguments: Sequence[str]) -> str:
    location, kind = problem["loc"], problem["type"]
    field = _path(location)
    if kind == "extra_forbidden":
        known = f" (known: {', '.join(known_arguments)})" if len(location) == 1 and known_arguments else ""
        return f"{field}: no such argument{known}"
    if kind == "missing":
        return f"{field}: is required"
    if kind == "union_tag_invalid":
        # The validator's own sentence repeats what was sent.
        return f"{field}.type: is one of {problem['ctx']['expected_tags']}"
    if kind == "union_tag_not_found":
        return f"{field}.type: is required"
    text = problem["msg"].removeprefix("Value error, ")
    return f"{field}: {text}" if field else text


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += ("." if path else "") + _printable(part)
    return path


def _printable(name: Any) -> str:
    text = "".join(character if character.isprintable() else "?" for character in str(name))
    return text if len(text) <= _LONGEST_NAME else text[:_LONGEST_NAME] + "…"
