"""A file that grows is imported at any moment, and in the end says what it would have said at once."""

import json
from typing import Any

import pytest

from chat_service.service import ChatService
from chat_service.transcripts.calls import Calls
from models.database import Database
from models.ids import SessionId, UserId
from tests.chat_service.summaries import COUNTS
from tests.chat_service.transcripts.support import (
    SHORT,
    WRITERS,
    Said,
    history_of,
    sessions_of,
    take_in,
    told_by,
    write_claude_code,
)
from tests.support import new_user

pytestmark = pytest.mark.anyio

BEFORE_THE_FILE = "2026-03-01T11:00:00.000000Z"
"""The clock of one who imports while the conversation is going on."""


@pytest.fixture
def service(database: Database) -> ChatService:
    return ChatService(database, clock=lambda: BEFORE_THE_FILE)


def essence(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in ("id", "session_id", "user_id", "created_at")}


@pytest.mark.parametrize("shape", WRITERS)
async def test_a_file_cut_at_every_byte_says_in_the_end_what_it_says_at_once(
    service: ChatService, user_id: UserId, shape: str
) -> None:
    format_name, write = WRITERS[shape]
    whole = write(SHORT[:4]).encode()
    seen: list[dict[str, Any]] = []
    for end in range(len(whole) + 1):
        told = await take_in(service, user_id, format_name, whole[:end])
        if not told["added"]:
            continue
        [session] = await sessions_of(service, user_id)
        now = await history_of(service, user_id, session["id"])
        assert now[: len(seen)] == seen, "what is stored stays as it is"
        seen = now
    other = await new_user(service, "other")
    await take_in(service, other, format_name, whole)
    [at_once] = await sessions_of(service, other)
    expected = await history_of(service, other, at_once["id"])
    assert [essence(entry) for entry in seen] == [essence(entry) for entry in expected]
    assert len(expected) == 5


async def test_a_torn_last_line_waits(service: ChatService, user_id: UserId) -> None:
    text = write_claude_code(SHORT)
    told = await take_in(service, user_id, "claude-code", text[:-10])
    assert told["waiting"] == {"torn last line": 1}
    assert told["problems"] == []
    told = await take_in(service, user_id, "claude-code", text)
    assert (told["waiting"], told["stored"]) == ({}, {"assistant": 1})


async def test_a_call_without_a_result_waits_for_it(service: ChatService, user_id: UserId) -> None:
    lines = write_claude_code([Said("user", "Read."), SHORT[2]]).splitlines(keepends=True)
    told = await take_in(service, user_id, "claude-code", "".join(lines[:-1]))
    assert told["waiting"] == {"tool calls without a result": 1}
    [session] = await sessions_of(service, user_id)
    assert session["tool_usage_count"] == 0
    told = await take_in(service, user_id, "claude-code", "".join(lines))
    assert (told["waiting"], told["added"]["tool calls"]) == ({}, 1)
    [_, _, usage] = await history_of(service, user_id, session["id"])
    assert (usage["status"], usage["result"], usage["message_seq"]) == ("success", "frost", 2)


async def test_a_call_is_unknown_once_the_conversation_goes_on_and_known_when_its_result_comes(
    service: ChatService, user_id: UserId
) -> None:
    lines = write_claude_code([Said("user", "Read."), SHORT[2], Said("user", "Go on.")]).splitlines(keepends=True)
    result = lines.pop(-2)
    await take_in(service, user_id, "claude-code", "".join(lines))
    [session] = await sessions_of(service, user_id)
    entries = await history_of(service, user_id, session["id"])
    assert [entry.get("status") for entry in entries] == [None, None, "unknown", None]
    for _ in range(2):
        told = await take_in(service, user_id, "claude-code", "".join([*lines, result]))
    assert told["added"] == {}
    entries = await history_of(service, user_id, session["id"])
    assert [entry.get("status") for entry in entries] == [None, None, "success", None]
    assert entries[2]["result"] == "frost"


