"""Pages of tool usage: the newest calls of a user wherever they lie among those of others, with their counts."""

import itertools
from typing import Any

import pytest

from chat_service import tool_usage
from chat_service.service import ChatService
from chat_service.work import Work
from models.errors import Invalid, NotFound
from models.ids import SessionId, UserId, new_id
from models.shapes import ToolUsageDict, ToolUsageLineDict
from models.text import to_json
from tests.support import done, new_session

pytestmark = pytest.mark.anyio

TOOLS = (("read", None), ("read", "files"), ("write", "files"), ("lone", None))
STATUSES = ("success", "error", "unknown")
FILTERS: list[dict[str, Any]] = [
    {"tool_name": tool, "status": status}
    for tool, status in itertools.product((None, "read", "lone", "absent"), (None, "error", "cancelled"))
]


async def add_calls(
    service: ChatService, user_id: UserId, session_ids: list[SessionId], count: int
) -> list[ToolUsageDict]:
    """Append so many calls, to each session by turns, and return them."""

    def add_all(work: Work) -> list[ToolUsageDict]:
        return [
            tool_usage.add(work, user_id, session_ids[number % len(session_ids)], _call(number))
            for number in range(count)
        ]

    return await service.transaction(add_all)


def _call(number: int) -> Any:
    tool, server = TOOLS[0 if number % 50 else 3] if number % 3 else TOOLS[1 + number % 2]
    given: dict[str, Any] = {"server_name": server, "status": STATUSES[number % 7 % 3]}
    return done(tool, **given, duration_ms=number / 4 if number % 5 else None)


async def pages_of(
    service: ChatService, user_id: UserId, session_id: SessionId | None, limit: int, filters: dict[str, Any]
) -> list[ToolUsageDict]:
    calls: list[ToolUsageDict] = []
    cursor = None
    while True:
        page = await service.get_session_tool_usage(user_id, session_id, **filters, limit=limit, cursor=cursor)
        calls += page["tool_usages"]
        cursor = page["next_cursor"]
        if cursor is None:
            return calls


@pytest.mark.parametrize("limit", [7, 500])
async def test_pages_of_all_sessions_are_whole_among_the_calls_of_others(
    limit: int, service: ChatService, user_id: UserId, stranger_id: UserId
) -> None:
    mine = [await new_session(service, user_id) for _ in range(3)]
    theirs = [await new_session(service, stranger_id)]
    calls = await add_calls(service, user_id, mine, 90)
    others = await add_calls(service, stranger_id, theirs, 640)
    calls += await add_calls(service, user_id, mine, 12)
    for of_user, stored in ((user_id, calls), (stranger_id, others)):
        for filters in FILTERS:
            kept = [call for call in reversed(stored) if _is_kept(call, filters)]
            assert await pages_of(service, of_user, None, limit, filters) == kept


async def test_the_counts_beside_a_page_are_those_of_the_summary(
    service: ChatService, user_id: UserId, stranger_id: UserId
) -> None:
    one, other = await new_session(service, user_id), await new_session(service, user_id)
    await add_calls(service, user_id, [one, other, one], 120)
    await add_calls(service, stranger_id, [await new_session(service, stranger_id)], 10)
    fork = SessionId((await service.fork_session(user_id, one, 30))["id"])
    await add_calls(service, user_id, [fork], 8)
    for session_id in (None, one, fork):
        for filters in FILTERS:
            listed = await service.list_tool_usage(user_id, session_id, **filters, limit=9)
            page = await service.get_session_tool_usage(user_id, session_id, **filters, limit=9)
            assert listed["next_cursor"] == page["next_cursor"]
            assert listed["tool_usages"] == [_line(call) for call in page["tool_usages"]]
            if page["next_cursor"] is not None:
                filtered: dict[str, Any] = {**filters, "cursor": page["next_cursor"]}
                second = await service.list_tool_usage(user_id, session_id, **filtered, limit=9)
                following = await service.get_session_tool_usage(user_id, session_id, **filtered, limit=9)
                assert second["tool_usages"] == [_line(call) for call in following["tool_usages"]]
                assert second["counts"] is None
            summary = await service.summarize_tool_usage(user_id, session_id, **filters)
            fields = ("tool_name", "server_name", "calls", "errors", "total_duration_ms")
            tools = [{name: tool[name] for name in fields} for tool in summary["tools"]]  # type: ignore[literal-required]
            assert listed["counts"] == {
                "calls": summary["calls"],
                "errors": summary["errors"],
                "tools": tools,
                "left_out": summary["left_out"],
            }
            assert summary["calls"] == len(await pages_of(service, user_id, session_id, 500, filters))


async def test_a_list_has_the_beginnings_of_texts_and_of_attachments_where_they_are_kept(
    service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    image = {"type": "image", "data": "iVBORw0KGgo" * 1_000, "mimeType": "image/png"}
    await service.add_tool_usage(
        user_id, session_id, done(arguments={"text": "é" * 300}, error="é" * 300, result=image)
    )
    (line,) = (await service.list_tool_usage(user_id, session_id, text_limit=50))["tool_usages"]
    assert line["arguments"] == '{"text":"' + "é" * 41
    assert line["error"] == "é" * 50
    assert line["result"] is not None
    assert line["result"].startswith('{"type":"image","data":{"blob_reference":"')
    assert len(line["result"]) == 50
    page = await service.get_session_tool_usage(user_id, session_id)
    assert page["tool_usages"][0]["result"] == image


async def test_more_tools_than_are_told_one_by_one_are_counted(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    for number in range(130):
        await service.add_tool_usage(user_id, session_id, done(f"tool {number:03}"))
    await service.add_tool_usage(user_id, session_id, done("tool 129"))
    counts = (await service.list_tool_usage(user_id))["counts"]
    assert counts is not None
    assert (counts["calls"], len(counts["tools"]), counts["left_out"]) == (131, 100, 30)
    assert [tool["tool_name"] for tool in counts["tools"][:2]] == ["tool 129", "tool 000"]


async def test_a_list_is_refused_as_a_page_is(service: ChatService, user_id: UserId, stranger_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    with pytest.raises(NotFound):
        await service.list_tool_usage(stranger_id, session_id)
    with pytest.raises(NotFound):
        await service.list_tool_usage(UserId(new_id()))
    with pytest.raises(Invalid, match="limit"):
        await service.list_tool_usage(user_id, limit=0)
    with pytest.raises(Invalid, match="tool_name"):
        await service.list_tool_usage(user_id, tool_name="\0")


def _line(call: ToolUsageDict) -> dict[str, Any]:
    shown = {name: call[name] for name in ToolUsageLineDict.__annotations__}  # type: ignore[literal-required]
    return {**shown, "arguments": to_json(call["arguments"]), "result": call["result"] and to_json(call["result"])}


def _is_kept(call: ToolUsageDict, filters: dict[str, Any]) -> bool:
    return filters["tool_name"] in (None, call["tool_name"]) and filters["status"] in (None, call["status"])
