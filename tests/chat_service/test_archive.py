"""The archive: what is exported, imported into an empty database and exported again is the same, byte for byte."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_service.archive.read import restore_file
from chat_service.archive.write import archive_lines
from chat_service.imports import Report
from chat_service.service import ChatService
from models.database import Database
from models.errors import NotFound
from models.ids import SessionId, UserId, new_id
from models.inputs import NewMessage, NewToolUsage, SessionChanges, Usage
from models.shapes import ImportDict
from models.tables import blobs, chat_sessions, messages, metadata, source_records, tool_usages
from tests.chat_service.transcripts.support import CONVERSATIONS, SHORT, WRITERS, Said, sessions_of, take_in
from tests.conftest import url_of
from tests.support import (
    JSON_OBJECTS,
    JSON_VALUES,
    PROPERTY,
    TEXTS,
    asking,
    count_rows,
    done,
    new_session,
    new_user,
    said,
    serving,
)

pytestmark = pytest.mark.anyio

FEWER = settings(PROPERTY, max_examples=20)
IMAGE = Said("image", "iVBORw0=")


async def exported(service: ChatService, user_id: UserId) -> str:
    """Return the archive of all sessions of a user."""
    ids = [SessionId(session["id"]) for session in await sessions_of(service, user_id)]
    return "".join([f"{line}\n" async for line in archive_lines(service, user_id, ids)])


async def restored(service: ChatService, user_id: UserId, path: Path, text: str) -> ImportDict:
    write_text(path, text)
    report = Report()
    await restore_file(service, user_id, path, report)
    return report.to_dict()


def write_text(path: Path, text: str) -> None:
    path.write_text(text, newline="\n")


async def fill(service: ChatService, user_id: UserId) -> None:
    """Make a record of everything that there can be."""
    session_id = await new_session(
        service, user_id, title="Beans 🫘", session_data={"a": [1, None, 1.5]}, client="tests"
    )
    usage = Usage(input_tokens=3, output_tokens=4, cache_read_tokens=5, cache_write_tokens=6, reasoning_tokens=7)
    first = said(
        "one", message_metadata={"k": {"n": 10**30}}, model="m", usage=usage, token_count=2, idempotency_key="a"
    )
    await service.add_messages(user_id, session_id, [first])
    await service.add_messages(user_id, session_id, [asking("t-1"), said("two", kind="replacement", replaces_seq=1)])
    known = done(tool_call_id="t-1", started_at="2026-01-31T12:00:00.5+02:00", duration_ms=3, error="no", result=[None])
    await service.add_tool_usage(user_id, session_id, known)
    await service.add_tool_usage(user_id, session_id, done(result=None, server_name="files", idempotency_key="b"))
    await service.update_session(user_id, session_id, SessionChanges(status="archived"))
    await new_session(service, user_id, idempotency_key="c")
    for shape in ("claude-code", "chatgpt"):
        format_name, write = WRITERS[shape]
        await take_in(service, user_id, format_name, write([*SHORT, IMAGE, IMAGE]))
    parent = (await sessions_of(service, user_id))[0]["id"]

    branch_id = SessionId((await service.fork_session(user_id, SessionId(parent), 2, "A branch"))["id"])
    await service.add_message(user_id, branch_id, said("elsewhere"))
    traced = done(call_metadata={"client": "cursor"}, idempotency_key="d")
    await service.add_tool_usage(user_id, branch_id, traced)
    fork_id = SessionId((await service.fork_session(user_id, branch_id, 1))["id"])
    await service.add_message(user_id, fork_id, said("a fork's own", replaces_seq=1, kind="replacement"))
    await service.fork_session(user_id, fork_id)
    source_id, target_id = await new_session(service, user_id), await new_session(service, user_id)
    await service.add_message(user_id, source_id, said("moved"))
    await service.merge_sessions(user_id, source_id, target_id)


async def test_an_archive_of_a_fork_alone_has_what_it_was_forked_from(
    service: ChatService, user_id: UserId, tmp_path: Path
) -> None:
    parent_id = await new_session(service, user_id)
    await service.add_messages(user_id, parent_id, [said("one"), said("two")])
    fork_id = SessionId((await service.fork_session(user_id, parent_id, 1))["id"])
    await service.add_message(user_id, fork_id, said("three"))
    text = "".join([f"{line}\n" async for line in archive_lines(service, user_id, [fork_id])])
    async with Database(url_of(tmp_path / "other.db")) as other:
        elsewhere = ChatService(other)
        somebody = await new_user(elsewhere, "grace")
        assert (await restored(elsewhere, somebody, tmp_path / "archive.jsonl", text))["problems"] == []
        entries = (await elsewhere.get_session_history(somebody, fork_id))["entries"]
        assert [entry["content"] for entry in entries if "message_type" in entry] == ["one", "three"]


async def test_an_archive_comes_back_byte_for_byte(
    service: ChatService, user_id: UserId, database: Database, tmp_path: Path
) -> None:
    await fill(service, user_id)
    text = await exported(service, user_id)
    async with Database(url_of(tmp_path / "other.db")) as other:
        elsewhere = ChatService(other)
        somebody = await new_user(elsewhere, "grace")
        told = await restored(elsewhere, somebody, tmp_path / "archive.jsonl", text)
        assert told["problems"] == []
        assert await exported(elsewhere, somebody) == text
        for table in metadata.sorted_tables:
            assert await count_rows(other, table) == await count_rows(database, table), table.name
        again = await restored(elsewhere, somebody, tmp_path / "archive.jsonl", text)
        assert (again["stored"], again["problems"]) == ({}, [])
        assert again["already_there"] == told["stored"]
        assert await exported(elsewhere, somebody) == text
        for one, other_one in zip(
            await sessions_of(service, user_id), await sessions_of(elsewhere, somebody), strict=True
        ):
            assert one | {"user_id": ""} == other_one | {"user_id": ""}


def test_whatever_was_appended_comes_back_byte_for_byte(tmp_path: Path) -> None:
    entries = st.one_of(
        st.builds(
            NewMessage,
            role=st.sampled_from(["user", "assistant", "system", "tool"]),
            content=TEXTS.filter(bool),
            message_metadata=st.none() | JSON_OBJECTS,
        ),
        st.builds(
            NewToolUsage, tool_name=st.just("read"), arguments=JSON_OBJECTS, result=JSON_VALUES, error=st.none() | TEXTS
        ),
    )
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with serving(tmp_path / "one") as here, serving(tmp_path / "two") as there:
        counter = iter(range(10**6))

        @FEWER
        @given(st.lists(entries, max_size=5))
        def check(some: list[NewMessage | NewToolUsage]) -> None:
            async def append() -> str:
                user_id = await new_user(here.service, f"user {next(counter)}")
                session_id = await new_session(here.service, user_id)
                for entry in some:
                    if isinstance(entry, NewMessage):
                        await here.service.add_message(user_id, session_id, entry)
                    else:
                        await here.service.add_tool_usage(user_id, session_id, entry)
                return await exported(here.service, user_id)

            async def restore(text: str) -> str:
                user_id = await new_user(there.service, f"user {next(counter)}")
                told = await restored(there.service, user_id, tmp_path / "archive.jsonl", text)
                assert told["problems"] == []
                return await exported(there.service, user_id)

            text = here.runner.run(append())
            assert there.runner.run(restore(text)) == text

        check()


async def test_an_archive_of_a_session_that_went_on_adds_what_is_new(
    service: ChatService, user_id: UserId, tmp_path: Path
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_messages(user_id, session_id, [said("one")])
    before = await exported(service, user_id)
    await service.add_messages(user_id, session_id, [said("two")])
    after = await exported(service, user_id)
    async with Database(url_of(tmp_path / "other.db")) as other:
        elsewhere = ChatService(other)
        somebody = await new_user(elsewhere, "grace")
        for text, stored in ((before, 1), (after, 1), (before, 0)):
            told = await restored(elsewhere, somebody, tmp_path / "archive.jsonl", text)
            assert told["stored"].get("message", 0) == stored
            assert told["problems"] == []
        assert (await sessions_of(elsewhere, somebody))[0]["last_seq"] == 2


async def test_a_session_that_says_something_else_is_left_as_it_is(
    service: ChatService, user_id: UserId, tmp_path: Path
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_messages(user_id, session_id, [said("one"), said("two")])
    text = await exported(service, user_id)
    more = text.replace('"content":"two"', '"content":"changed"')
    told = await restored(service, user_id, tmp_path / "archive.jsonl", more)
    [problem] = told["problems"]
    assert "entry 2 of the session is another one by now" in problem["problem"]
    assert "changed" not in json.dumps(told)
    assert await exported(service, user_id) == text


async def test_a_fork_comes_back_only_where_what_it_goes_on_from_is_as_it_was(
    service: ChatService, user_id: UserId, tmp_path: Path
) -> None:
    parent_id = await new_session(service, user_id)
    await service.add_messages(user_id, parent_id, [said("one"), said("two")])
    whole = await exported(service, user_id)
    await service.add_message(user_id, parent_id, said("three"))
    forks = {seq: (await service.fork_session(user_id, parent_id, seq, f"after {seq}"))["id"] for seq in (2, 3)}
    for fork_id in forks.values():
        await service.add_message(user_id, SessionId(fork_id), said("a fork's own"))
    text = await exported(service, user_id)
    async with Database(url_of(tmp_path / "other.db")) as other:
        elsewhere = ChatService(other)
        somebody = await new_user(elsewhere, "grace")
        await restored(elsewhere, somebody, tmp_path / "archive.jsonl", whole)
        await elsewhere.add_messages(somebody, parent_id, [said("something else"), said("and more")])
        told = await restored(elsewhere, somebody, tmp_path / "archive.jsonl", text)
        assert [each["problem"] for each in told["problems"]] == [
            "entry 3 of the session is another one by now: it was left as it is.",
            "a fork goes on from entry 3 of a session that is not here as the archive has it.",
        ]
        titles = {session["title"] for session in await sessions_of(elsewhere, somebody)}
        assert titles == {None, "after 2"}
        assert await elsewhere.get_session_history(somebody, SessionId(forks[2]))


async def test_no_fork_comes_back_past_the_end_of_what_it_goes_on_from(
    service: ChatService, user_id: UserId, tmp_path: Path
) -> None:
    parent_id = await new_session(service, user_id)
    await service.add_messages(user_id, parent_id, [said("one"), said("two")])
    await service.fork_session(user_id, parent_id, 2)
    text = (await exported(service, user_id)).replace('"seq":2}', '"seq":3}')
    async with Database(url_of(tmp_path / "other.db")) as other:
        elsewhere = ChatService(other)
        somebody = await new_user(elsewhere, "grace")
        told = await restored(elsewhere, somebody, tmp_path / "archive.jsonl", text)
        assert "a fork goes on from entry 3" in told["problems"][0]["problem"]
        assert [session["last_seq"] for session in await sessions_of(elsewhere, somebody)] == [2]


async def test_entries_of_several_sessions_between_each_other_are_each_restored(
    service: ChatService, user_id: UserId, tmp_path: Path
) -> None:
    for _ in range(2):
        await service.add_message(user_id, await new_session(service, user_id), said("one"))
    header, *lines = (await exported(service, user_id)).splitlines(keepends=True)
    first, (opening, entry, ending) = lines[:3], lines[3:]
    mixed = [header, *first, opening, entry, first[1].replace('"seq":1', '"seq":2'), ending]
    async with Database(url_of(tmp_path / "other.db")) as other:
        elsewhere = ChatService(other)
        somebody = await new_user(elsewhere, "grace")
        told = await restored(elsewhere, somebody, tmp_path / "archive.jsonl", "".join(mixed))
        assert told["problems"] == []
        assert sorted(session["last_seq"] for session in await sessions_of(elsewhere, somebody)) == [1, 2]


async def test_a_session_comes_back_without_a_key_that_another_has_here(
    service: ChatService, user_id: UserId, tmp_path: Path
) -> None:
    session_id = await new_session(service, user_id, idempotency_key="mine")
    await service.add_message(user_id, session_id, said("one"))
    text = await exported(service, user_id)
    async with Database(url_of(tmp_path / "other.db")) as other:
        elsewhere = ChatService(other)
        somebody = await new_user(elsewhere, "grace")
        other_id = await new_session(elsewhere, somebody, idempotency_key="mine")
        assert (await restored(elsewhere, somebody, tmp_path / "archive.jsonl", text))["problems"] == []
        assert (await elsewhere.get_session(somebody, session_id))["last_seq"] == 1
        assert await new_session(elsewhere, somebody, idempotency_key="mine") == other_id


async def test_an_archive_in_which_two_entries_have_one_key_is_refused(
    service: ChatService, user_id: UserId, tmp_path: Path
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_messages(user_id, session_id, [said("one", idempotency_key="key-1")])
    await service.add_messages(user_id, session_id, [said("two", idempotency_key="key-2")])
    text = (await exported(service, user_id)).replace("key-2", "key-1")
    async with Database(url_of(tmp_path / "other.db")) as other:
        elsewhere = ChatService(other)
        somebody = await new_user(elsewhere, "grace")
        told = await restored(elsewhere, somebody, tmp_path / "archive.jsonl", text)
        assert "something twice that there can be only once" in told["problems"][0]["problem"]
        assert await sessions_of(elsewhere, somebody) == []


async def test_a_torn_archive_restores_what_is_whole_and_goes_on_later(
    service: ChatService, user_id: UserId, tmp_path: Path
) -> None:
    await fill(service, user_id)
    text = await exported(service, user_id)
    async with Database(url_of(tmp_path / "other.db")) as other:
        elsewhere = ChatService(other)
        somebody = await new_user(elsewhere, "grace")
        for end in (*range(0, len(text), len(text) // 40), len(text)):
            told = await restored(elsewhere, somebody, tmp_path / "archive.jsonl", text[:end])
            assert told["problems"] == []
        assert await exported(elsewhere, somebody) == text


async def test_the_session_of_somebody_else_is_neither_restored_nor_shown(
    service: ChatService, user_id: UserId, stranger_id: UserId, tmp_path: Path
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_message(user_id, session_id, said("mine"))
    text = await exported(service, user_id)
    told = await restored(service, stranger_id, tmp_path / "archive.jsonl", text)
    assert [each["problem"] for each in told["problems"]] == [
        "a session of the archive cannot be restored under its id."
    ]
    assert await sessions_of(service, stranger_id) == []
    with pytest.raises(NotFound):
        assert [line async for line in archive_lines(service, stranger_id, [session_id])] == []


def changed(**fields: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda line: {name: value for name, value in (line | fields).items() if value is not ...}


@pytest.mark.parametrize(
    ("kind", "change", "sentence"),
    [
        ("archive", changed(version=2), "is no archive of version 1"),
        ("archive", changed(type="session"), "is no archive of version 1"),
        ("session", changed(id="x"), "id: Value error, is not a session's id"),
        ("session", changed(status="gone"), "status: Input should be"),
        ("session", changed(created_at="yesterday"), "created_at: Value error, is not a time"),
        ("message", changed(seq="1"), "seq: Input should be a valid integer"),
        ("message", changed(seq=3), "entry 1 is missing"),
        ("message", changed(kind="replacement", replaces_seq=1), "replaces_seq is not the seq of an earlier message"),
        ("session", changed(forked_from={"session_id": new_id(), "seq": 0}), "a fork before what it was forked from"),
        ("message", changed(role="human"), "role: Input should be"),
        ("message", changed(content="a\0b"), "content: Value error, holds a NUL"),
        ("message", changed(secret_field=1), "type: Extra inputs"),
        ("message", changed(parts=[{"type": "blob_reference", "sha256": "0a" * 32, "size": 1}]), "refers to a blob"),
        ("message", changed(session_id="01a1fcb5-e09e-7cbf-a114-e031c2f80169"), "stands in the archive before"),
        ("tool_usage", changed(started_at=1.5), "started_at: Input should be a valid string"),
        ("tool_usage", changed(arguments=[]), "arguments: Input should be a valid dictionary"),
        ("tool_usage", changed(result="\ud800"), "result: Value error"),
        ("session_end", changed(entries=9), "ends before its last entry"),
    ],
)
async def test_a_line_that_is_wrong_is_refused_and_nothing_of_its_batch_is_stored(
    service: ChatService, user_id: UserId, tmp_path: Path, kind: str, change: Callable[..., Any], sentence: str
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_message(user_id, session_id, said("one"))
    await service.add_tool_usage(user_id, session_id, done())
    lines = [json.loads(line) for line in (await exported(service, user_id)).splitlines()]
    text = "".join(json.dumps(change(line) if line["type"] == kind else line) + "\n" for line in lines)
    async with Database(url_of(tmp_path / "other.db")) as other:
        elsewhere = ChatService(other)
        somebody = await new_user(elsewhere, "grace")
        told = await restored(elsewhere, somebody, tmp_path / "archive.jsonl", text)
        assert sentence in told["problems"][0]["problem"]
        assert "secret_field" not in json.dumps(told)
        for table in (chat_sessions, messages, tool_usages, source_records, blobs):
            assert await count_rows(other, table) == 0


async def test_a_blob_that_is_not_what_it_says_is_refused(
    service: ChatService, user_id: UserId, tmp_path: Path
) -> None:
    await take_in(service, user_id, "anthropic", WRITERS["anthropic"][1]([IMAGE]))
    text = (await exported(service, user_id)).replace('"content":"iVBORw0="', '"content":"aGFja2Vk"')
    async with Database(url_of(tmp_path / "other.db")) as other:
        elsewhere = ChatService(other)
        somebody = await new_user(elsewhere, "grace")
        told = await restored(elsewhere, somebody, tmp_path / "archive.jsonl", text)
        assert told["problems"][0]["problem"] == "a blob of the archive is not what its sha256 says."
        assert await count_rows(other, blobs) == 0


async def test_who_knows_only_the_digest_of_a_blob_is_not_given_it(
    service: ChatService, user_id: UserId, stranger_id: UserId, tmp_path: Path
) -> None:
    await take_in(service, user_id, "anthropic", WRITERS["anthropic"][1]([IMAGE]))
    (session,) = await sessions_of(service, user_id)
    lines = (await exported(service, user_id)).replace(session["id"], new_id()).splitlines(keepends=True)
    text = "".join(line for line in lines if '"type":"blob"' not in line)
    assert len(text.splitlines()) < len(lines)
    told = await restored(service, stranger_id, tmp_path / "archive.jsonl", text)
    assert "refers to a blob that does not stand before it" in told["problems"][0]["problem"]


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\xff\xfe", b"[]\n", b"{}\n", b'{"type":"archive"}\n'])
async def test_what_is_no_archive_restores_nothing(
    service: ChatService, user_id: UserId, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "archive.jsonl").write_bytes(content)
    report = Report()
    await restore_file(service, user_id, tmp_path / "archive.jsonl", report)
    assert report.to_dict()["stored"] == {}
    assert await sessions_of(service, user_id) == []


async def test_a_file_that_is_not_there_is_a_problem(service: ChatService, user_id: UserId, tmp_path: Path) -> None:
    report = Report()
    await restore_file(service, user_id, tmp_path / "none.jsonl", report)
    assert report.problems == [(str(tmp_path / "none.jsonl"), "could not be read (No such file or directory)")]


def test_imported_conversations_come_back_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with serving(tmp_path / "one") as here, serving(tmp_path / "two") as there:
        counter = iter(range(10**6))

        @FEWER
        @given(st.sampled_from(sorted(WRITERS)), CONVERSATIONS)
        def check(shape: str, turns: list[Said]) -> None:
            format_name, write = WRITERS[shape]
            name = f"user {next(counter)}"

            async def export_imported() -> str:
                user_id = await new_user(here.service, name)
                await take_in(here.service, user_id, format_name, write(turns))
                return await exported(here.service, user_id)

            async def export_restored(text: str) -> str:
                user_id = await new_user(there.service, name)
                await restored(there.service, user_id, tmp_path / "archive.jsonl", text)
                told = await take_in(there.service, user_id, format_name, write(turns))
                assert told["added"] == {}, "a restored session knows what it was imported from"
                return await exported(there.service, user_id)

            text = here.runner.run(export_imported())
            assert there.runner.run(export_restored(text)) == text

        check()
