"""Resources: the record under addresses, bounded as the tools' results are, and ids completed."""

import json
from collections.abc import AsyncIterator
from typing import Any, cast

import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError

from models.ids import new_id
from server.resources import KEPT_MILLISECONDS
from server.results import MAX_CHARACTERS
from tests.server.support import ERAS, Tools, tools_of

pytestmark = pytest.mark.anyio

SESSION = "chat://sessions/{}"
KINDS = ("", "/history", "/tool-usage", "/archive", "/transcript")
PAGE = "/history/1-5"
COMPLETED = types.ResourceTemplateReference(uri="chat://sessions/{session_id}")


@pytest.fixture(params=ERAS)
async def tools(database_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Tools]:
    async with tools_of(database_url, request.param) as tools:
        yield tools


async def test_the_list_of_sessions_is_listed_as_a_resource(tools: Tools) -> None:
    await tools.new_session(title="not listed: the list is the same for everybody")
    (listed,) = (await tools.client.list_resources()).resources
    assert str(listed.uri) == "chat://sessions"
    assert listed.description
    assert listed.mime_type == "application/json"


async def test_the_templates_of_all_resources_are_listed(tools: Tools) -> None:
    listed = (await tools.client.list_resource_templates()).resource_templates
    assert [template.uri_template.partition("{?")[0] for template in listed] == [
        "chat://sessions",
        "chat://sessions/{session_id}",
        "chat://sessions/{session_id}/history",
        "chat://sessions/{session_id}/history/{first_seq}-{last_seq}",
        "chat://sessions/{session_id}/tool-usage",
        "chat://sessions/{session_id}/archive",
        "chat://sessions/{session_id}/transcript",
    ]
    assert all(template.description and template.mime_type for template in listed)
    assert len({template.name for template in listed}) == len(listed)


async def test_each_resource_says_what_the_tool_says(tools: Tools) -> None:
    session = await filled_session(tools)
    assert await read_json(tools, "chat://sessions") == await tools.answer("list_sessions")
    active = await tools.answer("get_active_session")
    assert await read_json(tools, f"chat://sessions/{session}") == active["session"]
    history = await tools.answer("get_session_history", session_id=session)
    assert await read_json(tools, f"chat://sessions/{session}/history") == history
    usage = await tools.answer("list_tool_usage", session_id=session)
    assert await read_json(tools, f"chat://sessions/{session}/tool-usage") == usage


async def test_the_transcript_is_readable_text(tools: Tools) -> None:
    session = await filled_session(tools)
    content = await read(tools, f"chat://sessions/{session}/transcript")
    assert content.mime_type == "text/plain"
    lines = content.text.splitlines()
    assert lines[1:3] == ["[1] user: entry 1", '[2] tool t {"n":2} success']
    assert len(lines) == 7


