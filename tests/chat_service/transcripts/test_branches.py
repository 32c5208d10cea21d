"""Branches: what was answered again, edited, or left to a subagent is a session of its own, beside the main line."""

import json
from pathlib import Path
from typing import Any

import pytest

from chat_service.import_paths import Importer
from chat_service.service import ChatService
from models.ids import UserId
from models.shapes import SessionDict
from tests.chat_service.transcripts.support import (
    SHORT,
    Said,
    history_of,
    sessions_of,
    take_in,
    told_by,
    write_chat,
)

pytestmark = pytest.mark.anyio


def node(node_id: str, parent: str | None, role: str, text: str) -> dict[str, Any]:
    content = {"content_type": "text", "parts": [text]}
    return {"id": node_id, "parent": parent, "message": {"author": {"role": role}, "content": content}}


def export(nodes: list[dict[str, Any]], current: str) -> str:
    mapping = {each["id"]: each for each in nodes}
    return json.dumps([{"id": "c-1", "title": "Beans", "mapping": mapping, "current_node": current}])


QUESTION = node("q", None, "user", "When?")
FIRST, SECOND = node("a1", "q", "assistant", "In May."), node("a2", "q", "assistant", "In June.")
EDITED = node("q2", None, "user", "Where?")


def line(uuid: str, parent: str | None, kind: str, content: Any, **more: Any) -> str:
    about = {"uuid": uuid, "parentUuid": parent, "sessionId": "s-1", "timestamp": "2026-03-01T10:00:00Z"}
    return json.dumps({"type": kind, "message": {"role": kind, "content": content}, **about, **more}) + "\n"


async def told(service: ChatService, user_id: UserId, session: SessionDict) -> list[str]:
    return [turn.text for turn in await told_by(service, user_id, session["id"])]


def branch_of(session: SessionDict) -> Any:
    return (session["session_data"] or {}).get("branch_of")


async def test_an_answer_that_was_given_again_is_a_branch(service: ChatService, user_id: UserId) -> None:
    thanks = node("t", "a2", "user", "Thanks.")
    await take_in(service, user_id, "chatgpt", export([QUESTION, FIRST, SECOND, thanks], "t"))
    main, branch = await sessions_of(service, user_id)
    assert await told(service, user_id, main) == ["When?", "In June.", "Thanks."]
    assert await told(service, user_id, branch) == ["In May."]
    assert branch_of(branch) == {"session_id": main["id"], "seq": 1}
    assert (main["source_id"], branch["source_id"]) == ("c-1", "c-1/a1")
    assert branch["title"] == "Beans (branch)"


async def test_what_is_stored_stays_where_it_is_when_the_main_line_changes(
    service: ChatService, user_id: UserId
) -> None:
    await take_in(service, user_id, "chatgpt", export([QUESTION, FIRST], "a1"))
    await take_in(service, user_id, "chatgpt", export([QUESTION, FIRST, SECOND], "a2"))
    more = [node("t1", "a1", "user", "And peas?"), node("t2", "a2", "user", "Why?")]
    await take_in(service, user_id, "chatgpt", export([QUESTION, FIRST, SECOND, *more], "t2"))
    main, branch = await sessions_of(service, user_id)
    assert await told(service, user_id, main) == ["When?", "In May.", "And peas?"]
    assert await told(service, user_id, branch) == ["In June.", "Why?"]


async def test_a_first_prompt_that_was_edited_is_a_branch_from_the_beginning(
    service: ChatService, user_id: UserId
) -> None:
    await take_in(service, user_id, "chatgpt", export([QUESTION, FIRST, EDITED], "a1"))
    main, branch = await sessions_of(service, user_id)
    assert await told(service, user_id, branch) == ["Where?"]
    assert branch_of(branch) == {"session_id": main["id"], "seq": 0}


async def test_a_branch_of_a_branch_names_the_branch(service: ChatService, user_id: UserId) -> None:
    more = [node("b1", "a2", "user", "Why?"), node("b2", "a2", "user", "How?")]
    await take_in(service, user_id, "chatgpt", export([QUESTION, FIRST, SECOND, *more], "a1"))
    main, branch, twig = await sessions_of(service, user_id)
    assert await told(service, user_id, branch) == ["In June.", "Why?"]
    assert await told(service, user_id, twig) == ["How?"]
    assert branch_of(branch) == {"session_id": main["id"], "seq": 1}
    assert branch_of(twig) == {"session_id": branch["id"], "seq": 1}


async def test_a_tree_that_bites_its_own_tail_is_read_once_around(service: ChatService, user_id: UserId) -> None:
    ring = [node("a", "b", "user", "one"), node("b", "a", "assistant", "two")]
    first = await take_in(service, user_id, "chatgpt", export(ring, "b"))
    again = await take_in(service, user_id, "chatgpt", export(ring, "b"))
    assert first["added"]["messages"] == 2
    assert again["added"] == {}


async def test_a_changed_copy_of_a_conversation_leaves_it_where_it_differs(
    service: ChatService, user_id: UserId
) -> None:
    changed = [*SHORT[:2], Said("user", "No, carrots."), Said("assistant", "In April.")]
    for turns in (SHORT, changed, SHORT):
        await take_in(service, user_id, "openai", write_chat(turns))
    main, branch = await sessions_of(service, user_id)
    assert await told_by(service, user_id, main["id"]) == SHORT
    assert await told_by(service, user_id, branch["id"]) == changed[2:]
    assert branch_of(branch) == {"session_id": main["id"], "seq": 2}


