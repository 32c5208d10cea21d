"""Merges: one session's entries at the end of another, in order, with all that they refer to."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_service.events import Event
from chat_service.service import ChatService
from models.database import Database
from models.errors import Conflict, Invalid, NotFound
from models.ids import SessionId, UserId
from models.inputs import NewSession, SessionChanges
from tests.support import (
    PROPERTY,
    Serving,
    asking,
    count_all_rows,
    done,
    fill_long,
    hear,
    new_session,
    said,
    serving,
    watch_commits,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def source_id(service: ChatService, user_id: UserId) -> SessionId:
    return await new_session(service, user_id, title="Source")


@pytest.fixture
async def target_id(service: ChatService, user_id: UserId) -> SessionId:
    return await new_session(service, user_id, title="Target")


async def entries_of(service: ChatService, user_id: UserId, session_id: SessionId) -> list[Any]:
    return (await service.get_session_history(user_id, session_id, 500))["entries"]


async def test_the_sources_entries_follow_the_targets_with_what_they_refer_to(
    service: ChatService, database: Database, user_id: UserId, source_id: SessionId, target_id: SessionId
) -> None:
    await service.add_messages(user_id, target_id, [said("t1"), asking("call")])
    await service.add_messages(user_id, source_id, [said("s1"), asking("call", "late")])
    await service.add_tool_usage(user_id, source_id, done(tool_call_id="call"))
    await service.add_message(user_id, source_id, said("edit", kind="replacement", replaces_seq=1))
    own, moved = await entries_of(service, user_id, target_id), await entries_of(service, user_id, source_id)
    before = await count_all_rows(database)
    heard = hear(service)
    merged = await service.merge_sessions(user_id, source_id, target_id)
    assert heard == [Event(user_id, target_id, "appended", 6), Event(user_id, source_id, "updated")]
    assert (merged["last_seq"], merged["message_count"], merged["tool_usage_count"]) == (6, 5, 1)
    assert await entries_of(service, user_id, target_id) == [
        *own,
        *(
            entry
            | {"id": f"{target_id}:{entry['seq'] + 2}", "session_id": target_id, "seq": entry["seq"] + 2}
            | {name: entry[name] + 2 for name in ("replaces_seq", "message_seq") if entry.get(name) is not None}
            for entry in moved
        ),
    ]
    assert await count_all_rows(database) == before
    late = await service.add_tool_usage(user_id, target_id, done(tool_call_id="late"))
    assert (late["seq"], late["message_seq"]) == (7, 4)


async def test_the_source_stays_and_says_where_its_entries_are(
    service: ChatService, user_id: UserId, source_id: SessionId, target_id: SessionId
) -> None:
    await service.add_message(user_id, source_id, said(idempotency_key="key"))
    await service.merge_sessions(user_id, source_id, target_id)
    source = await service.get_session(user_id, source_id)
    assert (source["merged_into"], source["status"], source["last_seq"]) == (target_id, "archived", 0)
    assert (source["message_count"], source["tool_usage_count"]) == (0, 0)
    window = await service.get_session_history(user_id, source_id, after_seq=1)
    assert (window["entries"], window["session"]["merged_into"]) == ([], target_id)
    for append in (
        service.add_message(user_id, source_id, said()),
        service.add_message(user_id, source_id, said(idempotency_key="key")),
        service.add_tool_usage(user_id, source_id, done()),
        service.update_session(user_id, source_id, SessionChanges(status="active")),
    ):
        with pytest.raises(Conflict, match=f"was merged into {target_id}"):
            await append
    renamed = await service.update_session(user_id, source_id, SessionChanges(title="Gone", status="archived"))
    assert renamed["title"] == "Gone"
    active = await service.get_active_session(user_id)
    assert active["session"] is not None
    assert (active["session"]["id"], active["other_active"]) == (target_id, 0)


async def test_keys_go_along_and_where_both_used_one_the_targets_entry_keeps_it(
    service: ChatService, user_id: UserId, source_id: SessionId, target_id: SessionId
) -> None:
    kept = await service.add_message(user_id, target_id, said("target's", idempotency_key="both"))
    used = await service.add_tool_usage(user_id, target_id, done(idempotency_key="crossed"))
    batch = [said("source's", idempotency_key="both"), said("crossed", idempotency_key="crossed")]
    await service.add_messages(user_id, source_id, batch)
    await service.add_message(user_id, source_id, said("new", idempotency_key="new"))
    await service.add_tool_usage(user_id, source_id, done("new", idempotency_key="new usage"))
    await service.merge_sessions(user_id, source_id, target_id)
    assert await service.add_message(user_id, target_id, said("target's", idempotency_key="both")) == kept
    assert await service.add_tool_usage(user_id, target_id, done(idempotency_key="crossed")) == used
    assert (await service.add_message(user_id, target_id, said("new", idempotency_key="new")))["seq"] == 5
    assert (await service.add_tool_usage(user_id, target_id, done("new", idempotency_key="new usage")))["seq"] == 6
    with pytest.raises(Conflict, match="idempotency_key"):
        await service.add_messages(user_id, target_id, batch)
    assert len(await entries_of(service, user_id, target_id)) == 6


async def test_an_empty_source_and_an_empty_target_can_be_merged(
    service: ChatService, user_id: UserId, source_id: SessionId, target_id: SessionId
) -> None:
    assert (await service.merge_sessions(user_id, source_id, target_id))["last_seq"] == 0
    third_id = await new_session(service, user_id)
    await service.add_message(user_id, third_id, said())
    assert (await service.merge_sessions(user_id, third_id, target_id))["last_seq"] == 1
    last_id = await new_session(service, user_id)
    assert (await service.merge_sessions(user_id, target_id, last_id))["last_seq"] == 1
    assert (await service.get_session(user_id, source_id))["merged_into"] == target_id
    assert (await service.get_session(user_id, target_id))["merged_into"] == last_id


async def test_a_source_on_record_is_not_imported_twice_after_a_merge(
    service: ChatService, user_id: UserId, target_id: SessionId
) -> None:
    imported = NewSession(source="file", source_id="7", idempotency_key="key")
    source_id = SessionId((await service.create_chat_session(user_id, imported))["id"])
    await service.merge_sessions(user_id, source_id, target_id)
    assert (await service.create_chat_session(user_id, imported))["merged_into"] == target_id
    with pytest.raises(Conflict, match="source"):
        await service.create_chat_session(user_id, NewSession(source="file", source_id="7"))


async def test_what_cannot_be_merged_is_refused_and_nothing_moves(
    service: ChatService, database: Database, user_id: UserId, source_id: SessionId, target_id: SessionId
) -> None:
    await service.add_message(user_id, source_id, said())
    archived_id, merged_id = await new_session(service, user_id), await new_session(service, user_id)
    await service.update_session(user_id, archived_id, SessionChanges(status="archived"))
    await service.merge_sessions(user_id, merged_id, await new_session(service, user_id))
    parent_id = await new_session(service, user_id)
    fork_id = SessionId((await service.fork_session(user_id, parent_id))["id"])
    before = await count_all_rows(database), await entries_of(service, user_id, source_id)
    heard = hear(service)
    for other_id, sentence in (
        (archived_id, "is archived"),
        (merged_id, "was merged into"),
        (parent_id, "is a fork or has one"),
        (fork_id, "is a fork or has one"),
    ):
        with pytest.raises(Conflict, match=sentence):
            await service.merge_sessions(user_id, source_id, other_id)
        with pytest.raises(Conflict, match=sentence):
            await service.merge_sessions(user_id, other_id, source_id)
    with pytest.raises(Conflict, match="the same session"):
        await service.merge_sessions(user_id, source_id, source_id)
    assert (await count_all_rows(database), await entries_of(service, user_id, source_id)) == before
    assert heard == []
    await service.delete_session(user_id, fork_id)
    assert (await service.merge_sessions(user_id, source_id, parent_id))["last_seq"] == 1


async def test_a_strangers_session_is_neither_source_nor_target(
    service: ChatService, user_id: UserId, stranger_id: UserId, source_id: SessionId
) -> None:
    foreign_id = await new_session(service, stranger_id)
    for pair in ((source_id, foreign_id), (foreign_id, source_id)):
        with pytest.raises(NotFound):
            await service.merge_sessions(user_id, *pair)
    with pytest.raises(Invalid, match="target_id is not a session's id"):
        await service.merge_sessions(user_id, source_id, SessionId("x"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("merges")) as opened:
        yield opened


@PROPERTY
@given(kinds=st.lists(st.lists(st.booleans(), max_size=4), min_size=2, max_size=3))
def test_merging_one_after_the_other_is_putting_lists_together(served: Serving, kinds: list[list[bool]]) -> None:
    service, user_id = served.service, served.user_id

    async def merge() -> None:
        target_id = await new_session(service, user_id)
        expected = []
        for number, each in enumerate(kinds):
            session_id = await new_session(service, user_id)
            for place, is_message in enumerate(each):
                expected.append(f"{number}.{place}")
                if is_message:
                    await service.add_message(user_id, session_id, said(expected[-1]))
                else:
                    await service.add_tool_usage(user_id, session_id, done(expected[-1]))
            merged = await service.merge_sessions(user_id, session_id, target_id)
        entries = await entries_of(service, user_id, target_id)
        assert [entry.get("content") or entry["tool_name"] for entry in entries] == expected
        assert [entry["seq"] for entry in entries] == list(range(1, len(expected) + 1))
        assert merged["message_count"] + merged["tool_usage_count"] == merged["last_seq"] == len(expected)

    served.runner.run(merge())


async def test_a_long_merge_is_one_commit(
    service: ChatService, database: Database, user_id: UserId, source_id: SessionId, target_id: SessionId
) -> None:
    for session_id in (source_id, target_id):
        await fill_long(database, session_id, 1_000)
    commits = await watch_commits(database)
    merged = await service.merge_sessions(user_id, source_id, target_id)
    assert len(commits) == 1
    assert (merged["last_seq"], merged["message_count"]) == (4_000, 2_000)
    assert [entry["seq"] for entry in await entries_of(service, user_id, target_id)] == list(range(3_501, 4_001))
