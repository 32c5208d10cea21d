"""Sessions: created once, listed in pages, found where the work is, changed, and deleted with all their entries."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_service import sessions
from chat_service.limits import Limits
from chat_service.service import ChatService
from chat_service.work import Work
from models.database import Database
from models.errors import Conflict, Invalid, NotFound, TooLarge
from models.ids import SessionId, UserId, is_id
from models.inputs import NewSession, SessionChanges
from models.tables import chat_sessions
from tests.support import (
    JSON_OBJECTS,
    PROPERTY,
    asking,
    count_all_rows,
    count_rows,
    done,
    hear,
    new_session,
    said,
    serving,
)

pytestmark = pytest.mark.anyio


async def test_a_session_comes_back_with_everything_it_was_given(service: ChatService, user_id: UserId) -> None:
    new = NewSession(
        title="שלום 😀",
        session_data={"workspace": "/w", "n": 12345678901234567890},
        client="some client",
        source="some file",
        source_id="7",
        idempotency_key="k",
    )
    created = await service.create_chat_session(user_id, new)
    assert is_id(created["id"])
    assert created == {
        "id": created["id"],
        "user_id": user_id,
        "title": "שלום 😀",
        "status": "active",
        "session_data": {"workspace": "/w", "n": 12345678901234567890},
        "client": "some client",
        "last_seq": 0,
        "message_count": 0,
        "tool_usage_count": 0,
        "created_at": created["created_at"],
        "last_append_at": None,
        "source": "some file",
        "source_id": "7",
        "forked_from": None,
        "forked_from_seq": None,
        "merged_into": None,
    }
    assert await service.get_session(user_id, SessionId(created["id"])) == created
    assert (await service.get_user_sessions(user_id))["sessions"] == [created]


def test_session_data_comes_back_exactly_as_it_was_given(tmp_path: Path) -> None:
    with serving(tmp_path) as at:

        @PROPERTY
        @given(session_data=JSON_OBJECTS, changed=JSON_OBJECTS)
        def comes_back(session_data: dict[str, Any], changed: dict[str, Any]) -> None:
            created = at.runner.run(at.service.create_chat_session(at.user_id, NewSession(session_data=session_data)))
            # The text of JSON tells 1 from 1.0 and from true.
            assert json.dumps(created["session_data"]) == json.dumps(session_data)
            session_id, changes = SessionId(created["id"]), SessionChanges(session_data=changed)
            updated = at.runner.run(at.service.update_session(at.user_id, session_id, changes))
            assert json.dumps(updated["session_data"]) == json.dumps(changed)

        comes_back()


# Exactly once


async def test_a_replay_returns_the_first_session(service: ChatService, database: Database, user_id: UserId) -> None:
    new = NewSession(title="Once", session_data={"a": 1}, idempotency_key="k")
    first = await service.create_chat_session(user_id, new)
    heard = hear(service)
    assert await service.create_chat_session(user_id, new) == first
    assert heard == []
    assert await count_rows(database, chat_sessions) == 1


async def test_the_same_data_written_differently_is_a_replay(service: ChatService, user_id: UserId) -> None:
    first = await service.create_chat_session(
        user_id, NewSession(title=None, session_data={"a": 1, "b": {"c": 2, "d": 3}}, idempotency_key="k")
    )
    again = await service.create_chat_session(
        user_id, NewSession(session_data={"b": {"d": 3, "c": 2}, "a": 1}, idempotency_key="k")
    )
    assert again == first


@pytest.mark.parametrize("other", [{"title": "Other"}, {"session_data": {"a": 2}}, {"client": "other"}])
async def test_a_key_with_other_data_is_a_conflict(
    service: ChatService, database: Database, user_id: UserId, other: dict[str, Any]
) -> None:
    await new_session(service, user_id, title="Once", idempotency_key="k")
    with pytest.raises(Conflict, match="idempotency_key"):
        await new_session(service, user_id, **{"title": "Once", "idempotency_key": "k"} | other)
    assert await count_rows(database, chat_sessions) == 1


async def test_a_key_belongs_to_one_user(service: ChatService, user_id: UserId, stranger_id: UserId) -> None:
    mine = await new_session(service, user_id, idempotency_key="k")
    theirs = await new_session(service, stranger_id, idempotency_key="k")
    assert mine != theirs


async def test_a_source_is_on_record_once_for_each_user(
    service: ChatService, user_id: UserId, stranger_id: UserId
) -> None:
    await new_session(service, user_id, source="file", source_id="1")
    with pytest.raises(Conflict, match="source and source_id are on record"):
        await new_session(service, user_id, source="file", source_id="1")
    await new_session(service, user_id, source="file", source_id="2")
    await new_session(service, user_id, source="other", source_id="1")
    await new_session(service, stranger_id, source="file", source_id="1")


async def test_oversized_metadata_is_named(database: Database, user_id: UserId) -> None:
    service = ChatService(database, limits=Limits(metadata=50))
    session_id = await new_session(service, user_id)
    with pytest.raises(TooLarge, match="metadata is larger than 50 bytes"):
        await new_session(service, user_id, session_data={"a": "é" * 25})
    with pytest.raises(TooLarge, match="metadata is larger than 50 bytes"):
        await service.update_session(user_id, session_id, SessionChanges(session_data={"a": "é" * 25}))
    assert await count_rows(database, chat_sessions) == 1


# Changes


async def test_what_is_given_is_changed_and_null_clears(service: ChatService, user_id: UserId) -> None:
    created = await service.create_chat_session(user_id, NewSession(title="Old", session_data={"a": 1}))
    session_id = SessionId(created["id"])
    assert await service.update_session(user_id, session_id, SessionChanges()) == created
    changed = await service.update_session(user_id, session_id, SessionChanges(title="New", status="archived"))
    assert changed == created | {"title": "New", "status": "archived"}
    cleared = await service.update_session(user_id, session_id, SessionChanges(title=None, session_data=None))
    assert cleared == changed | {"title": None, "session_data": None}
    assert await service.get_session(user_id, session_id) == cleared


async def test_a_status_cannot_be_cleared(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    with pytest.raises(Invalid, match="status cannot be cleared"):
        await service.update_session(user_id, session_id, SessionChanges(status=None))


async def test_deleting_a_session_removes_its_entries_and_nothing_else(
    service: ChatService, database: Database, user_id: UserId
) -> None:
    deleted, kept = await new_session(service, user_id), await new_session(service, user_id)
    for session_id in (deleted, kept):
        await service.add_messages(user_id, session_id, [asking("a", "b"), said()])
        await service.add_tool_usage(user_id, session_id, done(tool_call_id="a"))
    receipt = await service.delete_session(user_id, deleted)
    assert receipt == {"deleted": deleted, "sessions": 1, "messages": 2, "tool_usages": 1, "receipt": 1}
    there = {name: count for name, count in (await count_all_rows(database)).items() if count}
    assert there == {"users": 1, "chat_sessions": 1, "messages": 2, "tool_usages": 1, "tool_call_references": 2}
    with pytest.raises(NotFound):
        await service.get_session(user_id, deleted)
    with pytest.raises(NotFound):
        await service.delete_session(user_id, deleted)
    assert len((await service.get_session_history(user_id, kept))["entries"]) == 3


async def test_a_key_is_free_again_once_its_session_is_deleted(service: ChatService, user_id: UserId) -> None:
    first = await new_session(service, user_id, idempotency_key="k")
    await service.delete_session(user_id, first)
    assert await new_session(service, user_id, title="Other", idempotency_key="k") != first


# The active session


async def test_there_is_no_active_session_before_the_first(service: ChatService, user_id: UserId) -> None:
    assert await service.get_active_session(user_id) == {"session": None, "other_active": 0}


async def test_the_active_session_is_the_one_with_the_newest_append(service: ChatService, user_id: UserId) -> None:
    one, other, archived = [await new_session(service, user_id) for _ in range(3)]
    await service.add_message(user_id, other, said())
    await service.add_message(user_id, archived, said())
    await service.add_message(user_id, one, said())
    await service.update_session(user_id, archived, SessionChanges(status="archived"))
    active = await service.get_active_session(user_id)
    assert active == {"session": await service.get_session(user_id, one), "other_active": 1}
    await service.add_tool_usage(user_id, other, done())
    assert await active_id(service, user_id) == other


async def test_a_session_without_entries_counts_from_its_creation(service: ChatService, user_id: UserId) -> None:
    used = await new_session(service, user_id)
    await service.add_message(user_id, used, said())
    fresh = await new_session(service, user_id)
    assert await active_id(service, user_id) == fresh
    await service.add_message(user_id, used, said())
    assert await active_id(service, user_id) == used


async def test_of_sessions_of_the_same_moment_the_last_created_is_active(database: Database, user_id: UserId) -> None:
    service = ChatService(database, clock=lambda: "2026-01-31T12:00:00.000000Z")
    created = [await new_session(service, user_id) for _ in range(3)]
    assert await active_id(service, user_id) == created[-1]


async def test_the_active_session_of_a_client_and_of_a_workspace(service: ChatService, user_id: UserId) -> None:
    here = await new_session(service, user_id, client="one", session_data={"workspace": "/here"})
    there = await new_session(service, user_id, client="one", session_data={"workspace": "/there"})
    other = await new_session(service, user_id, client="two", session_data={"workspace": "/here"})
    await new_session(service, user_id, client="two", session_data={"workspace": 5, "n": 2**4000})
    assert await active_id(service, user_id, client="one") == there
    assert await active_id(service, user_id, workspace="/here") == other
    assert await active_id(service, user_id, client="one", workspace="/here") == here
    assert (await service.get_active_session(user_id, workspace="/here"))["other_active"] == 1
    assert (await service.get_active_session(user_id, client="one"))["other_active"] == 1
    assert await service.get_active_session(user_id, client="three") == {"session": None, "other_active": 0}
    assert await service.get_active_session(user_id, workspace="/her_") == {"session": None, "other_active": 0}


@pytest.mark.parametrize("workspace", ["C:\\Users\\Ada", '/with "quotes"', "/עברית/😀", "/new\nline", "5", "null"])
async def test_a_workspace_is_compared_as_text_to_the_letter(
    service: ChatService, user_id: UserId, workspace: str
) -> None:
    for other in (workspace + "/", workspace.swapcase() + "x", "", None):
        await new_session(service, user_id, session_data={"workspace": other})
    await new_session(service, user_id)
    session_id = await new_session(service, user_id, session_data={"workspace": workspace})
    found = await service.get_active_session(user_id, workspace=workspace)
    assert found["session"] is not None
    assert (found["session"]["id"], found["other_active"]) == (session_id, 0)


async def test_the_active_session_is_the_users_own(service: ChatService, user_id: UserId, stranger_id: UserId) -> None:
    await new_session(service, stranger_id)
    assert await service.get_active_session(user_id) == {"session": None, "other_active": 0}


async def active_id(service: ChatService, user_id: UserId, **filters: str) -> str:
    session = (await service.get_active_session(user_id, **filters))["session"]
    assert session is not None
    return session["id"]


# Lists


async def test_sessions_are_listed_the_last_created_first(
    service: ChatService, user_id: UserId, stranger_id: UserId
) -> None:
    created = [await new_session(service, user_id) for _ in range(3)]
    await new_session(service, stranger_id)
    await service.add_message(user_id, created[0], said())
    page = await service.get_user_sessions(user_id)
    assert [session["id"] for session in page["sessions"]] == created[::-1]
    assert page["next_cursor"] is None


async def test_sessions_are_found_by_the_beginning_of_an_id_or_a_part_of_the_title(
    service: ChatService, user_id: UserId, stranger_id: UserId
) -> None:
    titles = ["Crêpes", "0190", "100% sure", "a_b", None, "beef"]
    ids = [await new_session(service, user_id, title=title) for title in titles]
    await new_session(service, stranger_id, title="Crêpes")
    titled = dict(zip(ids, titles, strict=True))
    texts = ["", "crêp", "0190", "%", "_", "beef", "be", "f", "nothing", ids[0], ids[3][:9], ids[3][:8] + "x", "x" * 99]
    for text in [*texts, *(ids[2][:length] for length in range(37)), ids[1] + "0", ids[1].upper()]:
        found: list[str] = []
        cursor = None
        while True:
            page = await service.find_sessions(user_id, text, 2, cursor)
            found += [session["id"] for session in page["sessions"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        expected = [each for each in ids if each.startswith(text) or text.lower() in (titled[each] or "").lower()]
        assert found == expected[::-1], text
    with pytest.raises(Invalid, match="cursor"):
        await service.find_sessions(user_id, "be", 2, (await service.find_sessions(user_id, "", 2))["next_cursor"])


async def test_sessions_are_filtered_by_title_and_status(service: ChatService, user_id: UserId) -> None:
    for title in ("Fix the Parser", "parse 100% of it", "under_score", "back\\slash", None):
        session_id = await new_session(service, user_id, title=title)
    await service.update_session(user_id, session_id, SessionChanges(status="archived"))

    async def found(query: str | None = None, **filters: Any) -> list[str | None]:
        page = await service.get_user_sessions(user_id, query=query, **filters)
        return [session["title"] for session in page["sessions"]]

    assert await found("PARSE") == ["parse 100% of it", "Fix the Parser"]
    assert await found("%") == ["parse 100% of it"]
    assert await found("_") == ["under_score"]
    assert await found("\\") == ["back\\slash"]
    assert await found("nothing of this") == []
    assert await found("parse", status="archived") == []
    assert await found(status="archived") == [None]
    assert len(await found(status="active")) == 4
    assert len(await found("")) == 5


def test_pages_put_together_equal_the_whole(tmp_path: Path) -> None:
    with serving(tmp_path) as at:

        def create_many(work: Work) -> list[str]:
            many = range(40)
            return [sessions.create(work, at.user_id, NewSession(title=f"odd{n % 2}"))["id"] for n in many]

        created = [at.session_id, *at.runner.run(at.service.transaction(create_many))][::-1]

        def read(limit: int, **filters: Any) -> list[str]:
            page = at.runner.run(at.service.get_user_sessions(at.user_id, limit=limit, **filters))
            found = page["sessions"]
            while page["next_cursor"] is not None:
                assert len(page["sessions"]) == limit
                cursor = page["next_cursor"]
                page = at.runner.run(at.service.get_user_sessions(at.user_id, limit=limit, cursor=cursor, **filters))
                found += page["sessions"]
            return [session["id"] for session in found]

        @PROPERTY
        @given(limit=st.integers(1, 45))
        def equal(limit: int) -> None:
            assert read(limit) == created
            assert read(limit, status="active") == created
            assert read(limit, query="ODD1") == created[:-1:2]

        equal()


async def test_a_page_is_not_moved_by_what_happens_meanwhile(service: ChatService, user_id: UserId) -> None:
    created = [await new_session(service, user_id) for _ in range(4)]
    page = await service.get_user_sessions(user_id, limit=2)
    await new_session(service, user_id)
    await service.add_message(user_id, created[0], said())
    await service.delete_session(user_id, created[2])
    rest = await service.get_user_sessions(user_id, limit=2, cursor=page["next_cursor"])
    listed = [session["id"] for session in page["sessions"] + rest["sessions"]]
    assert listed == created[::-1]


async def test_a_cursor_serves_the_list_that_gave_it_and_no_other(
    service: ChatService, user_id: UserId, stranger_id: UserId
) -> None:
    for _ in range(3):
        await new_session(service, user_id, title="t")
    cursor = (await service.get_user_sessions(user_id, limit=1))["next_cursor"]
    assert cursor is not None
    others: list[Any] = [
        service.get_user_sessions(user_id, query="t", cursor=cursor),
        service.get_user_sessions(user_id, status="active", cursor=cursor),
        service.get_user_sessions(stranger_id, cursor=cursor),
        service.get_session_tool_usage(user_id, cursor=cursor),
        service.get_user_sessions(user_id, cursor=cursor[::-1]),
        service.get_user_sessions(user_id, cursor="A" * len(cursor)),
        service.get_user_sessions(user_id, cursor=""),
        service.get_user_sessions(user_id, cursor="😀\ud800"),
    ]
    for other in others:
        with pytest.raises(Invalid, match="cursor is not one that this list gave"):
            await other


@pytest.mark.parametrize("limit", [0, -1, 501])
async def test_a_limit_beyond_a_page_is_invalid(service: ChatService, user_id: UserId, limit: int) -> None:
    with pytest.raises(Invalid, match="limit must be between 1 and 500"):
        await service.get_user_sessions(user_id, limit=limit)


@pytest.mark.parametrize("value", ["\ud800", "\0"])
async def test_a_filter_that_is_no_text_finds_nothing_or_is_refused_and_never_a_crash(
    service: ChatService, user_id: UserId, value: str
) -> None:
    await new_session(service, user_id, title="t", client="c", session_data={"workspace": "w"})
    with contextlib.suppress(Invalid):
        assert (await service.get_user_sessions(user_id, query=value))["sessions"] == []
    with contextlib.suppress(Invalid):
        assert (await service.get_active_session(user_id, client=value))["session"] is None
    with contextlib.suppress(Invalid):
        assert (await service.get_active_session(user_id, workspace=value))["session"] is None


@pytest.mark.parametrize("length", [513, 60_000])
async def test_no_title_is_looked_for_that_is_longer_than_one_can_be(
    service: ChatService, user_id: UserId, length: int
) -> None:
    await new_session(service, user_id, title="t" * 512)
    assert len((await service.get_user_sessions(user_id, query="t" * 512))["sessions"]) == 1
    with pytest.raises(Invalid, match="query is longer than the 512 characters of a title"):
        await service.get_user_sessions(user_id, query="t" * length)
    with pytest.raises(Invalid, match="text is longer than the 512 characters of a title"):
        await service.find_sessions(user_id, "t" * length)
