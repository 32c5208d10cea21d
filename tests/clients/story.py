"""The story that every client tells our server, whatever the client calls its functions.

It runs in the environment of each client, so it imports nothing but the standard library. What is to be said comes from
the runner, in a file; `story.mjs` is its twin for the clients that are not written in Python.
"""

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ABSENT_SESSION = "01890000-0000-7000-8000-000000000000"


@dataclass(frozen=True)
class Plan:
    """What the runner hands to a client: how to start the server, and what to say."""

    command: str
    arguments: list[str]
    environment: dict[str, str]
    program: list[str]
    mode: str
    tool_names: list[str]
    session: dict[str, Any]
    messages: list[dict[str, Any]]
    tool_usage: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a client made of a tool's result; a client that hands on only one form leaves the other empty."""

    text: str | None
    structured: dict[str, Any] | None
    is_error: bool


@dataclass(frozen=True)
class Report:
    """What a client hands back to the runner."""

    protocol_version: str
    session_id: str


Call = Callable[[str, dict[str, Any]], Awaitable[Answer]]


def run(client: Callable[[Plan], Coroutine[Any, Any, Report]]) -> None:
    """Read the plan that the command line names, run a client with it, and write its report."""
    plan_file, report_file = map(Path, sys.argv[1:])
    plan = Plan(**json.loads(plan_file.read_text(encoding="utf-8")))
    report = asyncio.run(client(plan))
    report_file.write_text(json.dumps(report.__dict__), encoding="utf-8")


async def tell(plan: Plan, tool_names: Collection[str], call: Call) -> str:
    """Tell the story and return the session's id; an AssertionError says where the server answered otherwise."""
    _equal("the names of the tools", sorted(tool_names), sorted(plan.tool_names))

    started = await _good(call, "start_session", plan.session)
    session_id = _session_id(started)
    added = await _good(call, "add_messages", {"session_id": session_id, "messages": plan.messages})
    if added.structured is not None:
        _equal("the numbers of the messages", [message["seq"] for message in added.structured["messages"]], [1, 2])
    logged = await _good(call, "log_tool_usage", {"session_id": session_id, **plan.tool_usage})
    if logged.structured is not None:
        _equal("the number of the tool call", logged.structured["seq"], 3)

    await _refused(call, "session", "get_session_history", {"session_id": _ABSENT_SESSION})
    unknown_role = [{"role": "narrator", "content": "never stored"}]
    await _refused(call, "role", "add_messages", {"session_id": session_id, "messages": unknown_role})

    concise = await _good(call, "get_session_history", {"session_id": session_id})
    for form in _forms(concise):
        for text in (*(message["content"] for message in plan.messages), plan.tool_usage["tool_name"]):
            # Lines after the first are indented, so that none passes for an entry.
            assert text in form or text.replace("\n", "\n    ") in form, (
                f"the concise history does not hold {text!r}: {form}"
            )
    detailed = await _good(call, "get_session_history", {"session_id": session_id, "detail": "detailed"})
    expected = [*plan.messages, plan.tool_usage]
    for entries in _entries(detailed):
        _equal("the numbers of the entries", [entry["seq"] for entry in entries], [1, 2, 3])
        shown = [{name: entry.get(name) for name in each} for entry, each in zip(entries, expected, strict=True)]
        _equal("the history", shown, expected)
    return session_id


async def _good(call: Call, name: str, arguments: dict[str, Any]) -> Answer:
    answer = await call(name, arguments)
    assert not answer.is_error, f"{name} was refused: {answer.text}"
    assert answer.text or answer.structured, f"{name} gave nothing"
    return answer


async def _refused(call: Call, field: str, name: str, arguments: dict[str, Any]) -> None:
    answer = await call(name, arguments)
    assert answer.is_error, f"{name} was not refused: {answer.text or answer.structured}"
    assert field in (answer.text or ""), f"the refusal of {name} does not name {field}: {answer.text}"


def _session_id(answer: Answer) -> str:
    ids = set()
    if answer.structured is not None:
        ids.add(str(answer.structured["id"]))
    if answer.text is not None:
        found = re.search(r"\bid=(\S+)", answer.text)
        assert found, f"the text names no id: {answer.text}"
        ids.add(found[1])
    assert len(ids) == 1, f"text and structured content name different sessions: {ids}"
    return ids.pop()


def _forms(answer: Answer) -> list[str]:
    # Every form that the client hands on, since a model reads only one of them.
    forms = [] if answer.text is None else [answer.text]
    if answer.structured is not None:
        forms.append("\n".join(map(_first_text, answer.structured["entries"])))
    return forms


def _first_text(entry: dict[str, Any]) -> str:
    return str(entry["content"] if "role" in entry else entry["tool_name"])


def _entries(answer: Answer) -> list[list[dict[str, Any]]]:
    # In the text of the detailed form each entry is a line of JSON below the heading.
    found = [] if answer.structured is None else [answer.structured["entries"]]
    if answer.text is not None:
        found.append([json.loads(line) for line in answer.text.split("\n")[1:]])
    return found


def _equal(what: str, actual: object, expected: object) -> None:
    assert actual == expected, f"{what}: {actual} is not {expected}"
