"""Messages: appended in order, exactly once, all or none; and read back in pages as they were given."""

import asyncio
import contextlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chat_service.limits import Limits
from chat_service.service import ChatService
from models.database import Database
from models.errors import Conflict, Invalid, NotFound, TooLarge
from models.ids import UserId
from models.inputs import NewMessage, SessionChanges, Usage
from models.shapes import MessagePageDict
from models.tables import messages, tool_call_references
from tests.support import (
    JSON_OBJECTS,
    PROPERTY,
    TEXTS,
    asking,
    count_rows,
    done,
    fill,
    hear,
    last_seq,
    new_session,
    said,
    serving,
)

pytestmark = pytest.mark.anyio


async def test_a_message_comes_back_with_everything_it_was_given(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    message = NewMessage.model_validate(
        {
            "role": "assistant",
            "content": "Here you are.",
            "parts": [{"type": "reasoning", "content": "hm", "signature": "s"}, {"type": "tool_call", "id": "c"}],
            "message_metadata": {"n": 12345678901234567890, "nested": [{"x": None}]},
            "author": "proxy",
            "kind": "pin",
            "model": "some-model",
            "usage": {"input_tokens": 7},
            "token_count": 9,
            "idempotency_key": "k",
        }
    )
    stored = await service.add_message(user_id, session_id, message)
    assert stored == {
        "id": f"{session_id}:1",
        "session_id": session_id,
        "user_id": user_id,
        "seq": 1,
        "kind": "pin",
        "message_type": "assistant",
        "content": "Here you are.",
        "parts": [{"type": "reasoning", "content": "hm", "signature": "s"}, {"type": "tool_call", "id": "c"}],
        "message_metadata": {"n": 12345678901234567890, "nested": [{"x": None}]},
        "author": "proxy",
        "model": "some-model",
        "usage": {"input_tokens": 7},
        "token_count": 9,
        "replaces_seq": None,
        "created_at": stored["created_at"],
    }
    assert (await service.get_session_messages(user_id, session_id))["messages"] == [stored]
    assert (await service.get_session_history(user_id, session_id))["entries"] == [stored]


async def test_an_append_is_seen_in_its_session(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    stored = await service.add_messages(user_id, session_id, [said("a"), said("b")])
    session = await service.get_session(user_id, session_id)
    assert (session["last_seq"], session["message_count"], session["tool_usage_count"]) == (2, 2, 0)
    assert session["last_append_at"] == stored[-1]["created_at"]


async def test_a_batch_keeps_its_order_and_is_numbered_without_gaps(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    await service.add_message(user_id, session_id, said("first"))
    batch = await service.add_messages(user_id, session_id, [said(str(number)) for number in range(500)])
    assert [message["seq"] for message in batch] == list(range(2, 502))
    assert [message["content"] for message in batch] == [str(number) for number in range(500)]
    assert (await service.get_session_messages(user_id, session_id, limit=500))["messages"] == batch


async def test_messages_added_at_the_same_time_are_numbered_without_gaps(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    added = await asyncio.gather(
        *(service.add_message(user_id, session_id, said(str(number))) for number in range(60)),
        *(service.add_messages(user_id, session_id, [said("x"), said("y")]) for _ in range(20)),
    )
    seqs = [m["seq"] for one in added for m in (one if isinstance(one, list) else [one])]
    assert sorted(seqs) == list(range(1, 101))


async def test_more_than_500_messages_are_too_large_for_one_call(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    with pytest.raises(TooLarge, match="messages holds 501 messages, at most 500"):
        await service.add_messages(user_id, session_id, [said()] * 501)
    assert await last_seq(service, user_id, session_id) == 0


async def test_an_empty_batch_is_invalid(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    with pytest.raises(Invalid, match="messages is empty"):
        await service.add_messages(user_id, session_id, [])


async def test_one_refused_message_refuses_its_whole_batch(
    service: ChatService, database: Database, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    refused = said("edit", kind="replacement", replaces_seq=9)
    with pytest.raises(Invalid, match="replaces_seq"):
        await service.add_messages(user_id, session_id, [said(), asking("call"), refused])
    assert await count_rows(database, messages) == 0
    assert await count_rows(database, tool_call_references) == 0
    assert (await service.add_message(user_id, session_id, said()))["seq"] == 1


# Idempotency keys


async def test_a_replay_returns_the_first_result_and_burns_no_seq(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    message = said("once", idempotency_key="k", message_metadata={"a": 1.5}, usage=Usage(output_tokens=1))
    first = await service.add_message(user_id, session_id, message)
    await service.add_message(user_id, session_id, said("between"))
    heard = hear(service)
    assert await service.add_message(user_id, session_id, message) == first
    assert heard == []
    session = await service.get_session(user_id, session_id)
    assert (session["last_seq"], session["message_count"]) == (2, 2)
    assert (await service.add_message(user_id, session_id, said("next")))["seq"] == 3


async def test_a_replay_is_not_refused_for_a_stale_expected_seq(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    first = await service.add_message(user_id, session_id, said(idempotency_key="k"), expected_seq=0)
    await service.add_message(user_id, session_id, said())
    assert await service.add_message(user_id, session_id, said(idempotency_key="k"), expected_seq=0) == first


async def test_a_replay_is_answered_after_the_session_was_archived(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    first = await service.add_message(user_id, session_id, said(idempotency_key="k"))
    await service.update_session(user_id, session_id, SessionChanges(status="archived"))
    assert await service.add_message(user_id, session_id, said(idempotency_key="k")) == first


async def test_a_batch_is_replayed_whole_and_in_its_order(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    batch = [said("a", idempotency_key="1"), asking("call", idempotency_key="2"), said("c", idempotency_key="3")]
    first = await service.add_messages(user_id, session_id, batch)
    assert await service.add_messages(user_id, session_id, batch, expected_seq=0) == first
    assert await last_seq(service, user_id, session_id) == 3


async def test_replays_at_the_same_time_store_one_message(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    message = said(idempotency_key="k")
    answers = await asyncio.gather(*(service.add_message(user_id, session_id, message) for _ in range(20)))
    assert all(answer == answers[0] for answer in answers)
    assert await last_seq(service, user_id, session_id) == 1


@pytest.mark.parametrize(
    "other",
    [
        said("other", idempotency_key="k"),
        said("text", idempotency_key="k", message_metadata={"a": 1}),
        said("text", idempotency_key="k", kind="pin"),
        NewMessage(role="assistant", content="text", idempotency_key="k"),
    ],
)
async def test_a_key_with_another_body_is_a_conflict(service: ChatService, user_id: UserId, other: NewMessage) -> None:
    session_id = await new_session(service, user_id)
    await service.add_message(user_id, session_id, said("text", idempotency_key="k"))
    with pytest.raises(Conflict, match="idempotency_key"):
        await service.add_message(user_id, session_id, other)
    assert await last_seq(service, user_id, session_id) == 1


async def test_the_same_body_written_differently_is_a_replay(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    given = said("text", idempotency_key="k", message_metadata={"a": 1, "b": {"c": 2, "d": 3}})
    first = await service.add_message(user_id, session_id, given)
    # An object's keys have no order, and a default is the same whether it is given or left out.
    again = said("text", idempotency_key="k", message_metadata={"b": {"d": 3, "c": 2}, "a": 1}, kind="message")
    assert await service.add_message(user_id, session_id, again) == first


async def test_a_message_and_a_tool_usage_cannot_share_a_key(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    await service.add_message(user_id, session_id, said(idempotency_key="said"))
    await service.add_tool_usage(user_id, session_id, done(idempotency_key="done"))
    with pytest.raises(Conflict, match="idempotency_key"):
        await service.add_tool_usage(user_id, session_id, done(idempotency_key="said"))
    with pytest.raises(Conflict, match="idempotency_key"):
        await service.add_message(user_id, session_id, said(idempotency_key="done"))
    assert await last_seq(service, user_id, session_id) == 2


async def test_a_key_twice_in_a_batch_is_invalid(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    with pytest.raises(Invalid, match="idempotency_key stands twice"):
        await service.add_messages(user_id, session_id, [said(idempotency_key="k"), said(idempotency_key="k")])
    assert await last_seq(service, user_id, session_id) == 0


async def test_keys_on_only_some_of_a_batch_are_invalid(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    with pytest.raises(Invalid, match="idempotency_key is missing on some"):
        await service.add_messages(user_id, session_id, [said(idempotency_key="k"), said()])
    assert await last_seq(service, user_id, session_id) == 0


@pytest.mark.parametrize("keys", [["1", "new"], ["new", "1"], ["1", "2", "new"], ["new", "2"]])
async def test_a_batch_of_which_only_a_part_is_a_replay_stores_nothing(
    service: ChatService, user_id: UserId, keys: list[str]
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_messages(user_id, session_id, [said("1", idempotency_key="1"), said("2", idempotency_key="2")])
    with pytest.raises(Conflict, match="A part of this batch was appended before"):
        await service.add_messages(user_id, session_id, [said(key, idempotency_key=key) for key in keys])
    assert await last_seq(service, user_id, session_id) == 2


async def test_a_key_belongs_to_one_session(service: ChatService, user_id: UserId) -> None:
    one, other = await new_session(service, user_id), await new_session(service, user_id)
    await service.add_message(user_id, one, said("here", idempotency_key="k"))
    assert (await service.add_message(user_id, other, said("there", idempotency_key="k")))["content"] == "there"


async def test_a_stranger_cannot_replay(service: ChatService, user_id: UserId, stranger_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    message = said("mine", idempotency_key="k")
    await service.add_message(user_id, session_id, message)
    with pytest.raises(NotFound):
        await service.add_message(stranger_id, session_id, message)


# Conditions


async def test_expected_seq_lets_only_the_one_who_read_last_append(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    answers = await asyncio.gather(
        *(service.add_message(user_id, session_id, said(), expected_seq=0) for _ in range(5)), return_exceptions=True
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["Conflict"] * 4 + ["dict"]
    with pytest.raises(Conflict, match="expected_seq is 3, but the session's last entry is 1"):
        await service.add_message(user_id, session_id, said(), expected_seq=3)
    batch = await service.add_messages(user_id, session_id, [said(), said()], expected_seq=1)
    assert [message["seq"] for message in batch] == [2, 3]


async def test_an_archived_session_takes_nothing_until_it_is_active_again(
    service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    await service.update_session(user_id, session_id, SessionChanges(status="archived"))
    with pytest.raises(Conflict, match="archived"):
        await service.add_message(user_id, session_id, said())
    with pytest.raises(Conflict, match="archived"):
        await service.add_tool_usage(user_id, session_id, done())
    await service.update_session(user_id, session_id, SessionChanges(status="active"))
    assert (await service.add_message(user_id, session_id, said()))["seq"] == 1


async def test_an_edit_names_the_message_that_it_replaces(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    await service.add_message(user_id, session_id, said("tpyo"))
    edit = await service.add_message(user_id, session_id, said("typo", kind="replacement", replaces_seq=1))
    assert (edit["seq"], edit["replaces_seq"]) == (2, 1)


@pytest.mark.parametrize("replaced", [2, 3, 4, 100, 2**53 - 1], ids=lambda seq: f"seq {seq}")
async def test_what_is_replaced_must_be_an_earlier_message(
    service: ChatService, user_id: UserId, replaced: int
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_message(user_id, session_id, said())
    await service.add_tool_usage(user_id, session_id, done())
    heard = hear(service)
    with pytest.raises(Invalid, match="replaces_seq is not the seq of an earlier message"):
        await service.add_message(user_id, session_id, said("edit", kind="replacement", replaces_seq=replaced))
    assert heard == []
    assert (await service.add_message(user_id, session_id, said()))["seq"] == 3


async def test_what_is_replaced_must_be_in_the_same_session(service: ChatService, user_id: UserId) -> None:
    one, other = await new_session(service, user_id), await new_session(service, user_id)
    await service.add_message(user_id, one, said())
    with pytest.raises(Invalid, match="replaces_seq"):
        await service.add_message(user_id, other, said("edit", kind="replacement", replaces_seq=1))


# Sizes


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (said("x" * 101), r"messages\[0\]\.content"),
        (said("é" * 51), r"messages\[0\]\.content"),
        (said("😀" * 26), r"messages\[0\]\.content"),
        (said(parts=[{"type": "text", "content": "x" * 101}]), r"messages\[0\]\.parts"),
        (said(message_metadata={"a": "x" * 50}), r"messages\[0\]\.metadata"),
    ],
)
async def test_what_is_oversized_is_named(database: Database, user_id: UserId, message: NewMessage, field: str) -> None:
    service = ChatService(database, limits=Limits(content=100, metadata=50))
    session_id = await new_session(service, user_id)
    with pytest.raises(TooLarge, match=field):
        await service.add_message(user_id, session_id, message)
    with pytest.raises(TooLarge, match=field.replace("0", "1")):
        await service.add_messages(user_id, session_id, [said(), message])
    assert await last_seq(service, user_id, session_id) == 0


@pytest.mark.parametrize("content", ["x" * 100, "é" * 50, "😀" * 25])
async def test_what_is_exactly_as_large_as_allowed_is_stored(database: Database, user_id: UserId, content: str) -> None:
    service = ChatService(database, limits=Limits(content=100, metadata=50))
    session_id = await new_session(service, user_id)
    metadata = {"a": "x" * (50 - len('{"a":""}'))}
    stored = await service.add_message(user_id, session_id, said(content, message_metadata=metadata))
    assert (stored["content"], stored["message_metadata"]) == (content, metadata)


async def test_by_default_a_message_may_have_one_mebibyte_and_its_metadata_16_kibibytes(
    service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_message(user_id, session_id, said("x" * 2**20))
    with pytest.raises(TooLarge, match=r"messages\[0\]\.content is larger than 1048576 bytes"):
        await service.add_message(user_id, session_id, said("x" * (2**20 + 1)))
    with pytest.raises(TooLarge, match=r"messages\[0\]\.metadata is larger than 16384 bytes"):
        await service.add_message(user_id, session_id, said(message_metadata={"a": "x" * 2**14}))


@pytest.mark.parametrize("seq", [2**63, 2**70])
async def test_a_number_beyond_every_seq_is_answered_or_refused_and_never_a_crash(
    service: ChatService, user_id: UserId, seq: int
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_message(user_id, session_id, said())
    with pytest.raises((Conflict, Invalid), match="expected_seq"):
        await service.add_message(user_id, session_id, said(), expected_seq=seq)
    with pytest.raises((Conflict, Invalid), match="expected_seq"):
        await service.add_tool_usage(user_id, session_id, done(), expected_seq=seq)
    for edge in ("before_seq", "after_seq"):
        edges: Any = {edge: seq}
        with contextlib.suppress(Invalid):
            await service.get_session_messages(user_id, session_id, **edges)
        with contextlib.suppress(Invalid):
            await service.get_session_history(user_id, session_id, **edges)
    assert await last_seq(service, user_id, session_id) == 1


# Round trips


def test_text_and_metadata_come_back_exactly_as_they_were_given(tmp_path: Path) -> None:
    with serving(tmp_path) as at:

        @PROPERTY
        @given(content=TEXTS.filter(bool), metadata=JSON_OBJECTS)
        @example("👩‍👩‍👧 שלום\r\n\u2028\tמ\u202e", {"": {"": [-0.0, 1e308, 5e-324, 2**4000, -(2**4000), 1.0, 1, True]}})
        def comes_back(content: str, metadata: dict[str, Any]) -> None:
            message = said(content, message_metadata=metadata)
            stored = at.runner.run(at.service.add_message(at.user_id, at.session_id, message))
            assert stored["content"] == content
            # The text of JSON tells 1 from 1.0 and from true.
            assert json.dumps(stored["message_metadata"]) == json.dumps(metadata)
            read = at.runner.run(at.service.get_session_messages(at.user_id, at.session_id, limit=1))
            assert read["messages"] == [stored]
            assert json.dumps(read["messages"]) == json.dumps([stored])

        comes_back()


def test_a_replay_is_known_whatever_was_said(tmp_path: Path) -> None:
    with serving(tmp_path) as at:
        numbers = itertools.count()

        @PROPERTY
        @given(content=TEXTS.filter(bool), metadata=JSON_OBJECTS)
        def is_known(content: str, metadata: dict[str, Any]) -> None:
            message = said(content, message_metadata=metadata, idempotency_key=str(next(numbers)))
            first, again = (at.runner.run(at.service.add_message(at.user_id, at.session_id, message)) for _ in range(2))
            assert first == again

        is_known()


async def test_an_array_given_as_a_tuple_is_the_same_before_and_after_it_was_stored(
    service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    message = said(message_metadata={"pair": (1, (2, 3))}, idempotency_key="k")
    first = await service.add_message(user_id, session_id, message)
    assert first["message_metadata"] == {"pair": [1, [2, 3]]}
    assert await service.add_message(user_id, session_id, message) == first


# Pages


def test_pages_put_together_equal_the_whole_in_both_directions(tmp_path: Path) -> None:
    with serving(tmp_path) as at:
        at.runner.run(fill(at.service, at.user_id, at.session_id, 41))

        def get(**edges: int) -> MessagePageDict:
            return at.runner.run(at.service.get_session_messages(at.user_id, at.session_id, **edges))

        whole = get(limit=500)["messages"]
        assert [message["seq"] for message in whole] == list(range(1, 42, 2))

        @PROPERTY
        @given(limit=st.integers(1, 45))
        def equal(limit: int) -> None:
            page = get(limit=limit)
            backwards = page["messages"]
            while page["before_seq"] is not None:
                page = get(limit=limit, before_seq=page["before_seq"])
                backwards = page["messages"] + backwards
            assert backwards == whole
            page = get(limit=limit, after_seq=0)
            forwards = page["messages"]
            while page["after_seq"] is not None:
                page = get(limit=limit, after_seq=page["after_seq"])
                forwards += page["messages"]
            assert forwards == whole

        equal()


async def test_a_page_of_messages_starts_at_either_edge(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    await service.add_messages(user_id, session_id, [said(str(number)) for number in range(1, 11)])

    async def contents(**edges: int) -> list[str]:
        page = await service.get_session_messages(user_id, session_id, limit=3, **edges)
        return [message["content"] for message in page["messages"]]

    assert await contents() == ["8", "9", "10"]
    assert await contents(before_seq=8) == ["5", "6", "7"]
    assert await contents(before_seq=1) == []
    assert await contents(after_seq=0) == ["1", "2", "3"]
    assert await contents(after_seq=8) == ["9", "10"]
    assert await contents(after_seq=10) == []


async def test_the_last_page_reads_on_to_what_is_appended_later(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    await service.add_messages(user_id, session_id, [said("a"), said("b")])
    page = await service.get_session_messages(user_id, session_id)
    later = await service.add_message(user_id, session_id, said("c"))
    assert page["after_seq"] is not None
    page = await service.get_session_messages(user_id, session_id, after_seq=page["after_seq"])
    assert page["messages"] == [later]


@pytest.mark.parametrize(
    ("edges", "field"),
    [
        ({"before_seq": 5, "after_seq": 1}, "before_seq and after_seq exclude each other"),
        ({"before_seq": 0}, "before_seq must be 1 or more"),
        ({"after_seq": -1}, "after_seq must be 0 or more"),
        ({"limit": 0}, "limit must be between 1 and 500"),
        ({"limit": 501}, "limit must be between 1 and 500"),
        ({"limit": -1}, "limit must be between 1 and 500"),
    ],
)
async def test_a_page_that_cannot_be_is_invalid(
    service: ChatService, user_id: UserId, edges: dict[str, int], field: str
) -> None:
    session_id = await new_session(service, user_id)
    with pytest.raises(Invalid, match=field):
        await service.get_session_messages(user_id, session_id, **edges)
    with pytest.raises(Invalid, match=field):
        await service.get_session_history(user_id, session_id, **edges)
    with pytest.raises(Invalid, match=field):
        await service.get_session_preview(user_id, session_id, **edges)
