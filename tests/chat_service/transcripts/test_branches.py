"""Branches: what was answered again, edited, or left to a subagent is a fork that stores its own words alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select, update

from chat_service import imports
from chat_service.import_paths import Importer
from chat_service.service import ChatService
from models.database import Database
from models.ids import SessionId, UserId, utc_now
from models.inputs import NewSession, SessionChanges
from models.shapes import SessionDict
from models.tables import chat_sessions, messages, source_records
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


async def told_there(service: ChatService, user_id: UserId, session: SessionDict) -> list[str]:
    """Return what was said in a fork itself."""
    return (await told(service, user_id, session))[(session["forked_from_seq"] or 0) :]


def leaves(session: SessionDict) -> tuple[str | None, int | None]:
    return session["forked_from"], session["forked_from_seq"]


def sent_from(session: SessionDict) -> Any:
    """Return where a subagent was sent from, of a session that inherits nothing of it."""
    data = session["session_data"] or {}
    assert leaves(session) == (data["branch_of"]["session_id"], 0)
    return data["branch_of"]


async def test_an_answer_that_was_given_again_is_a_branch(service: ChatService, user_id: UserId) -> None:
    thanks = node("t", "a2", "user", "Thanks.")
    await take_in(service, user_id, "chatgpt", export([QUESTION, FIRST, SECOND, thanks], "t"))
    main, branch = await sessions_of(service, user_id)
    assert await told(service, user_id, main) == ["When?", "In June.", "Thanks."]
    assert await told(service, user_id, branch) == ["When?", "In May."]
    assert (branch["message_count"], leaves(branch)) == (1, (main["id"], 1))
    assert "branch_of" not in (branch["session_data"] or {})
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
    assert await told(service, user_id, branch) == ["When?", "In June.", "Why?"]
    assert await told_there(service, user_id, branch) == ["In June.", "Why?"]


async def test_a_first_prompt_that_was_edited_is_a_branch_from_the_beginning(
    service: ChatService, user_id: UserId
) -> None:
    await take_in(service, user_id, "chatgpt", export([QUESTION, FIRST, EDITED], "a1"))
    main, branch = await sessions_of(service, user_id)
    assert await told(service, user_id, branch) == ["Where?"]
    assert leaves(branch) == (main["id"], 0)


async def test_a_branch_of_a_branch_names_the_branch(service: ChatService, user_id: UserId) -> None:
    more = [node("b1", "a2", "user", "Why?"), node("b2", "a2", "user", "How?")]
    await take_in(service, user_id, "chatgpt", export([QUESTION, FIRST, SECOND, *more], "a1"))
    main, branch, twig = await sessions_of(service, user_id)
    assert await told(service, user_id, branch) == ["When?", "In June.", "Why?"]
    assert await told(service, user_id, twig) == ["When?", "In June.", "How?"]
    assert (leaves(branch), leaves(twig)) == ((main["id"], 1), (branch["id"], 2))
    assert [each["message_count"] for each in (main, branch, twig)] == [2, 2, 1]


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
    assert await told_by(service, user_id, branch["id"]) == changed
    assert (branch["message_count"], leaves(branch)) == (2, (main["id"], 2))


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
    assert [sent_from(each)["seq"] for each in (first, second)] == [2, 3]
    assert second["source_id"] == "s-1/agent-7"


async def test_the_file_of_a_subagent_joins_the_session_that_sent_it(service: ChatService, user_id: UserId) -> None:
    main_lines = line("u-1", None, "user", "Look.") + line("a-1", "u-1", "assistant", "Sent.")
    later = line("a-2", "a-1", "assistant", "Later.", timestamp="2026-03-01T10:09:00Z")
    sent = line("x-1", None, "user", "Go.", isSidechain=True, agentId="agent-7", timestamp="2026-03-01T10:01:00Z")
    await take_in(service, user_id, "claude-code", main_lines + later)
    await take_in(service, user_id, "claude-code", sent)
    main, branch = await sessions_of(service, user_id)
    assert sent_from(branch) == {"session_id": main["id"], "seq": 2}
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
    assert [sent_from(each) for each in branches] == [{"session_id": main["id"], "seq": 2}] * 2


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
    assert await told(service, user_id, branch) == ["Hello.", "Yes?", "Peas.", "In March."]
    assert leaves(branch) == (main["id"], 2)


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


async def test_a_result_goes_to_the_call_of_its_own_branch_where_two_have_one_id(
    service: ChatService, user_id: UserId
) -> None:
    def use(tool: str) -> list[dict[str, Any]]:
        return [{"type": "tool_use", "id": "call_0", "name": tool, "input": {}}]

    def result(text: str) -> list[dict[str, Any]]:
        return [{"type": "tool_result", "tool_use_id": "call_0", "content": text}]

    lines = [
        line("u-1", None, "user", "Look."),
        line("a-1", "u-1", "assistant", use("Task")),
        line("s-1", None, "user", "Search.", isSidechain=True, agentId="agent"),
        line("s-2", "s-1", "assistant", use("Grep"), isSidechain=True, agentId="agent"),
        line("s-3", "s-2", "user", result("found"), isSidechain=True, agentId="agent"),
        line("r-1", "a-1", "user", result("report")),
    ]
    await take_in(service, user_id, "claude-code", "".join(lines))
    calls = (await service.get_session_tool_usage(user_id))["tool_usages"]
    assert {call["tool_name"]: call["result"] for call in calls} == {"Task": "report", "Grep": "found"}


async def test_a_call_without_a_result_is_closed_in_the_branch_that_asked(
    service: ChatService, user_id: UserId
) -> None:
    asked = node("c", "q", "assistant", "{}")
    asked["message"]["recipient"] = "browser"
    await take_in(service, user_id, "chatgpt", export([QUESTION, FIRST, asked], "a1"))
    main, branch = await sessions_of(service, user_id)
    assert (main["tool_usage_count"], branch["tool_usage_count"]) == (0, 1)
    assert (await history_of(service, user_id, branch["id"]))[-1]["status"] == "unknown"


BACK = [
    line("u-1", None, "user", "Hello."),
    line("a-1", "u-1", "assistant", "Yes?"),
    line("u-2", "a-1", "user", "Beans."),
    line("a-2", "u-2", "assistant", "In May."),
    line("u-3", "a-1", "user", "Peas."),
    line("a-3", "u-3", "assistant", "In March."),
]


async def test_a_file_that_grows_adds_to_its_branch(service: ChatService, user_id: UserId) -> None:
    for end in range(1, len(BACK) + 1):
        told_of = await take_in(service, user_id, "claude-code", "".join(BACK[:end]))
        assert told_of["added"]["messages"] == 1
    main, branch = await sessions_of(service, user_id)
    assert await told(service, user_id, main) == ["Hello.", "Yes?", "Beans.", "In May."]
    assert await told(service, user_id, branch) == ["Hello.", "Yes?", "Peas.", "In March."]
    assert (await take_in(service, user_id, "claude-code", "".join(BACK)))["added"] == {}


async def test_a_search_finds_what_a_branch_shares_once(service: ChatService, user_id: UserId) -> None:
    await take_in(service, user_id, "claude-code", "".join(BACK))
    assert [hit["seq"] for hit in (await service.search_history(user_id, "Hello"))["hits"]] == [1]


def now(text: str) -> str:
    """Write lines as if they were said just now: nobody can tell yet whether more comes."""
    return text.replace("2026-03-01T10:00:00Z", utc_now())


async def test_a_branch_waits_for_the_line_that_it_leaves(service: ChatService, user_id: UserId) -> None:
    early = [BACK[0], line("u-9", "a-1", "user", "First."), *BACK[4:]]
    waiting = await take_in(service, user_id, "claude-code", now("".join(early)))
    assert sum(each["records"] for each in waiting["skipped"] if "waits for" in each["reason"]) == 2
    [main] = await sessions_of(service, user_id)
    grown = await take_in(service, user_id, "claude-code", now("".join([*early, BACK[1]])))
    assert (grown["added"]["sessions"], grown["skipped"]) == (1, [])
    main, branch = await sessions_of(service, user_id)
    assert await told(service, user_id, main) == ["Hello.", "First.", "Yes?"]
    assert await told(service, user_id, branch) == ["Hello.", "First.", "Yes?", "Peas.", "In March."]
    assert leaves(branch) == (main["id"], 3)


async def test_a_branch_finds_its_line_later_in_the_file(service: ChatService, user_id: UserId) -> None:
    filling = [line(f"f-{number}", "u-1", "assistant", f"{number}") for number in range(imports.MAX_ENTRIES)]
    early = [BACK[0], line("u-9", "a-1", "user", "First."), *BACK[4:], *filling, BACK[1]]
    await take_in(service, user_id, "claude-code", "".join(early))
    main, branch = await sessions_of(service, user_id)
    assert leaves(branch) == (main["id"], main["last_seq"])
    assert (await take_in(service, user_id, "claude-code", "".join(early)))["added"] == {}


async def test_a_branch_whose_line_never_comes_is_kept_all_the_same(service: ChatService, user_id: UserId) -> None:
    early = [BACK[0], line("u-9", "gone", "user", "First."), line("u-10", "gone", "user", "Second.")]
    for added in (2, 0):
        told_of = await take_in(service, user_id, "claude-code", "".join(early))
        assert told_of["added"].get("sessions", 0) == added
    main, branch = await sessions_of(service, user_id)
    assert await told_there(service, user_id, branch) == ["Second."]
    assert branch["forked_from"] == main["id"]


async def test_a_long_branch_whose_line_never_comes_is_kept_whole(service: ChatService, user_id: UserId) -> None:
    early = [BACK[0], line("u-9", "gone", "user", "First."), line("l-0", "gone", "user", "0")]
    early += [line(f"l-{number}", f"l-{number - 1}", "assistant", f"{number}") for number in range(1, 1_100)]
    await take_in(service, user_id, "claude-code", "".join(early))
    _, branch = await sessions_of(service, user_id)
    assert branch["message_count"] == 1_100
    session_id, last = SessionId(branch["id"]), branch["last_seq"]
    page = await service.get_session_messages(user_id, session_id, 500, after_seq=last - 500)
    assert [message["content"] for message in page["messages"]] == [str(number) for number in range(600, 1_100)]


async def test_nothing_leaves_an_archived_session_before_it_has_the_line(service: ChatService, user_id: UserId) -> None:
    await take_in(service, user_id, "claude-code", "".join(BACK[:1]))
    [main] = await sessions_of(service, user_id)
    main_id = SessionId(main["id"])
    await service.update_session(user_id, main_id, SessionChanges(status="archived"))
    told_of = await take_in(service, user_id, "claude-code", "".join(BACK))
    assert (told_of["added"], {each["reason"] for each in told_of["skipped"]}) == ({}, {"the session is archived"})
    await service.update_session(user_id, main_id, SessionChanges(status="active"))
    await take_in(service, user_id, "claude-code", "".join(BACK))
    main, branch = await sessions_of(service, user_id)
    assert leaves(branch) == (main["id"], 2)


async def test_a_branch_of_a_merged_session_inherits_nothing(service: ChatService, user_id: UserId) -> None:
    await take_in(service, user_id, "claude-code", "".join(BACK[:4]))
    [main] = await sessions_of(service, user_id)
    target_id = SessionId((await service.create_chat_session(user_id, NewSession(title="All")))["id"])
    await service.merge_sessions(user_id, SessionId(main["id"]), target_id)
    await take_in(service, user_id, "claude-code", "".join(BACK))
    *_, branch = await sessions_of(service, user_id)
    assert (await told(service, user_id, branch), branch["forked_from"]) == (["Peas.", "In March."], None)
    assert (branch["session_data"] or {})["branch_of"] == {"session_id": main["id"], "seq": 2}


async def test_a_branch_of_before_there_were_forks_goes_on_as_it_is(
    service: ChatService, user_id: UserId, database: Database
) -> None:
    await take_in(service, user_id, "claude-code", "".join(BACK[:5]))
    main, branch = await sessions_of(service, user_id)

    def as_it_was(connection: Connection) -> None:
        """Make of the fork the plain session that it would have been: its own entries, numbered from one."""
        own = chat_sessions.c.id == branch["id"]
        key = connection.execute(select(chat_sessions.c.key).where(own)).scalar_one()
        data = {"branch_of": {"session_id": main["id"], "seq": 2}}
        plain = {"forked_from_key": None, "forked_from_seq": None, "last_seq": 1, "session_data": data}
        connection.execute(update(chat_sessions).where(own).values(plain))
        for table in (messages, source_records):
            connection.execute(update(table).where(table.c.session_key == key).values(seq=table.c.seq - 2))

    await database.write(as_it_was)
    assert (await take_in(service, user_id, "claude-code", "".join(BACK[:5])))["added"] == {}
    told_of = await take_in(service, user_id, "claude-code", "".join(BACK))
    assert (told_of["added"].get("sessions"), told_of["added"]["messages"]) == (None, 1)
    found = await sessions_of(service, user_id)
    assert [await told(service, user_id, each) for each in found][1:] == [["Peas.", "In March."]]
    twig = line("u-4", "u-3", "user", "Carrots.") + line("u-5", "u-3", "user", "Leeks.")
    await take_in(service, user_id, "claude-code", "".join(BACK) + twig)
    *_, last = await sessions_of(service, user_id)
    assert await told(service, user_id, last) == ["Peas.", "Leeks."]
