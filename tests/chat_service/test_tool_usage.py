"""Tool usage: one record a call, in the one timeline, joined to the message that asked whichever comes second."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_service import tool_usage
from chat_service.limits import Limits
from chat_service.service import ChatService
from chat_service.tokens import count_tool_usage, estimate_tokens
from chat_service.work import Work
from models.database import Database
from models.errors import Conflict, Invalid, TooLarge
from models.ids import SessionId, UserId
from models.inputs import NewToolUsage
from models.shapes import ToolUsageDict
from tests.support import (
    JSON_OBJECTS,
    JSON_VALUES,
    PROPERTY,
    TEXTS,
    asking,
    done,
    fill,
    hear,
    last_seq,
    new_session,
    said,
    serving,
)

pytestmark = pytest.mark.anyio


async def test_a_tool_usage_comes_back_with_everything_it_was_given(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    await service.add_message(user_id, session_id, said())
    usage = NewToolUsage.model_validate(
        {
            "tool_name": "read_file",
            "server_name": "files",
            "arguments": {"path": "/x", "n": 12345678901234567890},
            "result": [{"text": "…"}, None, 2.5],
            "status": "cancelled",
            "error": "stopped",
            "started_at": "2026-01-31T12:00:00.123456+02:00",
            "duration_ms": 12.5,
            "tool_call_id": "call",
            "message_seq": 1,
            "origin": "proxy",
            "call_metadata": {"client": "cursor", "traceparent": "00-1-2-01"},
            "idempotency_key": "k",
        }
    )
    stored = await service.add_tool_usage(user_id, session_id, usage)
    assert stored == {
        "id": f"{session_id}:2",
        "session_id": session_id,
        "user_id": user_id,
        "seq": 2,
        "message_seq": 1,
        "tool_call_id": "call",
        "server_name": "files",
        "tool_name": "read_file",
        "arguments": {"path": "/x", "n": 12345678901234567890},
        "result": [{"text": "…"}, None, 2.5],
        "status": "cancelled",
        "error": "stopped",
        "started_at": "2026-01-31T10:00:00.123456Z",
        "duration_ms": 12.5,
        "origin": "proxy",
        "token_count": count_tool_usage(estimate_tokens, usage),
        "call_metadata": {"client": "cursor", "traceparent": "00-1-2-01"},
        "created_at": stored["created_at"],
    }
    assert (await service.get_session_tool_usage(user_id, session_id))["tool_usages"] == [stored]
    assert (await service.get_session_tool_usage(user_id))["tool_usages"] == [stored]
    assert (await service.get_session_history(user_id, session_id))["entries"][1] == stored
    session = await service.get_session(user_id, session_id)
    assert (session["last_seq"], session["message_count"], session["tool_usage_count"]) == (2, 1, 1)
    assert session["last_append_at"] == stored["created_at"]


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({}, "success"),
        ({"error": "no such file"}, "error"),
        ({"error": ""}, "error"),
        ({"error": "late", "status": "success"}, "success"),
        ({"status": "unknown"}, "unknown"),
    ],
)
async def test_a_status_that_is_not_given_is_taken_from_the_error(
    service: ChatService, user_id: UserId, given: dict[str, Any], status: str
) -> None:
    session_id = await new_session(service, user_id)
    assert (await service.add_tool_usage(user_id, session_id, done(**given)))["status"] == status


# Joining


async def test_a_record_joins_the_message_that_asked_for_it(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    await service.add_messages(user_id, session_id, [asking("a", "b"), said()])
    assert (await service.add_tool_usage(user_id, session_id, done(tool_call_id="b")))["message_seq"] == 1
    assert (await service.add_tool_usage(user_id, session_id, done(tool_call_id="a")))["message_seq"] == 1
    assert (await service.add_tool_usage(user_id, session_id, done(tool_call_id="c")))["message_seq"] is None
    assert (await service.add_tool_usage(user_id, session_id, done()))["message_seq"] is None


async def test_a_message_that_comes_second_joins_the_records(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    for tool_call_id in ("a", "b", "c"):
        record = await service.add_tool_usage(user_id, session_id, done(tool_call_id=tool_call_id))
        assert record["message_seq"] is None
    await service.add_messages(user_id, session_id, [said(), asking("a", "b")])
    assert await asked_by(service, user_id, session_id) == {1: 5, 2: 5, 3: None}


async def test_a_repeated_tool_call_id_joins_the_last_message_that_asked(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    for _ in range(2):
        await service.add_message(user_id, session_id, asking("call_0"))
        await service.add_tool_usage(user_id, session_id, done(tool_call_id="call_0"))
    assert await asked_by(service, user_id, session_id) == {2: 1, 4: 3}


async def test_a_message_with_a_repeated_tool_call_id_leaves_records_that_are_joined_already(
    service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_tool_usage(user_id, session_id, done(tool_call_id="call_0"))
    await service.add_messages(user_id, session_id, [asking("call_0"), asking("call_0")])
    assert await asked_by(service, user_id, session_id) == {1: 2}


async def test_a_message_may_name_one_call_twice(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    stored = await service.add_message(user_id, session_id, asking("a", "a"))
    assert stored["parts"] == [{"type": "tool_call", "id": "a"}] * 2
    assert (await service.add_tool_usage(user_id, session_id, done(tool_call_id="a")))["message_seq"] == 1


async def test_a_given_message_seq_goes_before_the_tool_call_id(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    await service.add_messages(user_id, session_id, [said(), asking("a")])
    record = await service.add_tool_usage(user_id, session_id, done(tool_call_id="a", message_seq=1))
    assert record["message_seq"] == 1


async def test_calls_are_joined_within_their_session_alone(service: ChatService, user_id: UserId) -> None:
    one, other = await new_session(service, user_id), await new_session(service, user_id)
    await service.add_tool_usage(user_id, one, done(tool_call_id="a"))
    await service.add_message(user_id, other, asking("a"))
    await service.add_tool_usage(user_id, one, done(tool_call_id="a"))
    assert await asked_by(service, user_id, one) == {1: None, 2: None}


@pytest.mark.parametrize("message_seq", [2, 3, 4, 2**53 - 1], ids=lambda seq: f"seq {seq}")
async def test_message_seq_must_be_that_of_an_earlier_message(
    service: ChatService, user_id: UserId, message_seq: int
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_message(user_id, session_id, said())
    await service.add_tool_usage(user_id, session_id, done())
    heard = hear(service)
    with pytest.raises(Invalid, match="message_seq is not the seq of an earlier message"):
        await service.add_tool_usage(user_id, session_id, done(message_seq=message_seq))
    assert heard == []
    assert (await service.add_tool_usage(user_id, session_id, done()))["seq"] == 3


async def asked_by(service: ChatService, user_id: UserId, session_id: SessionId) -> dict[int, int | None]:
    page = await service.get_session_tool_usage(user_id, session_id)
    return {usage["seq"]: usage["message_seq"] for usage in page["tool_usages"]}


# Exactly once


async def test_a_replay_returns_the_first_record_and_burns_no_seq(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    usage = done(arguments={"a": [1, 2.0]}, result={"b": None}, duration_ms=3, idempotency_key="k")
    first = await service.add_tool_usage(user_id, session_id, usage, expected_seq=0)
    await service.add_message(user_id, session_id, said())
    heard = hear(service)
    assert await service.add_tool_usage(user_id, session_id, usage, expected_seq=0) == first
    assert heard == []
    assert await last_seq(service, user_id, session_id) == 2


@pytest.mark.parametrize("other", [{"arguments": {"a": 1}}, {"result": 1}, {"error": "no"}, {"tool_name": "write"}])
async def test_a_key_with_another_body_is_a_conflict(
    service: ChatService, user_id: UserId, other: dict[str, Any]
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_tool_usage(user_id, session_id, done(idempotency_key="k"))
    with pytest.raises(Conflict, match="idempotency_key"):
        await service.add_tool_usage(user_id, session_id, done(idempotency_key="k", **other))
    assert await last_seq(service, user_id, session_id) == 1


async def test_the_same_moment_in_another_time_zone_is_a_replay(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    first, again = [
        await service.add_tool_usage(user_id, session_id, done(started_at=started_at, idempotency_key="k"))
        for started_at in ("2026-01-31T12:00:00Z", "2026-01-31T13:30:00+01:30")
    ]
    assert first == again


async def test_a_stale_expected_seq_is_a_conflict(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    await service.add_tool_usage(user_id, session_id, done(), expected_seq=0)
    with pytest.raises(Conflict, match="expected_seq is 0, but the session's last entry is 1"):
        await service.add_tool_usage(user_id, session_id, done(), expected_seq=0)


# Sizes and round trips


@pytest.mark.parametrize("field", ["arguments", "result", "error"])
async def test_what_is_oversized_is_named(database: Database, user_id: UserId, field: str) -> None:
    service = ChatService(database, limits=Limits(content=100))
    session_id = await new_session(service, user_id)
    long: Any = {"a": "é" * 51} if field == "arguments" else "é" * 51
    with pytest.raises(TooLarge, match=f"^{field} is larger than 100 bytes"):
        await service.add_tool_usage(user_id, session_id, done(**{field: long}))
    assert await last_seq(service, user_id, session_id) == 0


def test_arguments_result_and_error_come_back_exactly_as_they_were_given(tmp_path: Path) -> None:
    with serving(tmp_path) as at:

        @PROPERTY
        @given(arguments=JSON_OBJECTS, result=JSON_VALUES, error=st.none() | TEXTS)
        def comes_back(arguments: dict[str, Any], result: Any, error: str | None) -> None:
            usage = done(arguments=arguments, result=result, error=error)
            stored = at.runner.run(at.service.add_tool_usage(at.user_id, at.session_id, usage))
            read = at.runner.run(at.service.get_session_tool_usage(at.user_id, at.session_id, limit=1))
            assert read["tool_usages"] == [stored]
            # The text of JSON tells 1 from 1.0 and from true.
            assert json.dumps(read["tool_usages"]) == json.dumps([stored])
            assert json.dumps([stored["arguments"], stored["result"]]) == json.dumps([arguments, result])
            assert stored["error"] == error

        comes_back()


# Lists and totals


async def test_tool_usage_is_listed_newest_first_of_a_session_or_of_all(service: ChatService, user_id: UserId) -> None:
    one, other = await new_session(service, user_id), await new_session(service, user_id)
    first = await service.add_tool_usage(user_id, one, done("a"))
    second = await service.add_tool_usage(user_id, other, done("b"))
    third = await service.add_tool_usage(user_id, one, done("c"))
    assert (await service.get_session_tool_usage(user_id, one))["tool_usages"] == [third, first]
    assert (await service.get_session_tool_usage(user_id))["tool_usages"] == [third, second, first]


async def test_tool_usage_is_filtered_by_name_and_status(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    for tool_name, error in (("read", None), ("read", "no"), ("write", "no"), ("read", None)):
        await service.add_tool_usage(user_id, session_id, done(tool_name, error=error))

    async def found(**filters: Any) -> list[int]:
        of_session = await service.get_session_tool_usage(user_id, session_id, **filters)
        assert await service.get_session_tool_usage(user_id, **filters) == of_session
        return [usage["seq"] for usage in of_session["tool_usages"]]

    assert await found(tool_name="read") == [4, 2, 1]
    assert await found(status="error") == [3, 2]
    assert await found(tool_name="read", status="error") == [2]
    assert await found(tool_name="Read") == []
    assert await found(tool_name="%") == []


def test_pages_put_together_equal_the_whole(tmp_path: Path) -> None:
    with serving(tmp_path) as at:
        at.runner.run(fill(at.service, at.user_id, at.session_id, 50))

        def read(session_id: SessionId | None, limit: int) -> list[ToolUsageDict]:
            page = at.runner.run(at.service.get_session_tool_usage(at.user_id, session_id, limit=limit))
            found = page["tool_usages"]
            while page["next_cursor"] is not None:
                assert len(page["tool_usages"]) == limit
                cursor = page["next_cursor"]
                page = at.runner.run(
                    at.service.get_session_tool_usage(at.user_id, session_id, limit=limit, cursor=cursor)
                )
                found += page["tool_usages"]
            return found

        whole = read(at.session_id, 500)
        assert [usage["seq"] for usage in whole] == list(range(50, 0, -2))

        @PROPERTY
        @given(limit=st.integers(1, 30))
        def equal(limit: int) -> None:
            assert read(at.session_id, limit) == whole
            assert read(None, limit) == whole

        equal()


async def test_a_page_is_not_moved_by_what_is_appended_meanwhile(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    await fill(service, user_id, session_id, 8)
    page = await service.get_session_tool_usage(user_id, session_id, limit=2)
    await service.add_tool_usage(user_id, session_id, done())
    rest = await service.get_session_tool_usage(user_id, session_id, limit=2, cursor=page["next_cursor"])
    assert [usage["seq"] for usage in page["tool_usages"] + rest["tool_usages"]] == [8, 6, 4, 2]


async def test_a_cursor_serves_the_list_that_gave_it_and_no_other(
    service: ChatService, user_id: UserId, stranger_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    await fill(service, user_id, session_id, 8)
    cursor = (await service.get_session_tool_usage(user_id, session_id, limit=1))["next_cursor"]
    others: list[Any] = [
        service.get_session_tool_usage(user_id, cursor=cursor),
        service.get_session_tool_usage(user_id, session_id, tool_name="read", cursor=cursor),
        service.get_session_tool_usage(user_id, session_id, status="success", cursor=cursor),
        service.get_session_tool_usage(stranger_id, cursor=cursor),
        service.get_user_sessions(user_id, cursor=cursor),
    ]
    for other in others:
        with pytest.raises(Invalid, match="cursor is not one that this list gave"):
            await other


@pytest.mark.parametrize("limit", [0, -1, 501])
async def test_a_limit_beyond_a_page_is_invalid(service: ChatService, user_id: UserId, limit: int) -> None:
    with pytest.raises(Invalid, match="limit must be between 1 and 500"):
        await service.get_session_tool_usage(user_id, limit=limit)


async def test_a_filter_that_is_no_text_is_answered_or_refused_and_never_a_crash(
    service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_tool_usage(user_id, session_id, done())
    for tool_name in ("\ud800", "\0"):
        with contextlib.suppress(Invalid):
            page = await service.get_session_tool_usage(user_id, session_id, tool_name=tool_name)
            assert page["tool_usages"] == []
        with contextlib.suppress(Invalid):
            assert (await service.summarize_tool_usage(user_id, session_id, tool_name=tool_name))["calls"] == 0


async def test_totals_count_calls_errors_and_time_most_used_first(
    service: ChatService, user_id: UserId, stranger_id: UserId
) -> None:
    one, other = await new_session(service, user_id), await new_session(service, user_id)
    await service.add_tool_usage(user_id, one, done("write", duration_ms=1.5))
    await service.add_tool_usage(user_id, one, done("read", duration_ms=2, error="no"))
    await service.add_tool_usage(user_id, other, done("read"))
    await service.add_tool_usage(user_id, other, done("read", status="cancelled", duration_ms=0.25))
    totals = await service.summarize_tool_usage(user_id)
    read, write = totals["tools"]
    assert (read["tool_name"], read["calls"], read["errors"], read["total_duration_ms"]) == ("read", 3, 1, 2.25)
    assert (write["tool_name"], write["calls"], write["errors"], write["total_duration_ms"]) == ("write", 1, 0, 1.5)
    assert (totals["calls"], totals["errors"], totals["unknown"], totals["left_out"]) == (4, 1, 0, 0)
    assert (await service.summarize_tool_usage(user_id, one))["calls"] == 2
    assert (await service.summarize_tool_usage(user_id, tool_name="write"))["tools"] == [write]
    assert (await service.summarize_tool_usage(user_id, status="error"))["calls"] == 1
    nothing = {"calls": 0, "errors": 0, "unknown": 0, "tools": [], "left_out": 0}
    assert await service.summarize_tool_usage(stranger_id) == nothing
    assert await service.summarize_tool_usage(user_id, tool_name="none") == nothing


async def test_totals_of_very_many_tools_say_how_many_are_left_out(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)

    def use_many(work: Work) -> None:
        for number in range(103):
            tool_usage.add(work, user_id, session_id, done(f"tool {number:03}"))

    await service.transaction(use_many)
    summary = await service.summarize_tool_usage(user_id, session_id)
    assert (summary["calls"], len(summary["tools"]), summary["left_out"]) == (103, 100, 3)
