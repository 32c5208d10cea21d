"""Batches: bounded, whole or not at all, and the same whoever else imports the same file at the same time."""

import asyncio
import json
import os
from contextlib import closing
from pathlib import Path

import pytest

from chat_service.import_paths import Importer
from chat_service.imports import MAX_ENTRIES
from chat_service.service import ChatService
from chat_service.transcripts.formats import FORMATS
from models.database import Database
from models.ids import SessionId, UserId
from models.indexing import read_progress
from models.inputs import SessionChanges
from models.sqlite import choose_library
from tests.chat_service.transcripts.support import (
    SHORT,
    WRITERS,
    Said,
    sessions_of,
    take_in,
    told_by,
    write_chatgpt,
    write_claude_code,
    write_codex,
)
from tests.support import new_session, new_user, said, watch_commits, watch_statements

pytestmark = pytest.mark.anyio

SHAPES = ("claude-code", "chatgpt", "anthropic")
"""One of lines, one of a tree, one of a document."""

MANY = [Said("user" if number % 2 else "assistant", f"number {number}") for number in range(1_200)]


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_long_conversation_is_stored_in_transactions_of_bounded_size(
    service: ChatService, user_id: UserId, database: Database, shape: str
) -> None:
    format_name, write = WRITERS[shape]
    commits = await watch_commits(database)
    told = await take_in(service, user_id, format_name, write(MANY))
    # Each batch, and what the writer indexes after it.
    assert 1_200 / MAX_ENTRIES <= len(commits) <= 4 * 2
    [session] = await sessions_of(service, user_id)
    assert (session["last_seq"], told["added"]["messages"]) == (1_200, 1_200)
    commits.clear()
    again = await take_in(service, user_id, format_name, write(MANY))
    assert again["added"] == {}


