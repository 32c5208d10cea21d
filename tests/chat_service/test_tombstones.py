"""Tombstones: what was deleted here stays out of later imports, until it is brought back on purpose."""

from pathlib import Path

import pytest
from sqlalchemy import select

from chat_service.archive.read import restore_file
from chat_service.archive.write import archive_lines
from chat_service.import_paths import Importer
from chat_service.imports import Report
from chat_service.service import ChatService
from models.database import Database
from models.ids import SessionId, UserId, pack_id
from models.inputs import NewUser
from models.shapes import ImportDict
from models.tables import tombstones
from tests.chat_service.transcripts.support import (
    SHORT,
    WRITERS,
    assert_adds_up,
    history_of,
    sessions_of,
    take_in,
    write_claude_code,
)
from tests.chat_service.transcripts.test_branches import FIRST, QUESTION, SECOND, export, node
from tests.support import count_rows, fill_long, new_session, new_user, said

pytestmark = pytest.mark.anyio


def deleted_here(told: ImportDict) -> int:
    return sum(each["records"] for each in told["skipped"] if each["reason"] == "deleted here")


async def delete_all(service: ChatService, user_id: UserId) -> None:
    for session in await sessions_of(service, user_id):
        await service.delete_session(user_id, SessionId(session["id"]))


@pytest.mark.parametrize("shape", WRITERS)
async def test_a_deleted_conversation_stays_out_and_is_counted(
    service: ChatService, user_id: UserId, shape: str
) -> None:
    format_name, write = WRITERS[shape]
    first = await take_in(service, user_id, format_name, write(SHORT[:5]))
    await delete_all(service, user_id)
    for text in (write(SHORT[:5]), write(SHORT)):
        told = await take_in(service, user_id, format_name, text)
        assert (told["stored"], told["already_there"], told["added"], told["waiting"]) == ({}, {}, {}, {})
        assert deleted_here(told) >= first["records"] - len(first["skipped"])
        assert await sessions_of(service, user_id) == []


async def test_it_comes_back_on_purpose_and_goes_on_from_then(service: ChatService, user_id: UserId) -> None:
    await take_in(service, user_id, "claude-code", write_claude_code(SHORT[:5]))
    await delete_all(service, user_id)
    told = await take_in(service, user_id, "claude-code", write_claude_code(SHORT[:5]), brings_back=True)
    assert (deleted_here(told), told["added"]["sessions"]) == (0, 1)
    told = await take_in(service, user_id, "claude-code", write_claude_code(SHORT))
    assert (deleted_here(told), sum(told["stored"].values())) == (0, 3)
    await delete_all(service, user_id)
    assert deleted_here(await take_in(service, user_id, "claude-code", write_claude_code(SHORT))) > 0


