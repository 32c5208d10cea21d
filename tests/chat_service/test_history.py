"""The history: windows of the one timeline, previews of them, and any entry whole in pieces."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chat_service.service import ChatService
from models.errors import Invalid, NotFound
from models.ids import SessionId, UserId
from models.inputs import NewMessage
from models.shapes import HistoryDict, HistoryPreviewDict
from tests.support import (
    JSON_OBJECTS,
    JSON_VALUES,
    PROPERTY,
    TEXTS,
    Serving,
    asking,
    done,
    fill,
    new_session,
    said,
    serving,
)

pytestmark = pytest.mark.anyio

MEBIBYTE = 2**20


async def test_messages_and_tool_usage_stand_in_the_order_in_which_they_happened(
    service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    entries = [
        await service.add_message(user_id, session_id, said("read it")),
        await service.add_message(user_id, session_id, asking("a", "b")),
        await service.add_tool_usage(user_id, session_id, done(tool_call_id="b")),
        await service.add_tool_usage(user_id, session_id, done(tool_call_id="a")),
        await service.add_message(user_id, session_id, said("thanks")),
    ]
    history = await service.get_session_history(user_id, session_id)
    assert history == {
        "session": await service.get_session(user_id, session_id),
        "older": 0,
        "newer": 0,
        "before_seq": None,
        "after_seq": 5,
        "entries": entries,
    }


async def test_an_empty_session_has_an_empty_history(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    for edges in ({}, {"before_seq": 1}, {"before_seq": 9}, {"after_seq": 0}, {"after_seq": 9}):
        window = await service.get_session_history(user_id, session_id, **edges)
        assert (window["entries"], window["older"], window["newer"]) == ([], 0, 0)
        assert (window["before_seq"], window["after_seq"]) == (None, 0)


@pytest.mark.parametrize(
    ("edges", "first", "last", "older", "newer", "before_seq"),
    [
        ({}, 8, 10, 7, 0, 8),
        ({"before_seq": 8}, 5, 7, 4, 3, 5),
        ({"before_seq": 3}, 1, 2, 0, 8, None),
        ({"before_seq": 1}, 1, 0, 0, 10, None),
        ({"before_seq": 11}, 8, 10, 7, 0, 8),
        ({"before_seq": 1_000}, 8, 10, 7, 0, 8),
        ({"after_seq": 0}, 1, 3, 0, 7, None),
        ({"after_seq": 4}, 5, 7, 4, 3, 5),
        ({"after_seq": 8}, 9, 10, 8, 0, 9),
        ({"after_seq": 10}, 11, 10, 10, 0, 11),
        ({"after_seq": 1_000}, 11, 10, 10, 0, 11),
    ],
)
async def test_a_window_says_where_it_lies_and_how_to_read_on(
    service: ChatService,
    user_id: UserId,
    edges: dict[str, int],
    first: int,
    last: int,
    older: int,
    newer: int,
    before_seq: int | None,
) -> None:
    session_id = await new_session(service, user_id)
    await fill(service, user_id, session_id, 10)
    window = await service.get_session_history(user_id, session_id, limit=3, **edges)
    assert [entry["seq"] for entry in window["entries"]] == list(range(first, last + 1))
    assert (window["older"], window["newer"]) == (older, newer)
    assert (window["before_seq"], window["after_seq"]) == (before_seq, last)
    preview = await service.get_session_preview(user_id, session_id, limit=3, **edges)
    assert [entry["seq"] for entry in preview["entries"]] == list(range(first, last + 1))
    assert {name: preview[name] for name in where(window)} == where(window)  # type: ignore[literal-required]


def where(window: HistoryDict | HistoryPreviewDict) -> dict[str, Any]:
    return {name: value for name, value in window.items() if name != "entries"}


def test_windows_put_together_equal_the_whole_in_both_directions(tmp_path: Path) -> None:
    with serving(tmp_path) as at:
        at.runner.run(fill(at.service, at.user_id, at.session_id, 43))

        def get(**edges: int) -> HistoryDict:
            return at.runner.run(at.service.get_session_history(at.user_id, at.session_id, **edges))

        whole = get(limit=500)["entries"]
        assert [entry["seq"] for entry in whole] == list(range(1, 44))

        @PROPERTY
        @given(limit=st.integers(1, 45))
        def equal(limit: int) -> None:
            window = get(limit=limit)
            backwards = window["entries"]
            while window["before_seq"] is not None:
                window = get(limit=limit, before_seq=window["before_seq"])
                backwards = window["entries"] + backwards
            assert backwards == whole
            window = get(limit=limit, after_seq=0)
            forwards = window["entries"]
            while window["newer"]:
                window = get(limit=limit, after_seq=window["after_seq"])
                forwards += window["entries"]
            assert forwards == whole

        equal()


async def test_the_end_of_a_window_reads_on_to_what_is_appended_later(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    window = await service.get_session_history(user_id, session_id)
    for _ in range(3):
        later = await service.add_message(user_id, session_id, said())
        window = await service.get_session_history(user_id, session_id, after_seq=window["after_seq"])
        assert window["entries"] == [later]


# Previews


async def test_a_preview_has_the_beginning_of_each_text_and_says_how_long_the_whole_is(
    service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_message(user_id, session_id, said("שלום😀 and more"))
    asked = await service.add_message(user_id, session_id, asking("call"))
    usage = done(
        arguments={"path": "/long/path"}, result=["😀" * 10], error="x" * 9, tool_call_id="call", duration_ms=2
    )
    await service.add_tool_usage(user_id, session_id, usage)
    preview = await service.get_session_preview(user_id, session_id, content_limit=5)
    assert preview["entries"] == [
        {
            "seq": 1,
            "kind": "message",
            "message_type": "user",
            "content": "שלום😀",
            "content_length": 14,
            "parts": None,
            "parts_length": None,
            "replaces_seq": None,
        },
        {
            "seq": 2,
            "kind": "message",
            "message_type": "assistant",
            "content": "",
            "content_length": 0,
            "parts": '[{"ty',
            "parts_length": len(json.dumps(asked["parts"], separators=(",", ":"))),
            "replaces_seq": None,
        },
        {
            "seq": 3,
            "message_seq": 2,
            "tool_call_id": "call",
            "server_name": None,
            "tool_name": "read",
            "arguments": '{"pat',
            "arguments_length": 21,
            "result": '["😀😀😀',
            "result_length": 14,
            "status": "error",
            "error": "xxxxx",
            "error_length": 9,
            "duration_ms": 2.0,
        },
    ]


async def test_a_preview_of_what_is_short_is_the_whole(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    await service.add_message(user_id, session_id, said("short\nand sweet"))
    entry: Any = (await service.get_session_preview(user_id, session_id))["entries"][0]
    assert (entry["content"], entry["content_length"]) == ("short\nand sweet", 15)


@pytest.mark.parametrize("content_limit", [-1, 2**63])
async def test_a_preview_of_an_impossible_length_is_invalid(
    service: ChatService, user_id: UserId, content_limit: int
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_message(user_id, session_id, said("text"))
    with pytest.raises(Invalid, match="content_limit"):
        await service.get_session_preview(user_id, session_id, content_limit=content_limit)


# One entry, whole, in pieces


@pytest.mark.parametrize("character", ["x", "é", "ש", "😀"])
async def test_a_message_of_one_mebibyte_is_put_together_from_pieces(
    service: ChatService, user_id: UserId, character: str
) -> None:
    session_id = await new_session(service, user_id)
    # An odd number at the start keeps characters from falling on even boundaries.
    content = "a" * 3 + character * ((MEBIBYTE - 3) // len(character.encode()))
    await service.add_message(user_id, session_id, said(content))
    read, kinds = await pieces(service, user_id, session_id, 1, 100_000)
    assert read == content
    assert kinds == {"text/plain"}


async def test_an_entry_with_parts_and_one_of_a_tool_are_put_together_as_json(
    service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    parts = [{"type": "text", "content": "😀" * 20_000}, {"type": "tool_call", "id": "call"}]
    message = NewMessage.model_validate({"role": "assistant", "content": "text too", "parts": parts})
    await service.add_message(user_id, session_id, message)
    await service.add_tool_usage(user_id, session_id, done(result={"lines": ["שלום"] * 10_000}, tool_call_id="call"))
    entries = (await service.get_session_history(user_id, session_id))["entries"]
    for entry in entries:
        read, kinds = await pieces(service, user_id, session_id, entry["seq"], 7_001)
        assert json.loads(read) == entry
        assert kinds == {"application/json"}


def test_whatever_is_stored_is_read_whole_in_pieces_of_any_size(tmp_path: Path) -> None:
    with serving(tmp_path) as at:

        @PROPERTY
        @given(content=TEXTS.filter(bool), arguments=JSON_OBJECTS, result=JSON_VALUES, limit=st.integers(1, 60))
        @example(content="👩‍👩‍👧\r\n\u2028", arguments={"": 2**4000}, result=-0.0, limit=1)
        def is_read(content: str, arguments: dict[str, Any], result: Any, limit: int) -> None:
            message = at.runner.run(at.service.add_message(at.user_id, at.session_id, said(content)))
            usage = at.runner.run(
                at.service.add_tool_usage(at.user_id, at.session_id, done(arguments=arguments, result=result))
            )
            assert all_pieces(at, message["seq"], limit) == content
            limit = max(limit, 20)
            assert json.dumps(json.loads(all_pieces(at, usage["seq"], limit))) == json.dumps(usage)

        is_read()


async def pieces(
    service: ChatService, user_id: UserId, session_id: SessionId, seq: int, content_limit: int
) -> tuple[str, set[str]]:
    """Read an entry in pieces, from each to the next, and return its text and its content types."""
    offset: int | None = 0
    text = ""
    kinds: set[str] = set()
    while offset is not None:
        piece = await service.get_session_entry(user_id, session_id, seq, offset, content_limit)
        assert (piece["session_id"], piece["seq"], piece["content_offset"]) == (session_id, seq, offset)
        assert len(piece["content"]) == min(content_limit, piece["content_length"] - offset)
        text += piece["content"]
        kinds.add(piece["content_type"])
        offset = piece["next_content_offset"]
    assert len(text) == piece["content_length"]
    return text, kinds


def all_pieces(at: Serving, seq: int, content_limit: int) -> str:
    return at.runner.run(pieces(at.service, at.user_id, at.session_id, seq, content_limit))[0]


async def test_the_end_of_an_entry_is_an_empty_piece_and_what_is_past_it_is_invalid(
    service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_message(user_id, session_id, said("😀😀😀"))
    await service.add_tool_usage(user_id, session_id, done())
    for seq in (1, 2):
        length = (await service.get_session_entry(user_id, session_id, seq))["content_length"]
        end = await service.get_session_entry(user_id, session_id, seq, content_offset=length)
        assert (end["content"], end["next_content_offset"]) == ("", None)
        for offset in (length + 1, 2**63, 2**70):
            with pytest.raises(Invalid, match="content_offset"):
                await service.get_session_entry(user_id, session_id, seq, content_offset=offset)


@pytest.mark.parametrize(
    ("piece", "field"),
    [
        ({"content_offset": -1}, "content_offset must be 0 or more"),
        ({"content_limit": 0}, "content_limit must be between 1 and 100000"),
        ({"content_limit": 100_001}, "content_limit must be between 1 and 100000"),
    ],
)
async def test_a_piece_that_cannot_be_is_invalid(
    service: ChatService, user_id: UserId, piece: dict[str, int], field: str
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_message(user_id, session_id, said())
    with pytest.raises(Invalid, match=field):
        await service.get_session_entry(user_id, session_id, 1, **piece)


@pytest.mark.parametrize("seq", [-1, 0, 2, 2**53, 2**63, 2**70])
async def test_an_entry_that_a_session_does_not_have_is_not_found(
    service: ChatService, user_id: UserId, seq: int
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_message(user_id, session_id, said())
    with pytest.raises((NotFound, Invalid), match="seq"):
        await service.get_session_entry(user_id, session_id, seq)


async def test_an_entry_of_another_session_is_not_found(service: ChatService, user_id: UserId) -> None:
    one, other = await new_session(service, user_id), await new_session(service, user_id)
    await service.add_messages(user_id, one, [said("a"), said("b")])
    await service.add_message(user_id, other, said("c"))
    with pytest.raises(NotFound):
        await service.get_session_entry(user_id, other, 2)


async def test_a_message_with_metadata_is_read_whole_in_pieces(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    stored = await service.add_message(user_id, session_id, said("short", message_metadata={"note": "x" * 10_000}))
    text, offset = "", 0
    while True:
        piece = await service.get_session_entry(user_id, session_id, 1, offset, 3_000)
        text += piece["content"]
        if piece["next_content_offset"] is None:
            break
        offset = piece["next_content_offset"]
    assert piece["content_type"] == "application/json"
    assert json.loads(text) == stored
