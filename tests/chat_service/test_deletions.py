"""Deletions: invisible at once, done in short steps, finished whatever ends in between, and forks cared for."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from chat_service import appends, deletions, doctor, sessions
from chat_service.archive.read import restore_file
from chat_service.archive.write import archive_lines
from chat_service.events import Event
from chat_service.imports import Report
from chat_service.service import ChatService
from models.database import Database
from models.errors import Conflict, NotFound, Unavailable
from models.ids import SessionId, UserId
from models.inputs import NewSession, NewUser, SessionChanges
from models.tables import tool_usages
from tests.conftest import url_of
from tests.support import (
    RECORD,
    asking,
    count_all_rows,
    done,
    fill_long,
    hear,
    new_session,
    new_user,
    said,
    start_python,
    watch_commits,
)

pytestmark = pytest.mark.anyio

LONG = 3_000
"""Pairs of entries: several steps long."""

NOBODY_LEFT = {table.name: 0 for table in RECORD} | {"users": 1}


async def long_session(service: ChatService, database: Database, user_id: UserId, **more: Any) -> SessionId:
    session_id = await new_session(service, user_id, **more)
    await fill_long(database, session_id, LONG)
    return session_id


async def fork(service: ChatService, user_id: UserId, session_id: SessionId, at_seq: int | None = None) -> SessionId:
    return SessionId((await service.fork_session(user_id, session_id, at_seq))["id"])


async def texts(service: ChatService, user_id: UserId, session_id: SessionId) -> list[Any]:
    """Return what all entries of a session say, whatever session they are of."""
    found: list[Any] = []
    seq, newer = 0, 1
    while newer:
        window = await service.get_session_history(user_id, session_id, 500, after_seq=seq)
        found += [
            {name: value for name, value in entry.items() if name not in ("id", "session_id")}
            for entry in window["entries"]
        ]
        seq, newer = window["after_seq"], window["newer"]
    return found


async def owners(service: ChatService, user_id: UserId, session_id: SessionId) -> set[str]:
    page = await service.get_session_messages(user_id, session_id, 500)
    return {message["session_id"] for message in page["messages"]}


async def test_a_long_session_is_invisible_at_once_and_removed_step_by_step(
    service: ChatService, database: Database, user_id: UserId
) -> None:
    new = NewSession(title="Long", source="file", source_id="7", idempotency_key="key")
    session_id = SessionId((await service.create_chat_session(user_id, new))["id"])
    await fill_long(database, session_id, LONG)
    other_id = await new_session(service, user_id, title="Other")
    heard = hear(service)
    receipt = await service.delete_session(user_id, session_id)
    assert receipt == {"deleted": session_id, "sessions": 1, "messages": LONG, "tool_usages": LONG, "receipt": 1}
    assert heard == [Event(user_id, session_id, "deleted")]
    rows = await count_all_rows(database)
    assert rows["messages"] > 1_000, "most is there still"
    for call in (
        service.get_session(user_id, session_id),
        service.get_session_history(user_id, session_id),
        service.get_session_messages(user_id, session_id),
        service.get_session_entry(user_id, session_id, 6_000),
        service.get_session_tool_usage(user_id, session_id),
        service.add_message(user_id, session_id, said()),
        service.update_session(user_id, session_id, SessionChanges(title="Back")),
        service.fork_session(user_id, session_id),
        service.merge_sessions(user_id, session_id, other_id),
        service.delete_session(user_id, session_id),
    ):
        with pytest.raises(NotFound):
            await call
    assert [session["id"] for session in (await service.get_user_sessions(user_id))["sessions"]] == [other_id]
    active = await service.get_active_session(user_id)
    assert active["session"] is not None
    assert (active["session"]["id"], active["other_active"]) == (other_id, 0)
    assert (await service.summarize_tool_usage(user_id))["calls"] == 0
    assert (await service.get_session_tool_usage(user_id))["tool_usages"] == []
    again = await service.create_chat_session(user_id, new)
    assert again["last_seq"] == 0, "its source and its key are free"
    assert (await service.delete_user(user_id))["messages"] == 0, "nothing is counted twice"
    await service.finish_deletions()
    assert await count_all_rows(database) == NOBODY_LEFT | {"users": 0}


async def test_a_step_removes_so_many_rows_or_characters_at_most(
    service: ChatService, database: Database, user_id: UserId
) -> None:
    session_id = await long_session(service, database, user_id)
    before = await count_all_rows(database)
    await service.delete_session(user_id, session_id)
    seen, is_left = [], True
    while is_left:
        after = await count_all_rows(database)
        seen.append({name: before[name] - after[name] for name in before})
        before, is_left = after, await service.transaction(deletions.finish_some)
    assert max(step["messages"] + step["tool_usages"] for step in seen) <= 100, "each counts for 100 of 10,000"
    assert max(step["tool_call_references"] for step in seen) == 1_000
    wide_id = await new_session(service, user_id)
    for _ in range(4):
        await service.add_messages(user_id, wide_id, [said("x" * 6_000)] * 3)
    await service.delete_session(user_id, wide_id)
    assert (await count_all_rows(database))["messages"] == 10, "the second went past the ten thousand"
    await service.finish_deletions()
    assert await count_all_rows(database) == NOBODY_LEFT


async def test_a_small_deletion_is_finished_with_the_call(
    service: ChatService, database: Database, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    await fill_long(database, session_id, 30)
    commits = await watch_commits(database)
    await service.delete_session(user_id, session_id)
    assert len(commits) == 1
    assert await count_all_rows(database) == NOBODY_LEFT


async def test_others_write_between_the_steps(service: ChatService, database: Database, user_id: UserId) -> None:
    session_id, other_id = await long_session(service, database, user_id), await new_session(service, user_id)
    await service.delete_session(user_id, session_id)
    finishing = asyncio.create_task(service.finish_deletions())
    async with Database(f"sqlite+aiosqlite:///{database.path}") as elsewhere:
        for writer in (service, ChatService(elsewhere)):
            await writer.add_message(user_id, other_id, said())
            assert not finishing.done()
    await finishing
    assert (await count_all_rows(database))["messages"] == 2


async def test_several_may_finish_at_once(service: ChatService, database: Database, user_id: UserId) -> None:
    parent_id = await long_session(service, database, user_id)
    fork_id = await fork(service, user_id, parent_id, 2_000)
    expected = await texts(service, user_id, fork_id)
    await service.delete_session(user_id, parent_id)
    async with Database(f"sqlite+aiosqlite:///{database.path}") as elsewhere:
        others = [service, ChatService(elsewhere), ChatService(elsewhere)]
        await asyncio.gather(*(other.finish_deletions() for other in others))
    assert await texts(service, user_id, fork_id) == expected
    rows = await count_all_rows(database)
    assert rows == NOBODY_LEFT | {
        "users": 1,
        "chat_sessions": 1,
        "messages": 1_000,
        "tool_usages": 1_000,
        "tool_call_references": 1_000,
    }


async def test_who_stops_finishing_leaves_the_rest_to_the_next(
    service: ChatService, database: Database, database_url: str, user_id: UserId
) -> None:
    session_id = await long_session(service, database, user_id)
    await service.delete_session(user_id, session_id)
    finishing = asyncio.create_task(service.finish_deletions())
    await service.get_user(user_id)
    finishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finishing
    finishing = asyncio.create_task(service.finish_deletions())
    await asyncio.sleep(0)
    await database.close()
    with pytest.raises(Unavailable):
        await finishing
    async with Database(database_url) as reopened:
        assert (await count_all_rows(reopened))["messages"] > 0
        await ChatService(reopened).finish_deletions()
        assert await count_all_rows(reopened) == NOBODY_LEFT


DELETING = """
import asyncio, sys
from chat_service.service import ChatService
from models.database import Database
async def main():
    url, user_id, session_id = sys.argv[1:]
    async with Database(url) as database:
        service = ChatService(database)
        await service.delete_session(user_id, session_id)
        print("deleted", flush=True)
        await service.finish_deletions()