async def test_it_stays_out_while_its_rows_are_still_being_removed(
    service: ChatService, database: Database, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    await fill_long(database, session_id, 2_000)
    await take_in(service, user_id, "claude-code", write_claude_code(SHORT), into=session_id)
    await service.delete_session(user_id, session_id)
    assert await count_rows(database, tombstones) == 0
    assert deleted_here(await take_in(service, user_id, "claude-code", write_claude_code(SHORT))) > 0
    await service.finish_deletions()
    assert deleted_here(await take_in(service, user_id, "claude-code", write_claude_code(SHORT))) > 0
    assert await sessions_of(service, user_id) == []


async def test_what_one_user_deleted_another_may_import(
    service: ChatService, user_id: UserId, stranger_id: UserId
) -> None:
    await take_in(service, user_id, "claude-code", write_claude_code(SHORT))
    await delete_all(service, user_id)
    assert deleted_here(await take_in(service, stranger_id, "claude-code", write_claude_code(SHORT))) == 0


@pytest.mark.parametrize(
    "who", [NewUser(username="bea"), NewUser(username="bea", issuer="https://one", subject="7")], ids=["name", "token"]
)
async def test_what_was_deleted_with_a_user_stays_out_when_they_come_back(service: ChatService, who: NewUser) -> None:
    user_id = UserId((await service.get_or_create_user(who))["id"])
    await take_in(service, user_id, "claude-code", write_claude_code(SHORT))
    await service.delete_user(user_id)
    again = UserId((await service.get_or_create_user(who.model_copy(update={"email": "b@example.org"})))["id"])
    assert deleted_here(await take_in(service, again, "claude-code", write_claude_code(SHORT))) > 0
    assert await sessions_of(service, again) == []


async def test_a_deleted_main_line_stays_out_and_its_branch_goes_on(service: ChatService, user_id: UserId) -> None:
    tree = [QUESTION, FIRST, SECOND]
    await take_in(service, user_id, "chatgpt", export(tree, "a2"))
    main, branch = await sessions_of(service, user_id)
    await service.delete_session(user_id, SessionId(main["id"]))
    more = [*tree, node("of-branch", "a1", "user", "Thanks."), node("of-main", "a2", "user", "Why?")]
    told = await take_in(service, user_id, "chatgpt", export(more, "of-main"))
    assert (deleted_here(told), sum(told["stored"].values())) == (4, 1), "among them the record about it all"
    assert [session["id"] for session in await sessions_of(service, user_id)] == [branch["id"]]
    # The branch was a fork of the main line: it has its own copy of what it had of it.
    said_there = [entry["content"] for entry in await history_of(service, user_id, branch["id"])]
    assert said_there == ["When?", "In May.", "Thanks."]


async def test_a_deleted_branch_stays_out_however_long_it_grows(service: ChatService, user_id: UserId) -> None:
    tree = [QUESTION, FIRST, SECOND]
    await take_in(service, user_id, "chatgpt", export(tree, "a2"))
    main, branch = await sessions_of(service, user_id)
    await service.delete_session(user_id, SessionId(branch["id"]))
    # More than what is stored at once.
    grown = [node(f"n{number}", f"n{number - 1}" if number else "a1", "user", "So?") for number in range(1_200)]
    told = await take_in(service, user_id, "chatgpt", export([*tree, *grown], "a2"))
    assert (deleted_here(told), told["stored"]) == (1_201, {})
    assert [session["id"] for session in await sessions_of(service, user_id)] == [main["id"]]


async def test_a_watched_folder_does_not_bring_it_back(service: ChatService, user_id: UserId, tmp_path: Path) -> None:
    file = tmp_path / "watched" / "one.jsonl"
    file.parent.mkdir()
    file.write_text(write_claude_code(SHORT[:4]))
    importer = Importer(service, user_id, "claude-code", [file.parent])
    assert await importer.import_changed() is not None
    await delete_all(service, user_id)
    file.write_text(write_claude_code(SHORT))
    report = await importer.import_changed()
    assert report is not None
    assert deleted_here(report.to_dict()) > 0
    assert await sessions_of(service, user_id) == []


# Archives


async def archive(service: ChatService, user_id: UserId, path: Path) -> str:
    """Archive all of a user's sessions in a file, and return what stands in it."""
    ids = [SessionId(session["id"]) for session in await sessions_of(service, user_id)]
    write_text(path, "".join([f"{line}\n" async for line in archive_lines(service, user_id, ids)]))
    return read_text(path)


def write_text(path: Path, text: str) -> None:
    path.write_text(text, newline="\n")


def read_text(path: Path) -> str:
    return path.read_text()


async def restored(service: ChatService, user_id: UserId, path: Path, *, brings_back: bool = False) -> ImportDict:
    report = Report()
    await restore_file(service, user_id, path, report, brings_back=brings_back)
    told = report.to_dict()
    assert_adds_up(told)
    return told


async def test_an_archive_does_not_restore_what_was_deleted_here_unless_asked_to(
    service: ChatService, user_id: UserId, stranger_id: UserId, tmp_path: Path
) -> None:
    path = tmp_path / "archive"
    gone, kept = await new_session(service, user_id, title="Gone"), await new_session(service, user_id, title="Kept")
    for session_id in (gone, kept):
        await service.add_messages(user_id, session_id, [said("one"), said("two")])
    before = await archive(service, user_id, path)
    await service.delete_session(user_id, gone)
    for who in (user_id, stranger_id):
        told = await restored(service, who, path)
        assert deleted_here(told) == 4
        assert [problem["problem"] for problem in told["problems"]] == [
            *["a session of the archive cannot be restored under its id."] * (who == stranger_id)
        ]
    assert [session["id"] for session in await sessions_of(service, user_id)] == [kept]
    told = await restored(service, user_id, path, brings_back=True)
    assert (deleted_here(told), told["stored"]["session"], told["already_there"]["session"]) == (0, 1, 1)
    assert deleted_here(await restored(service, user_id, path)) == 0
    assert [each["id"] for each in await sessions_of(service, user_id)] == [kept, gone]
    after = await archive(service, user_id, path)
    assert sorted(after.splitlines()) == sorted(before.splitlines())


async def test_a_fork_keeps_what_it_has_when_its_deleted_parent_is_imported(
    service: ChatService, user_id: UserId, tmp_path: Path
) -> None:
    path = tmp_path / "archive"
    parent = await new_session(service, user_id)
    await service.add_messages(user_id, parent, [said("one"), said("two")])
    fork = SessionId((await service.fork_session(user_id, parent, 1))["id"])
    await service.add_message(user_id, fork, said("own"))
    await archive(service, user_id, path)
    await service.delete_session(user_id, parent)
    told = await restored(service, user_id, path)
    assert (deleted_here(told), told["problems"], told["already_there"]) == (4, [], {"message": 1, "session": 1})
    assert [entry["content"] for entry in await history_of(service, user_id, fork)] == ["one", "own"]
    await service.delete_session(user_id, fork)
    other = await new_user(service, "other")
    told = await restored(service, other, path)
    assert (deleted_here(told), told["stored"], told["problems"]) == (7, {}, []), "nor under what it was forked from"


async def test_a_tombstone_tells_nobody_what_it_stands_for(
    service: ChatService, database: Database, user_id: UserId
) -> None:
    await take_in(service, user_id, "claude-code", write_claude_code(SHORT))
    [session] = await sessions_of(service, user_id)
    await service.delete_session(user_id, SessionId(session["id"]))
    digests = await database.read(lambda connection: list(connection.execute(select(tombstones.c.digest)).scalars()))
    assert [len(digest) for digest in digests] == [16, 16]
    assert pack_id(session["id"]) not in digests
    elsewhere = database.path.with_name("elsewhere.db")
    async with Database(f"sqlite+aiosqlite:///{elsewhere}") as other:
        theirs = ChatService(other)
        their_id = await new_user(theirs, "ada")
        await take_in(theirs, their_id, "claude-code", write_claude_code(SHORT))
        await delete_all(theirs, their_id)
        found = await other.read(lambda connection: list(connection.execute(select(tombstones.c.digest)).scalars()))
        assert not {*found} & {*digests}, "the same conversation of the same user has another one elsewhere"