async def test_another_writer_gets_in_between_two_batches(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    writing = asyncio.create_task(take_in(service, user_id, "codex", write_codex(MANY)))
    appended = 0
    while not writing.done():
        await service.add_message(user_id, session_id, said("meanwhile"))
        appended += 1
    await writing
    assert (await service.get_session(user_id, session_id))["last_seq"] == appended > 1


async def test_how_much_is_stored_before_does_not_change_how_much_a_batch_asks(
    database_url: str,
) -> None:
    counts = []
    async with Database(database_url, readers=1) as database:
        service = ChatService(database)
        statements = await watch_statements(database)
        user_id = await new_user(service)
        turns: list[Said] = []
        for _ in range(3):
            turns += [SHORT[2]] * 50
            statements.clear()
            await take_in(service, user_id, "codex", write_codex(turns))
            counts.append(len(statements))
    assert counts[1] == counts[2]


@pytest.mark.parametrize("shape", SHAPES)
async def test_two_imports_of_one_file_at_once_store_it_once(
    service: ChatService, user_id: UserId, database_url: str, shape: str
) -> None:
    format_name, write = WRITERS[shape]
    turns = [*MANY[:700], *SHORT]
    async with Database(database_url) as second:
        both = [take_in(each, user_id, format_name, write(turns)) for each in (service, ChatService(second))]
        told = await asyncio.gather(*both)
    [session] = await sessions_of(service, user_id)
    assert (await told_by(service, user_id, session["id"]))[-100:] == turns[-100:]
    assert session["last_seq"] == 700 + 9
    assert sum(each["added"].get("messages", 0) for each in told) == session["message_count"]


async def test_an_archived_session_takes_nothing_in_until_it_is_active_again(
    service: ChatService, user_id: UserId
) -> None:
    await take_in(service, user_id, "codex", write_codex(SHORT[:2]))
    [session] = await sessions_of(service, user_id)
    await service.update_session(user_id, SessionId(session["id"]), SessionChanges(status="archived"))
    told = await take_in(service, user_id, "codex", write_codex(SHORT))
    assert {each["reason"] for each in told["skipped"]} == {"the session is archived"}
    await service.update_session(user_id, SessionId(session["id"]), SessionChanges(status="active"))
    await take_in(service, user_id, "codex", write_codex(SHORT))
    assert await told_by(service, user_id, session["id"]) == SHORT


async def test_a_record_that_its_source_has_changed_is_kept_beside_the_first(
    service: ChatService, user_id: UserId
) -> None:
    before, after = write_chatgpt(SHORT), write_chatgpt(SHORT).replace("In May.", "In April.")
    await take_in(service, user_id, "chatgpt", before)
    told = await take_in(service, user_id, "chatgpt", after)
    assert told["added"] == {"changed records": 1, "records kept": 1}
    assert (await take_in(service, user_id, "chatgpt", after))["added"] == {}
    [session] = await sessions_of(service, user_id)
    assert await told_by(service, user_id, session["id"]) == SHORT


async def test_what_is_larger_than_an_entry_may_be_is_counted_and_its_record_kept(
    service: ChatService, user_id: UserId
) -> None:
    large = write_claude_code([Said("user", "x" * 2_000_000), SHORT[1]])
    told = await take_in(service, user_id, "claude-code", large)
    assert told["added"]["messages"] == 2, "more than a client may send in one call is no reason"


async def test_files_of_a_folder_are_imported_when_they_change(
    service: ChatService, user_id: UserId, tmp_path: Path
) -> None:
    importer = Importer(service, user_id, "codex", [tmp_path])
    assert await importer.import_changed() is None
    file = tmp_path / "2026" / "rollout-1.jsonl"
    write(file, write_codex(SHORT[:2]))
    first = await importer.import_changed()
    assert first is not None
    assert first.tally.added["messages"] == 2
    assert await importer.import_changed() is None
    write(file, write_codex(SHORT))
    second = await importer.import_changed()
    assert second is not None
    assert second.tally.stored.total() == 7


async def test_of_the_files_of_a_folder_the_one_that_was_written_last_is_the_newest_session(
    service: ChatService, user_id: UserId, tmp_path: Path
) -> None:
    for name, hours in {"a": 2, "b": 3, "c": 1}.items():
        file = tmp_path / "project" / f"{name}.json"
        write(file, json.dumps([{"role": "user", "content": name}]))
        os.utime(file, (hours * 3_600, hours * 3_600))
    await Importer(service, user_id, "openai", [tmp_path]).import_all()
    page = await service.get_user_sessions(user_id)
    assert [session["title"] for session in page["sessions"]] == ["b", "a", "c"]


async def test_what_was_imported_is_indexed_at_the_end(
    database: Database, service: ChatService, user_id: UserId, tmp_path: Path
) -> None:
    write(tmp_path / "project" / "a.json", json.dumps([{"role": "user", "content": "orchid"}] * 700))
    await Importer(service, user_id, "openai", [tmp_path]).import_all()
    assert (await database.read(read_progress)).is_complete


async def test_an_import_beside_a_lock_leaves_the_index_to_the_next_search(
    database: Database, service: ChatService, user_id: UserId, tmp_path: Path
) -> None:
    write(tmp_path / "project" / "a.json", json.dumps([{"role": "user", "content": "orchid"}]))
    held = choose_library().connect(str(database.path), isolation_level=None)

    def hold(done: int, total: int) -> None:
        if total and done == total and not held.in_transaction:
            held.execute("BEGIN IMMEDIATE")

    with closing(held):
        report = await Importer(service, user_id, "openai", [tmp_path]).import_all(hold)
    assert report.tally.added["messages"] == 1
    assert len((await service.search_history(user_id, "orchid"))["hits"]) == 1


def write(file: Path, text: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")


def test_every_format_is_known_by_a_name_that_can_be_a_source() -> None:
    assert json.loads(json.dumps(sorted(FORMATS))) == sorted({name for name, _ in WRITERS.values()})
