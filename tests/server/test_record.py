"""The record behind the server: opened once, beside the first answer, and tried again where it could not be."""

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from chat_service.service import ChatService
from models.database import Database
from models.errors import ChatError
from models.ids import SessionId, UserId
from models.inputs import NewSession, NewUser
from models.sqlite import choose_library
from server.record import Record
from server.settings import Settings
from tests.conftest import url_of
from tests.server.support import ERAS, connected, opened_record, started, tools_of
from tests.support import count_all_rows, fill_long

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("era", ERAS)
async def test_a_folder_in_the_place_of_the_database_is_told_and_once_it_is_gone_all_works(
    tmp_path: Path, era: str
) -> None:
    path = tmp_path / "chat.db"
    path.mkdir()
    async with tools_of(url_of(path), era) as tools:
        for name in ("list_sessions", "start_session", "list_sessions"):
            told = await tools.refusal(name)
            assert "chat.db" in told or "database" in told, told
            assert "server failed" not in told
        path.rmdir()
        session = await tools.new_session()
        assert await tools.say(session, "hello") == [1]


async def test_a_file_that_is_no_database_is_told_left_alone_and_once_it_is_gone_all_works(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    content = b"Dear diary, this is not a database. " * 200
    path.write_bytes(content)
    async with tools_of(url_of(path)) as tools:
        for _ in range(2):
            told = await tools.refusal("start_session")
            assert "database" in told, told
            assert "server failed" not in told
            assert "diary" not in told
        assert path.read_bytes() == content
        path.unlink()
        assert await tools.new_session()


def test_a_server_process_tries_again_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    path.mkdir()
    with started(url_of(path)) as server:
        assert server.call("start_session")["isError"]
        path.rmdir()
        assert server.answer("start_session")["status"] == "active"
        server.end_input()
        assert server.wait() == 0


async def test_a_failure_from_before_is_not_told_to_a_call_that_comes_after(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    path.mkdir()
    async with opened_record(url_of(path)) as record:
        # As the transport does beside its first answer.
        record.open_soon()
        await asyncio.wait([task for task in asyncio.all_tasks() if task.get_name() == "opening the record"])
        path.rmdir()
        assert (await record.caller()).user_id


async def test_calls_at_once_open_the_database_once(new_file_url: str) -> None:
    async with opened_record(new_file_url) as record:
        callers = await asyncio.gather(*(record.caller() for _ in range(20)))
        assert len({id(caller.service) for caller in callers}) == 1
        assert len({caller.user_id for caller in callers}) == 1
        assert (await record.caller()).service is callers[0].service


async def test_calls_at_once_are_all_told_why_it_cannot_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    path.mkdir()
    async with opened_record(url_of(path)) as record:
        told = await asyncio.gather(*(record.caller() for _ in range(20)), return_exceptions=True)
        assert all(isinstance(error, ChatError) for error in told), told
        assert len({str(error) for error in told}) == 1
        path.rmdir()
        callers = await asyncio.gather(*(record.caller() for _ in range(20)))
        assert len({id(caller.service) for caller in callers}) == 1


async def test_a_caller_who_gives_up_does_not_stop_the_opening(new_file_url: str) -> None:
    async with opened_record(new_file_url) as record:
        impatient = asyncio.create_task(record.caller())
        await asyncio.sleep(0)
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        assert (await record.caller()).user_id


async def test_the_user_is_the_same_each_time_and_another_name_is_another_user(database_url: str) -> None:
    users = []
    for name in ("ada", "ada", "  ada ", "mallory"):
        async with opened_record(database_url, name) as record:
            users.append((await record.caller()).user_id)
    assert users[0] == users[1] == users[2] != users[3]


async def test_a_record_closed_while_it_opens_leaves_nothing_running(new_file_url: str) -> None:
    threads = set(threading.enumerate())
    record = Record(Settings(database_url=new_file_url, user="ada"))
    record.open_soon()
    await asyncio.sleep(0)
    await record.close()
    await record.close()
    left = [thread for thread in set(threading.enumerate()) - threads if "asyncio" not in thread.name]
    assert [thread.name for thread in left if not thread.name.startswith("AnyIO")] == []


async def test_a_closed_record_leaves_no_threads(database_url: str) -> None:
    async with opened_record(database_url) as record:
        await record.caller()
        threads = set(threading.enumerate())
    gone = [thread for thread in threads if not thread.is_alive()]
    assert len(gone) >= 2, "the writer's and the readers'"


async def test_a_client_that_only_lists_opens_no_database(tmp_path: Path) -> None:
    async with opened_record(url_of(tmp_path / "chat.db")) as record, connected(record) as tools:
        assert (await tools.client.list_tools()).tools
        assert (await tools.client.list_resources()).resources
    assert os.listdir(tmp_path) == []  # noqa: PTH208


async def test_two_servers_on_one_file_see_what_the_other_stores(database_url: str) -> None:
    async with tools_of(database_url) as one, tools_of(database_url) as other:
        session = await one.new_session(title="shared")
        assert await other.say(session, "from the other") == [1]
        assert await one.say(session, "from the one") == [2]
        history = await other.answer("get_session_history", session_id=session)
        assert [entry["content"] for entry in history["entries"]] == ["from the other", "from the one"]


async def test_a_user_deleted_by_another_process_is_created_anew_by_the_next_call(database_url: str) -> None:
    async with tools_of(database_url) as one, opened_record(database_url) as other:
        old = await one.new_session(title="old")
        deleting = await other.caller()
        await deleting.service.delete_user(deleting.user_id)
        assert await one.new_session(title="new") != old
        listed = await one.answer("list_sessions")
        assert [session["title"] for session in listed["sessions"]] == ["new"]


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("list_sessions", {}),
        ("get_active_session", {}),
        ("list_tool_usage", {}),
        ("get_session_history", {"session_id": None}),
        ("add_messages", {"session_id": None, "messages": [{"role": "user", "content": "hello"}]}),
    ],
)
async def test_a_server_sees_what_another_has_stored_for_the_user_who_came_back(
    database_url: str, tool: str, arguments: dict[str, Any]
) -> None:
    async with tools_of(database_url) as one, opened_record(database_url) as other:
        await one.new_session()
        deleting = await other.caller()
        await deleting.service.delete_user(deleting.user_id)
        async with tools_of(database_url) as third:
            session = await third.new_session()
            await third.answer("log_tool_usage", session_id=session, tool_name="read", arguments={})
        given = {name: session if value is None else value for name, value in arguments.items()}
        assert session in str(await one.answer(tool, **given))