async def test_what_a_subagent_did_is_a_branch(service: ChatService, user_id: UserId) -> None:
    lines = [
        line("u-1", None, "user", "Look around."),
        line("a-1", "u-1", "assistant", "I send somebody."),
        line("x-1", None, "user", "You are sent.", isSidechain=True),
        line("x-2", "x-1", "assistant", "I went.", isSidechain=True),
        line("a-2", "a-1", "assistant", "Back."),
        line("y-1", None, "user", "And you.", isSidechain=True, agentId="agent-7"),
        line("y-2", "y-1", "assistant", "Me too.", isSidechain=True, agentId="agent-7"),
    ]
    for end in range(len(lines) + 1):
        await take_in(service, user_id, "claude-code", "".join(lines[:end]))
    main, first, second = await sessions_of(service, user_id)
    assert await told(service, user_id, main) == ["Look around.", "I send somebody.", "Back."]
    assert await told(service, user_id, first) == ["You are sent.", "I went."]
    assert await told(service, user_id, second) == ["And you.", "Me too."]
    assert [branch_of(each)["seq"] for each in (first, second)] == [2, 3]
    assert second["source_id"] == "s-1/agent-7"


async def test_the_file_of_a_subagent_joins_the_session_that_sent_it(service: ChatService, user_id: UserId) -> None:
    main_lines = line("u-1", None, "user", "Look.") + line("a-1", "u-1", "assistant", "Sent.")
    later = line("a-2", "a-1", "assistant", "Later.", timestamp="2026-03-01T10:09:00Z")
    sent = line("x-1", None, "user", "Go.", isSidechain=True, agentId="agent-7", timestamp="2026-03-01T10:01:00Z")
    await take_in(service, user_id, "claude-code", main_lines + later)
    await take_in(service, user_id, "claude-code", sent)
    main, branch = await sessions_of(service, user_id)
    assert branch_of(branch) == {"session_id": main["id"], "seq": 2}
    assert await told(service, user_id, branch) == ["Go."]


async def test_the_files_of_subagents_come_after_the_session_that_sent_them(
    service: ChatService, user_id: UserId, tmp_path: Path
) -> None:
    at = {"timestamp": "2026-03-01T10:01:00Z", "isSidechain": True}
    (tmp_path / "s-1" / "subagents").mkdir(parents=True)
    sent = {
        "agent-a.jsonl": line("x-1", None, "user", "Go.", agentId="a", **at),
        "s-1/subagents/agent-b.jsonl": line("y-1", None, "user", "Go too.", agentId="b", **at),
        "s-1.jsonl": line("u-1", None, "user", "Look.") + line("a-1", "u-1", "assistant", "Sent."),
    }
    for name, text in sent.items():
        (tmp_path / name).write_text(text)
    report = await Importer(service, user_id, "claude-code", [tmp_path]).import_all()
    assert (report.files, report.problems) == (3, [])
    main, *branches = await sessions_of(service, user_id)
    assert await told(service, user_id, main) == ["Look.", "Sent."]
    assert [branch_of(each) for each in branches] == [{"session_id": main["id"], "seq": 2}] * 2


async def test_going_back_to_an_earlier_prompt_is_a_branch(service: ChatService, user_id: UserId) -> None:
    lines = [
        line("u-1", None, "user", "Hello."),
        line("a-1", "u-1", "assistant", "Yes?"),
        line("u-2", "a-1", "user", "Beans."),
        line("a-2", "u-2", "assistant", "In May."),
        line("u-3", "a-1", "user", "Peas."),
        line("a-3", "u-3", "assistant", "In March."),
    ]
    for _ in range(2):
        await take_in(service, user_id, "claude-code", "".join(lines))
    main, branch = await sessions_of(service, user_id)
    assert await told(service, user_id, main) == ["Hello.", "Yes?", "Beans.", "In May."]
    assert await told(service, user_id, branch) == ["Peas.", "In March."]
    assert branch_of(branch) == {"session_id": main["id"], "seq": 2}


async def test_the_results_of_parallel_calls_are_no_branches(service: ChatService, user_id: UserId) -> None:
    def use(number: int) -> list[dict[str, Any]]:
        return [{"type": "tool_use", "id": f"t-{number}", "name": "Bash", "input": {}}]

    def result(number: int) -> list[dict[str, Any]]:
        return [{"type": "tool_result", "tool_use_id": f"t-{number}", "content": "ok"}]

    lines = [
        line("u-1", None, "user", "Both."),
        line("a-1", "u-1", "assistant", use(1)),
        line("a-2", "a-1", "assistant", use(2)),
        line("r-1", "a-1", "user", result(1)),
        line("r-2", "a-2", "user", result(2)),
        line("a-3", "r-2", "assistant", "Done."),
    ]
    await take_in(service, user_id, "claude-code", "".join(lines))
    [session] = await sessions_of(service, user_id)
    entries = await history_of(service, user_id, session["id"])
    assert [entry.get("tool_call_id") for entry in entries] == [None, None, None, "t-1", "t-2", None]


async def test_a_call_without_a_result_is_closed_in_the_branch_that_asked(
    service: ChatService, user_id: UserId
) -> None:
    asked = node("c", "q", "assistant", "{}")
    asked["message"]["recipient"] = "browser"
    await take_in(service, user_id, "chatgpt", export([QUESTION, FIRST, asked], "a1"))
    main, branch = await sessions_of(service, user_id)
    assert (main["tool_usage_count"], branch["tool_usage_count"]) == (0, 1)
    assert (await history_of(service, user_id, branch["id"]))[-1]["status"] == "unknown"