async def test_a_call_of_a_conversation_that_ended_long_ago_is_unknown(database: Database) -> None:
    service = ChatService(database, clock=lambda: "2026-03-09T10:00:00.000000Z")
    user_id = await new_user(service)
    lines = write_claude_code([Said("user", "Read."), SHORT[2]]).splitlines(keepends=True)
    for _ in range(2):
        await take_in(service, user_id, "claude-code", "".join(lines[:-1]))
    [session] = await sessions_of(service, user_id)
    assert [entry.get("status") for entry in await history_of(service, user_id, session["id"])][2:] == ["unknown"]
    told = await take_in(service, user_id, "claude-code", "".join(lines))
    assert told["added"]["tool calls completed"] == 1
    assert await told_by(service, user_id, session["id"]) == [Said("user", "Read."), SHORT[2]]


async def test_what_an_answer_cost_is_counted_once(service: ChatService, user_id: UserId) -> None:
    def line(number: int, output_tokens: int, **cached: int) -> str:
        usage = {"input_tokens": 3, "output_tokens": output_tokens, **cached}
        message = {"id": "msg_1", "role": "assistant", "content": f"part {number}", "usage": usage}
        return json.dumps({"type": "assistant", "uuid": f"a-{number}", "sessionId": "s-1", "message": message}) + "\n"

    cache = {"cache_read_input_tokens": 30_000, "cache_creation_input_tokens": 2_000}
    lines = [line(1, 2, **cache), line(2, 2, **cache), line(3, 195, **cache), line(4, 195)]
    for end in (1, 3, 4):
        await take_in(service, user_id, "claude-code", "".join(lines[:end]))
    [session] = await sessions_of(service, user_id)
    usages = [entry["usage"] for entry in await history_of(service, user_id, session["id"])]
    added: list[tuple[int, ...]] = [(3, 2, 30_000, 2_000), (0, 0, 0, 0), (0, 193, 0, 0), (0, 0)]
    assert usages == [dict(zip(COUNTS, counts, strict=False)) for counts in added]


async def test_a_title_follows_its_source_until_a_person_changes_it(service: ChatService, user_id: UserId) -> None:
    from models.inputs import SessionChanges

    text = write_claude_code(SHORT)
    named = text + json.dumps({"type": "ai-title", "aiTitle": "Peas", "sessionId": "s-1"}) + "\n"
    chosen = named + json.dumps({"type": "custom-title", "customTitle": "Pulses", "sessionId": "s-1"}) + "\n"
    await take_in(service, user_id, "claude-code", text.partition("\n")[2])
    titles = []
    for grown in (named.partition("\n")[2], chosen.partition("\n")[2]):
        [session] = await sessions_of(service, user_id)
        titles.append(session["title"])
        await take_in(service, user_id, "claude-code", grown)
    [session] = await sessions_of(service, user_id)
    assert [*titles, session["title"]] == ["Sow beans? 🫘", "Peas", "Pulses"]
    await service.update_session(user_id, SessionId(session["id"]), SessionChanges(title="Mine"))
    await take_in(service, user_id, "claude-code", chosen + json.dumps({"type": "summary", "summary": "X"}) + "\n")
    assert [each["title"] for each in await sessions_of(service, user_id)] == ["Mine"]


async def test_a_session_is_as_old_as_what_was_said_in_it(service: ChatService, user_id: UserId) -> None:
    await take_in(service, user_id, "claude-code", write_claude_code(SHORT))
    [session] = await sessions_of(service, user_id)
    assert session["last_append_at"] == "2026-03-01T10:00:08.000000Z"


def test_a_call_that_nobody_asked_for_has_no_result() -> None:
    assert Calls().answer("t-1", "result", None) is None
    assert Calls().answer(None, "result", None) is None


@pytest.mark.parametrize(
    ("said", "title"),
    [
        ("bean " * 16, ("bean " * 16).strip()),
        ("bean " * 17, "bean " * 15 + "bean…"),
        ("bean " * 15 + "s" * 40, "bean " * 14 + "bean…"),
        ("豆" * 81, "豆" * 79 + "…"),
    ],
    ids=["all", "a word less", "a long word", "no spaces"],
)
async def test_a_title_made_of_what_was_said_ends_with_a_word_and_says_that_it_is_cut(
    service: ChatService, user_id: UserId, said: str, title: str
) -> None:
    await take_in(service, user_id, "openai", json.dumps([{"role": "user", "content": said}]))
    [session] = await sessions_of(service, user_id)
    assert session["title"] == title