asyncio.run(main())
"""


async def test_what_a_killed_process_has_left_is_finished_by_the_next(
    service: ChatService, database: Database, database_url: str, user_id: UserId
) -> None:
    parent_id = await new_session(service, user_id)
    await fill_long(database, parent_id, 8_000)
    fork_id = await fork(service, user_id, parent_id, 3_000)
    await service.add_message(user_id, fork_id, said("own"))
    expected = await texts(service, user_id, fork_id)
    with started(database_url, user_id, parent_id) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "deleted\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert await database.read(deletions.is_anything_left)
    with pytest.raises(NotFound):
        await service.get_session(user_id, parent_id)
    assert await texts(service, user_id, fork_id) == expected
    findings = await doctor.examine(database_url, lambda done, total: None)
    assert [finding for finding in findings if finding["check"] == "numbering" and finding["is_problem"]] == []
    await service.finish_deletions()
    assert await texts(service, user_id, fork_id) == expected
    rows = {"messages": 1_501, "tool_usages": 1_500, "tool_call_references": 1_500}
    assert await count_all_rows(database) == NOBODY_LEFT | {"users": 1, "chat_sessions": 1} | rows
    findings = await doctor.examine(database_url, lambda done, total: None)
    assert [finding for finding in findings if finding["check"] in ("numbering", "references")] == [
        {"check": "references", "is_problem": False, "what": "every row refers to one that exists"},
        {"check": "numbering", "is_problem": False, "what": "1 sessions, each numbered from 1 without a gap"},
    ]


@contextmanager
def started(*arguments: str) -> Iterator[Any]:
    with start_python(DELETING, *arguments) as process:
        try:
            yield process
        finally:
            process.kill()


# Forks


async def test_a_fork_reads_the_same_before_during_and_after_its_parents_deletion(
    service: ChatService, database: Database, user_id: UserId
) -> None:
    parent_id = await long_session(service, database, user_id)
    fork_id = await fork(service, user_id, parent_id, 4_001)
    child_id = await fork(service, user_id, fork_id, 3_000)
    await service.add_message(user_id, fork_id, said("own", idempotency_key="key"))
    expected = {each: await texts(service, user_id, each) for each in (fork_id, child_id)}
    heard = hear(service)
    await service.delete_session(user_id, parent_id)
    is_left, steps = True, 0
    while is_left:
        for each_id, entries in expected.items():
            if steps % 4 == 0:
                assert await texts(service, user_id, each_id) == entries
            assert await owners(service, user_id, each_id) == {fork_id}, "the parent is not named any more"
        session = await service.get_session(user_id, fork_id)
        assert (session["forked_from"], session["forked_from_seq"]) == (None, None)
        with pytest.raises(Conflict, match="is a fork or has one"):
            await service.merge_sessions(user_id, fork_id, child_id)
        is_left = await service.transaction(deletions.finish_some)
        steps += 1
    assert steps > 5
    assert heard == [Event(user_id, parent_id, "deleted"), Event(user_id, fork_id, "updated")]
    for each_id, entries in expected.items():
        assert await texts(service, user_id, each_id) == entries
    session = await service.get_session(user_id, fork_id)
    assert (session["message_count"], session["tool_usage_count"], session["last_seq"]) == (2_002, 2_000, 4_002)
    assert (await service.get_session(user_id, child_id))["forked_from"] == fork_id
    assert (await service.summarize_tool_usage(user_id))["calls"] == 2_000
    usage = await service.add_tool_usage(user_id, fork_id, done(tool_call_id="call-2000"))
    assert usage["message_seq"] == 4_001, "references were copied as well"
    assert (await service.add_message(user_id, fork_id, said("own", idempotency_key="key")))["seq"] == 4_002


async def test_what_had_a_fork_is_merged_also_before_all_of_the_fork_is_gone(
    service: ChatService, database: Database, user_id: UserId
) -> None:
    parent_id, target_id = [await new_session(service, user_id) for _ in range(2)]
    await service.add_message(user_id, parent_id, said("moved"))
    fork_id = await fork(service, user_id, parent_id, 0)
    await fill_long(database, fork_id, LONG)
    await service.delete_session(user_id, fork_id)
    assert await service.snapshot(deletions.is_anything_left), "most is there still"
    assert (await service.merge_sessions(user_id, parent_id, target_id))["last_seq"] == 1
    await service.delete_session(user_id, parent_id)
    await service.finish_deletions()
    assert [entry["content"] for entry in await texts(service, user_id, target_id)] == ["moved"]


async def test_a_fork_is_archived_whole_while_its_parent_is_deleted(
    service: ChatService, database: Database, user_id: UserId, tmp_path: Path
) -> None:
    parent_id = await long_session(service, database, user_id)
    shown = done(tool_call_id="call-0", result=[{"type": "image", "data": "iVBORw0=", "mimeType": "image/png"}])
    await service.add_tool_usage(user_id, parent_id, shown)
    fork_id = await fork(service, user_id, parent_id)
    child_id = await fork(service, user_id, fork_id, 3_000)
    await service.add_message(user_id, fork_id, said("own", idempotency_key="key"))
    expected = {each: await texts(service, user_id, each) for each in (fork_id, child_id)}
    await service.delete_session(user_id, parent_id)
    await service.transaction(deletions.finish_some)
    lines = [line async for line in archive_lines(service, user_id, [child_id])]
    assert await service.snapshot(deletions.is_anything_left), "the fork has not got its copy yet"
    (tmp_path / "archive.jsonl").write_text("\n".join(lines) + "\n")
    async with Database(url_of(tmp_path / "other.db")) as other:
        elsewhere, report = ChatService(other), Report()
        somebody = await new_user(elsewhere)
        await restore_file(elsewhere, somebody, tmp_path / "archive.jsonl", report)
        assert report.problems == []
        for each_id, entries in expected.items():
            assert await texts(elsewhere, somebody, each_id) == [entry | {"user_id": somebody} for entry in entries]
        again = await elsewhere.add_message(somebody, fork_id, said("own", idempotency_key="key"))
        assert again["seq"] == expected[fork_id][-1]["seq"]


async def test_a_fork_is_written_to_while_it_gets_its_copy(
    service: ChatService, database: Database, user_id: UserId
) -> None:
    parent_id = await long_session(service, database, user_id)
    # A call whose record no message has joined.
    alone = update(tool_usages).where(tool_usages.c.seq == 2).values(message_seq=None)
    await database.write(lambda connection: connection.execute(alone).rowcount)
    fork_id = await fork(service, user_id, parent_id)
    await service.delete_session(user_id, parent_id)
    asking_again = await service.add_message(user_id, fork_id, asking("call-0"))
    is_left, said_meanwhile = True, 0
    while is_left:
        await service.add_message(user_id, fork_id, said())
        said_meanwhile += 1
        is_left = await service.transaction(deletions.finish_some)
    history = await texts(service, user_id, fork_id)
    assert [entry["seq"] for entry in history] == list(range(1, 6_002 + said_meanwhile))
    assert history[1]["message_seq"] is None, "what was inherited stays as it was"
    session = await service.get_session(user_id, fork_id)
    assert session["message_count"] + session["tool_usage_count"] == session["last_seq"] == len(history)
    usage = await service.add_tool_usage(user_id, fork_id, done(tool_call_id="call-0"))
    assert usage["message_seq"] == asking_again["seq"] == 6_001


async def test_the_fork_of_a_fork_keeps_what_it_has_of_both(service: ChatService, user_id: UserId) -> None:
    first_id = await new_session(service, user_id, title="first")
    await service.add_messages(user_id, first_id, [said("1"), asking("call"), said("3")])
    second_id = await fork(service, user_id, first_id, 2)
    await service.add_messages(user_id, second_id, [said("other 3"), said("other 4")])
    early_id, late_id = await fork(service, user_id, second_id, 1), await fork(service, user_id, second_id, 3)
    expected = {each: await texts(service, user_id, each) for each in (first_id, early_id, late_id)}
    await service.delete_session(user_id, second_id)
    for each_id, entries in expected.items():
        assert await texts(service, user_id, each_id) == entries
    early, late = await service.get_session(user_id, early_id), await service.get_session(user_id, late_id)
    assert (early["forked_from"], early["forked_from_seq"], early["message_count"]) == (first_id, 1, 0)
    assert (late["forked_from"], late["forked_from_seq"], late["message_count"]) == (first_id, 2, 1)
    await service.delete_session(user_id, first_id)
    assert await texts(service, user_id, late_id) == expected[late_id]
    assert await texts(service, user_id, early_id) == expected[early_id]
    assert (await service.get_session(user_id, late_id))["forked_from"] is None
    assert (await service.add_tool_usage(user_id, late_id, done(tool_call_id="call")))["message_seq"] == 2


async def test_forks_go_along_when_asked_and_only_those(
    service: ChatService, database: Database, user_id: UserId
) -> None:
    root_id = await new_session(service, user_id)
    await service.add_message(user_id, root_id, said("root"))
    parent_id = await fork(service, user_id, root_id)
    await service.add_messages(user_id, parent_id, [said("1"), said("2")])
    forks = [await fork(service, user_id, parent_id, 2), await fork(service, user_id, parent_id)]
    forks.append(await fork(service, user_id, forks[0]))
    await service.add_tool_usage(user_id, forks[2], done())
    heard = hear(service)
    receipt = await service.delete_session(user_id, parent_id, with_forks=True)
    assert receipt == {"deleted": parent_id, "sessions": 4, "messages": 2, "tool_usages": 1, "receipt": 1}
    assert heard == [Event(user_id, each, "deleted") for each in (parent_id, *forks)]
    assert [session["id"] for session in (await service.get_user_sessions(user_id))["sessions"]] == [root_id]
    assert await count_all_rows(database) == NOBODY_LEFT | {"chat_sessions": 1, "messages": 1}


async def test_a_parent_and_its_fork_deleted_one_after_the_other_leave_the_grandchild_whole(
    service: ChatService, database: Database, user_id: UserId
) -> None:
    parent_id = await long_session(service, database, user_id)
    fork_id = await fork(service, user_id, parent_id, 5_000)
    child_id = await fork(service, user_id, fork_id, 4_000)
    expected = await texts(service, user_id, child_id)
    await service.delete_session(user_id, parent_id)
    await service.delete_session(user_id, fork_id)
    assert await texts(service, user_id, child_id) == expected
    assert await owners(service, user_id, child_id) == {child_id}
    await service.finish_deletions()
    assert await texts(service, user_id, child_id) == expected
    assert (await service.get_session(user_id, child_id))["message_count"] == 2_000
    assert (await count_all_rows(database))["messages"] == 2_000


async def test_all_of_a_long_tree_goes_without_a_copy(
    service: ChatService, database: Database, user_id: UserId
) -> None:
    parent_id = await long_session(service, database, user_id)
    for _ in range(3):
        await fork(service, user_id, await fork(service, user_id, parent_id))
    before = await count_all_rows(database)
    await service.delete_session(user_id, parent_id, with_forks=True)
    is_left = True
    while is_left:
        after = await count_all_rows(database)
        assert all(after[table] <= before[table] + (table == "users") for table in before)
        before, is_left = after, await service.transaction(deletions.finish_some)
    assert await count_all_rows(database) == NOBODY_LEFT


# Users


async def test_a_user_with_a_long_record_is_gone_at_once_and_may_come_back(
    service: ChatService, database: Database
) -> None:
    token = NewUser(username="ada", issuer="https://one", subject="1", email="ada@example.org")
    user_id = UserId((await service.get_or_create_user(token))["id"])
    session_id = await long_session(service, database, user_id)
    await fork(service, user_id, session_id)
    await new_session(service, user_id)
    receipt = await service.delete_user(user_id)
    assert receipt == {"deleted": user_id, "sessions": 3, "messages": LONG, "tool_usages": LONG, "receipt": 1}
    for call in (
        service.get_user(user_id),
        service.get_user_sessions(user_id),
        service.get_active_session(user_id),
        service.get_session_tool_usage(user_id),
        service.summarize_tool_usage(user_id),
        service.get_session(user_id, session_id),
        service.delete_user(user_id),
    ):
        with pytest.raises(NotFound):
            await call
    assert (await count_all_rows(database))["messages"] > 1_000
    back = await service.get_or_create_user(token)
    assert back["id"] != user_id
    assert (await service.get_user_sessions(UserId(back["id"])))["sessions"] == []
    await new_user(service, "grace")
    await service.finish_deletions()
    assert await count_all_rows(database) == NOBODY_LEFT | {"users": 2}


async def test_deleting_a_user_who_is_deleting_a_session_removes_all(
    service: ChatService, database: Database, user_id: UserId
) -> None:
    parent_id = await long_session(service, database, user_id)
    await fork(service, user_id, parent_id, 5_000)
    await service.delete_session(user_id, parent_id)
    await service.delete_user(user_id)
    await service.finish_deletions()
    assert await count_all_rows(database) == NOBODY_LEFT | {"users": 0}


async def test_many_small_sessions_of_a_user_are_removed_in_steps(
    service: ChatService, database: Database, user_id: UserId
) -> None:
    def create(work: Any) -> None:
        for _ in range(700):
            session_id = SessionId(sessions.create(work, user_id, NewSession())["id"])
            appends.add(work, user_id, session_id, [said()])

    await service.transaction(create)
    assert (await service.delete_user(user_id))["sessions"] == 700
    left = (await count_all_rows(database))["chat_sessions"]
    assert 0 < left < 700
    await service.finish_deletions()
    assert await count_all_rows(database) == NOBODY_LEFT | {"users": 0}