async def test_an_archive_is_read_page_by_page_to_its_end(tools: Tools) -> None:
    session = await tools.new_session(title="x" * 400, metadata={"long": "m" * 6_000})
    for length in (10, 6_000, 6_300, 30_000, 6_300, 20):
        await tools.say(session, "y" * length)
    lines: list[dict[str, Any]] = []
    after, newer = 0, 1
    while newer:
        content = await read(tools, f"chat://sessions/{session}/archive?after_seq={after}")
        assert (content.mime_type, len(content.text) <= 20_000) == ("application/x-ndjson", True)
        first, *page, last = [json.loads(line) for line in content.text.split("\n")]
        assert (first["type"], last["type"]) == ("session", "page_end")
        assert last["after_seq"] > after
        after, newer = last["after_seq"], last["newer"]
        lines += page
    assert [line["seq"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["type"] for line in lines] == ["message"] * 3 + ["left_out"] + ["message"] * 2
    assert lines[3]["characters"] > 30_000


async def test_the_archive_of_a_fork_is_its_own_entries_page_by_page_to_its_end(tools: Tools) -> None:
    parent = await tools.new_session()
    for number in range(60):
        await tools.say(parent, f"number {number}")
    fork = (await tools.answer("fork_session", session_id=parent))["id"]
    for expected in ([], list(range(61, 121))):
        seqs: list[int] = []
        after, newer, pages = 0, 1, 0
        while newer and pages < 4:
            content = await read(tools, f"chat://sessions/{fork}/archive?after_seq={after}")
            _, *page, last = [json.loads(line) for line in content.text.split("\n")]
            after, newer, pages = last["after_seq"], last["newer"], pages + 1
            seqs += [line["seq"] for line in page]
        assert (seqs, newer) == (expected, 0)
        for number in range(60):
            await tools.say(fork, f"own {number}")


async def test_a_resource_is_read_on_by_its_query(tools: Tools) -> None:
    session = await filled_session(tools)
    for kind in ("history", "transcript"):
        windows: list[tuple[str, list[int]]] = [
            ("?limit=2", [5, 6]),
            ("?limit=2&before_seq=5", [3, 4]),
            ("?before_seq=3", [1, 2]),
            ("?after_seq=4", [5, 6]),
            ("?limit=1&after_seq=1", [2]),
        ]
        for query, seqs in windows:
            content = await read(tools, f"chat://sessions/{session}/{kind}{query}")
            if kind == "history":
                assert [entry["seq"] for entry in json.loads(content.text)["entries"]] == seqs
            else:
                assert [int(line[1]) for line in content.text.splitlines()[1:]] == seqs
    first = await read_json(tools, f"chat://sessions/{session}/tool-usage?limit=2")
    rest = await read_json(tools, f"chat://sessions/{session}/tool-usage?limit=2&cursor={first['next_cursor']}")
    assert [usage["seq"] for usage in first["tool_usages"] + rest["tool_usages"]] == [6, 4, 2]
    assert "next_cursor" not in rest


async def test_the_list_of_sessions_is_read_on_by_its_cursor(tools: Tools) -> None:
    ids = [await tools.new_session() for _ in range(5)]
    seen: list[str] = []
    address = "chat://sessions?limit=2"
    while True:
        page = await read_json(tools, address)
        seen += [session["id"] for session in page["sessions"]]
        if "next_cursor" not in page:
            break
        address = f"chat://sessions?limit=2&cursor={page['next_cursor']}"
    assert seen == ids[::-1]


@pytest.mark.parametrize(
    "address",
    [
        "chat://nothing",
        "chat://",
        "chat:sessions",
        "chat://session/{}",
        "chat://sessions/{}/nothing",
        "chat://sessions/{}/history/1",
        "chat://sessions/{}/../{}",
        "https://example.org/sessions",
        "file:///etc/passwd",
        "",
    ],
)
async def test_an_unknown_address_is_a_protocol_error(tools: Tools, address: str) -> None:
    session = await tools.new_session()
    message = await refusal(tools, address.format(session, session))
    assert "not found" in message
    assert "resources/templates/list" in message


@pytest.mark.parametrize("kind", [*KINDS, PAGE])
async def test_a_foreign_session_reads_exactly_as_an_absent_one(database_url: str, kind: str) -> None:
    async with tools_of(database_url) as ada, tools_of(database_url, user="mallory") as mallory:
        session = await filled_session(ada)
        foreign = await refusal(mallory, SESSION.format(session) + kind)
        assert foreign == await refusal(mallory, SESSION.format(new_id()) + kind)
        assert foreign.startswith("NotFound")
        assert (await read_json(mallory, "chat://sessions"))["sessions"] == []


@pytest.mark.parametrize("kind", [*KINDS, PAGE])
async def test_an_id_that_cannot_be_one_is_refused_without_repeating_it(tools: Tools, kind: str) -> None:
    for bad in ("zq7canary", "%00", "%ff", "..%2f..", "%F0%9F%98%80", "x" * 5_000):
        message = await refusal(tools, SESSION.format(bad) + kind)
        assert "zq7canary" not in message
        assert len(message) < 300


async def test_a_bad_query_of_a_window_is_refused_by_the_name_of_its_field(tools: Tools) -> None:
    session = await filled_session(tools)
    numbers = ["0", "-1", "zq7canary", "1.5", "", "9" * 5_000]
    queries = [f"{name}={number}" for name in ("limit", "before_seq", "after_seq") for number in numbers]
    queries.remove("after_seq=0")
    for kind in ("history", "transcript"):
        for query in [*queries, "limit=501", f"limit={'9' * 30}", "before_seq=2&after_seq=1"]:
            message = await refusal(tools, f"chat://sessions/{session}/{kind}?{query}")
            assert query.partition("=")[0] in message, f"{query}: {message}"
            assert "zq7canary" not in message
            assert len(message) < 300


async def test_a_bad_query_of_a_list_is_refused_by_the_name_of_its_field(tools: Tools) -> None:
    session = await filled_session(tools)
    for address in ("chat://sessions", f"chat://sessions/{session}/tool-usage"):
        for query in ("limit=0", "limit=-1", "limit=1000", "limit=x", "cursor=zq7canary", "cursor="):
            message = await refusal(tools, f"{address}?{query}")
            assert query.partition("=")[0] in message, message
            assert "zq7canary" not in message


@pytest.mark.parametrize("character", ['"', "\\", "\n", "w"])
async def test_every_resource_is_bounded_whatever_was_stored_and_asked_for(database_url: str, character: str) -> None:
    async with tools_of(database_url, client_name=character * 300) as tools:
        for _ in range(60):
            session = await tools.new_session(title=character * 512)
        long = character * 5_000
        for number in range(60):
            await tools.say(session, long)
            await tools.answer(
                "log_tool_usage",
                session_id=session,
                tool_name=character * 198 + f"{number:02}",
                arguments={long: long},
                result=long,
                error=long,
            )
        addresses = ["chat://sessions"] + [SESSION.format(session) + kind for kind in (*KINDS, "/history/1-120")]
        for address in addresses:
            for query in ("", "?limit=30", "?limit=500"):
                if query and address.endswith((session, "120")):
                    continue
                try:
                    content = await read(tools, address + query)
                except MCPError as error:
                    # To refuse what is too many is as good.
                    assert "limit" in error.error.message  # noqa: PT017
                    continue
                shown = f"{address}{query} has {len(content.text)} characters"
                assert len(content.text) <= MAX_CHARACTERS, shown


# Pages


async def test_a_page_is_the_entries_between_two_seqs_and_says_how_to_read_on(tools: Tools) -> None:
    session = await filled_session(tools)
    history = await tools.answer("get_session_history", session_id=session)
    for first, last, missing in ((1, 6, None), (2, 3, None), (6, 6, None), (5, 9, 7), (7, 9, 7), (90, 99, 90)):
        page = await read_json(tools, f"chat://sessions/{session}/history/{first}-{last}")
        assert page["entries"] == history["entries"][first - 1 : last]
        assert page.get("next_seq") == missing
    await tools.say(session, *['"' * 1_900] * 20)
    page = await read_json(tools, f"chat://sessions/{session}/history/1-26")
    assert [entry["seq"] for entry in page["entries"]] == list(range(1, page["next_seq"]))


async def test_a_page_that_cannot_be_is_refused(tools: Tools) -> None:
    session = await filled_session(tools)
    for page in ("3-2", "1-501", "0-5", "-1-5", "1-", "a-b", f"1-{'9' * 30}"):
        message = await refusal(tools, f"chat://sessions/{session}/history/{page}")
        assert "_seq" in message or "not found" in message, message


async def test_only_a_page_that_cannot_change_may_be_kept_and_by_its_user_alone(tools: Tools) -> None:
    session = await filled_session(tools)
    await tools.answer("log_tool_usage", session_id=session, tool_name="t", arguments={}, tool_call_id="asked later")
    addresses = ["chat://sessions"] + [SESSION.format(session) + kind for kind in KINDS]
    kept = {address: (await tools.client.read_resource(address)).ttl_ms for address in addresses}
    assert set(kept.values()) == {0}
    # Only the protocol of 2026 has the hint.
    lasting = KEPT_MILLISECONDS if tools.client.protocol_version == "2026-07-28" else 0
    for page, expected in (("1-6", lasting), ("2-2", lasting), ("1-7", 0), ("6-8", 0), ("8-8", 0)):
        answer = await tools.client.read_resource(f"chat://sessions/{session}/history/{page}")
        assert (answer.ttl_ms, answer.cache_scope) == (expected, "private"), page
    await tools.answer(
        "add_messages",
        session_id=session,
        messages=[{"role": "assistant", "parts": [{"type": "tool_call", "id": "asked later"}]}],
    )
    answer = await tools.client.read_resource(f"chat://sessions/{session}/history/1-8")
    assert answer.ttl_ms == lasting


# Completion


async def test_a_session_id_is_completed_from_its_beginning(tools: Tools) -> None:
    ids = [await tools.new_session(title=f"title {number}") for number in range(3)]
    assert await completions(tools, ids[0]) == [ids[0]]
    assert set(await completions(tools, "")) == set(ids)
    assert set(await completions(tools, ids[0][:8])) >= {ids[0]}


async def test_a_session_id_is_completed_from_a_part_of_its_title(tools: Tools) -> None:
    red, _ = await tools.new_session(title="the Red one"), await tools.new_session(title="the blue one")
    assert await completions(tools, "red") == [red]
    assert await completions(tools, "green") == []
    assert await completions(tools, "%") == []


async def test_a_session_is_found_however_many_came_after_it(tools: Tools) -> None:
    oldest = await tools.new_session(title="The oldest one")
    for number in range(101):
        await tools.new_session(title=f"session {number}")
    for value in (oldest, "oldest", "THE OLD"):
        assert await completions(tools, value) == [oldest]


async def test_completions_are_bounded_and_say_that_there_are_more(tools: Tools) -> None:
    for number in range(101):
        await tools.new_session(title=f"session {number}")
    for value in ("", "session", "0"):
        completed = await complete(tools, "session_id", value)
        assert len(completed.values) == 100
        assert completed.has_more


async def test_other_arguments_have_no_completions(tools: Tools) -> None:
    await tools.new_session()
    assert (await complete(tools, "cursor", "")).values == []


async def test_a_stranger_completes_nothing_of_mine(database_url: str) -> None:
    async with tools_of(database_url) as ada, tools_of(database_url, user="mallory") as mallory:
        session = await ada.new_session(title="mine")
        for value in ("", session, session[:4], "mine"):
            assert await completions(mallory, value) == []


async def test_odd_beginnings_complete_to_nothing(tools: Tools) -> None:
    await tools.new_session(title="plain")
    for value in ("é" * 500, '"', "'; --", "_", "\\"):
        assert await completions(tools, value) == []


async def test_a_beginning_that_cannot_be_text_is_the_fault_of_the_caller(tools: Tools) -> None:
    for value, reason in (("\0", "holds a NUL character"), ("x" * 100_000, "is longer than")):
        with pytest.raises(MCPError) as caught:
            await completions(tools, value)
        assert caught.value.error.code == types.INVALID_PARAMS
        assert reason in caught.value.error.message


async def filled_session(tools: Tools) -> str:
    """Start a session of three messages and three tool calls by turns."""
    session = await tools.new_session(title="filled", metadata={"a": 1})
    for seq in range(1, 7, 2):
        await tools.say(session, f"entry {seq}")
        await tools.answer("log_tool_usage", session_id=session, tool_name="t", arguments={"n": seq + 1})
    return session


async def read(tools: Tools, address: str) -> types.TextResourceContents:
    (content,) = (await tools.client.read_resource(address)).contents
    assert str(content.uri) == address
    return cast("types.TextResourceContents", content)


async def read_json(tools: Tools, address: str) -> dict[str, Any]:
    content = await read(tools, address)
    assert content.mime_type == "application/json"
    value: dict[str, Any] = json.loads(content.text)
    return value


async def refusal(tools: Tools, address: str) -> str:
    """Read what must be refused, and return the sentence."""
    with pytest.raises(MCPError) as caught:
        await tools.client.read_resource(address)
    assert caught.value.error.code == types.INVALID_PARAMS, caught.value.error
    return caught.value.error.message


async def complete(tools: Tools, name: str, value: str) -> types.Completion:
    return (await tools.client.complete(COMPLETED, {"name": name, "value": value})).completion


async def completions(tools: Tools, value: str) -> list[str]:
    return (await complete(tools, "session_id", value)).values
