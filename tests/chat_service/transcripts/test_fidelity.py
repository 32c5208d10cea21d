"""What a transcript says is what the history says, in every format, and once however often it is imported."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_service.import_sessions import Origin
from chat_service.imports import Report, import_file
from chat_service.service import ChatService
from chat_service.transcripts.formats import FORMATS
from models.ids import SessionId, UserId
from tests.chat_service.transcripts.support import (
    CONVERSATIONS,
    SHORT,
    WRITERS,
    Said,
    assert_adds_up,
    real_transcripts,
    sessions_of,
    take_in,
    told_by,
)
from tests.support import PROPERTY, new_user, serving

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("shape", WRITERS)
async def test_a_conversation_is_kept_as_it_was_said(service: ChatService, user_id: UserId, shape: str) -> None:
    format_name, write = WRITERS[shape]
    told = await take_in(service, user_id, format_name, write(SHORT))
    [session] = await sessions_of(service, user_id)
    assert await told_by(service, user_id, session["id"]) == SHORT
    assert told["added"]["tool calls"] == 2
    assert told["problems"] == []
    assert (session["source"], session["client"]) == (format_name, format_name)
    again = await take_in(service, user_id, format_name, write(SHORT))
    assert (again["stored"], again["added"]) == ({}, {})
    assert again["already_there"].keys() >= told["stored"].keys()
    assert await told_by(service, user_id, session["id"]) == SHORT


@pytest.mark.parametrize("shape", WRITERS)
async def test_imported_entries_say_that_they_were_imported(service: ChatService, user_id: UserId, shape: str) -> None:
    format_name, write = WRITERS[shape]
    await take_in(service, user_id, format_name, write(SHORT))
    [session] = await sessions_of(service, user_id)
    entries = (await service.get_session_history(user_id, SessionId(session["id"]), limit=500))["entries"]
    assert {entry["author"] for entry in entries if "message_type" in entry} == {"import"}
    assert {entry["origin"] for entry in entries if "message_type" not in entry} == {"import"}
    asked = [entry for entry in entries if "message_type" not in entry]
    assert all(entry["message_seq"] is not None for entry in asked)


def test_what_the_source_says_is_what_the_history_says(tmp_path: Path) -> None:
    with serving(tmp_path) as world:
        counter = iter(range(10**6))

        @settings(PROPERTY, max_examples=40)
        @given(st.sampled_from(sorted(WRITERS)), CONVERSATIONS)
        def check(shape: str, turns: list[Said]) -> None:
            format_name, write = WRITERS[shape]

            async def import_twice() -> tuple[Sequence[Said], Sequence[Said]]:
                user_id = await new_user(world.service, f"user {next(counter)}")
                told = await take_in(world.service, user_id, format_name, write(turns))
                again = await take_in(world.service, user_id, format_name, write(turns))
                assert again["added"] == {}
                assert again["records"] == told["records"]
                [session] = await sessions_of(world.service, user_id)
                found = await told_by(world.service, user_id, session["id"])
                # Chat Completions has no way to say that a call failed.
                said = [replace(turn, failed=False) for turn in turns] if shape == "openai chat" else turns
                return said, found

            expected, found = world.runner.run(import_twice())
            assert found == expected

        check()


async def test_real_transcripts_are_imported_whole_and_once(service: ChatService, user_id: UserId) -> None:
    found = real_transcripts(os.environ.get("MCP_CHAT_TRANSCRIPTS"))
    if not found:
        pytest.skip("MCP_CHAT_TRANSCRIPTS names no folder of real transcripts")
    reports = []
    for _ in range(2):
        report = Report()
        for format_name, path in found:
            await import_file(service, user_id, Origin(format_name), FORMATS[format_name], path, report)
        reports.append(report.to_dict())
    first, second = reports
    for told in reports:
        assert_adds_up(told)
        assert told["left_out"] == {}
    assert first["records"] == second["records"]
    assert first["already_there"] == {}
    assert (second["stored"], second["added"]) == ({}, {})
    sessions = await sessions_of(service, user_id)
    assert first["added"]["sessions"] == len(sessions)
    assert first["added"]["messages"] == sum(session["message_count"] for session in sessions)
    assert first["added"]["tool calls"] == sum(session["tool_usage_count"] for session in sessions)
    lines = [
        path.read_text().count("\n") + (not path.read_text().endswith("\n"))
        for name, path in found
        if name in ("claude-code", "codex")
    ]
    trees = [each for each in reports[0]["skipped"] if each["type"] == "conversation"]
    assert first["records"] > sum(lines) + len(trees)