async def test_a_completion_and_a_resource_find_the_user_who_came_back(database_url: str) -> None:
    async with opened_record(database_url) as record, connected(record) as one, opened_record(database_url) as other:
        deleting = await other.caller()
        assert (await one.client.read_resource("chat://sessions")).contents
        await deleting.service.delete_user(deleting.user_id)
        assert (await one.client.read_resource("chat://sessions")).contents
        assert await one.new_session()


async def test_what_an_ended_process_has_left_to_delete_is_removed_while_the_next_server_answers(
    database: Database, service: ChatService, database_url: str
) -> None:
    user_id = UserId((await service.get_or_create_user(NewUser(username="ada")))["id"])
    session_id = SessionId((await service.create_chat_session(user_id, NewSession()))["id"])
    await fill_long(database, session_id, 3_000)
    await service.delete_session(user_id, session_id)
    async with opened_record(database_url) as record, connected(record) as tools:
        assert await tools.new_session()
        assert (await count_all_rows(database))["messages"] > 0, "no call waits for it"
        await asyncio.wait([task for task in asyncio.all_tasks() if task.get_name() == "finishing deletions"])
        assert (await count_all_rows(database))["messages"] == 0


async def test_a_deletion_through_a_tool_is_finished_in_the_background_and_a_closing_record_leaves_the_rest(
    database: Database, database_url: str
) -> None:
    async with opened_record(database_url) as record, connected(record) as tools:
        for is_last in (False, True):
            session = SessionId(await tools.new_session())
            await fill_long(database, session, 3_000)
            receipt = await tools.answer("delete_session", session_id=session)
            assert (receipt["messages"], receipt["tool_usages"]) == (3_000, 3_000)
            if not is_last:
                await asyncio.wait([task for task in asyncio.all_tasks() if task.get_name() == "finishing deletions"])
                assert (await count_all_rows(database))["chat_sessions"] == 0
    rows = await count_all_rows(database)
    assert rows["chat_sessions"] == 1
    assert rows["messages"] + rows["tool_usages"] > 2_000


async def test_a_failure_in_the_background_is_no_failure_of_a_call(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened_record(database_url, deadline_seconds=1) as record, connected(record) as tools:
        session = SessionId(await tools.new_session())
        caller = await record.caller()
        async with Database(database_url) as database:
            await fill_long(database, session, 1_500)
            await caller.service.delete_session(caller.user_id, session)
            holding = choose_library().connect(str(database.path), isolation_level=None)
            try:
                holding.execute("BEGIN IMMEDIATE")
                while "deletions are not finished yet" not in caplog.text:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                holding.execute("ROLLBACK")
            finally:
                holding.close()
            assert (await count_all_rows(database))["messages"] > 0
            second = await tools.new_session()
            await tools.answer("delete_session", session_id=second)
            while (await count_all_rows(database))["messages"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
