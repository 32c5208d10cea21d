"""Lines that cannot be read at all are kept as they stand, and told of."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from chat_service import source_records
from chat_service.archive.write import archive_lines
from chat_service.import_paths import Importer
from chat_service.service import ChatService
from chat_service.transcripts.neutral import Conversation, Record, Source
from chat_service.transcripts.strays import Strays
from models.database import Database
from models.ids import SessionId, UserId
from models.inputs import NewMessage
from models.tables import source_records as raw_records
from tests.chat_service.test_archive import restored
from tests.chat_service.transcripts.support import (
    SHORT,
    WRITERS,
    anthropic_messages,
    sessions_of,
    take_in,
    told_by,
    write_chat,
)
from tests.conftest import url_of
from tests.support import new_user

pytestmark = pytest.mark.anyio

BROKEN = b'{"type": "user", "message": {"content": "half'
OTHER = "{\u201ctype\u201d: \u00fcber}".encode("utf-16-le").replace(b"\n", b"")
KINDS = {"unreadable line": BROKEN, "line that is no UTF-8": OTHER}


def kept(connection: Connection) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for kind, data in connection.execute(select(raw_records.c.kind, raw_records.c.data)):
        found.setdefault(kind, []).append(source_records.unpack(data))
    return found


def with_broken_lines(shape: str) -> bytes:
    first, *rest = WRITERS[shape][1](SHORT).encode().splitlines(keepends=True)
    return b"".join([BROKEN + b"\n", first, OTHER + b"\n", *rest, BROKEN + b"\n", b'{"torn": "'])


@pytest.mark.parametrize("shape", ["claude-code", "codex"])
async def test_a_line_that_cannot_be_read_is_kept_as_it_stands(
    service: ChatService, user_id: UserId, database: Database, tmp_path: Path, shape: str
) -> None:
    told = await take_in(service, user_id, shape, with_broken_lines(shape))
    unread = {each["type"]: each["records"] for each in told["skipped"] if each["reason"] == "could not be read"}
    assert unread == {"unreadable line": 2, "line that is no UTF-8": 1}
    assert told["waiting"] == {"torn last line": 1}
    assert len(told["problems"]) == 1
    again = await take_in(service, user_id, shape, with_broken_lines(shape))
    assert (again["added"], again["skipped"], len(again["problems"])) == ({}, [], 1)
    raw = await database.read(kept)
    assert [line.encode() for line in raw["unreadable line"]] == [BROKEN, BROKEN]
    assert [line.encode("latin-1") for line in raw["line that is no UTF-8"]] == [OTHER.strip()]
    [session] = await sessions_of(service, user_id)
    assert await told_by(service, user_id, session["id"]) == SHORT
    text = "".join([f"{line}\n" async for line in archive_lines(service, user_id, [SessionId(session["id"])])])
    async with Database(url_of(tmp_path / "other.db")) as other:
        elsewhere = ChatService(other)
        somebody = await new_user(elsewhere, "grace")
        assert (await restored(elsewhere, somebody, tmp_path / "archive.jsonl", text))["problems"] == []
        assert await other.read(kept) == raw


def lines_of_documents() -> bytes:
    return b"".join(
        json.dumps({"id": name, "messages": [{"role": "user", "content": name}]}).encode() + b"\n" for name in "ab"
    )


def lines_of_messages() -> bytes:
    messages = json.loads(write_chat(SHORT))["messages"]
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


def broken_into(lines: bytes) -> bytes:
    """Put lines that cannot be read before, between and after the lines of a file."""
    first, *rest = lines.splitlines(keepends=True)
    return b"".join([BROKEN + b"\n", first, OTHER + b"\n", *rest, BROKEN + b"\n"])


def export_of(shape: str) -> list[Any]:
    found: list[Any] = json.loads(WRITERS[shape][1](SHORT))
    return found


def broken_chatgpt() -> bytes:
    [conversation] = export_of("chatgpt")
    conversation["mapping"] |= {"odd": "no node"}
    return around(conversation)


def broken_claude_ai() -> bytes:
    [conversation] = export_of("claude-ai")
    conversation["chat_messages"].insert(2, "no message")
    return around(conversation)


def around(conversation: Any) -> bytes:
    """Write an export in which other things stand around a conversation."""
    whole = json.dumps(conversation).encode()
    return b"[5, " + whole + b', {"half":}, 5, "\xff" 7, 5, {"title": "no messages"}]'


UNREAD: dict[str, tuple[str, Callable[[], bytes], dict[str, list[bytes]]]] = {
    "documents, one a line": (
        "openai",
        lambda: broken_into(lines_of_documents()),
        {"unreadable line": [BROKEN, BROKEN], "line that is no UTF-8": [OTHER.strip()]},
    ),
    "messages, one a line": (
        "openai",
        lambda: broken_into(lines_of_messages()),
        {"unreadable line": [BROKEN, BROKEN], "line that is no UTF-8": [OTHER.strip()]},
    ),
    "messages in an array": (
        "anthropic",
        lambda: json.dumps([5, *anthropic_messages(SHORT), "no message", 5]).encode(),
        {"message that is no object": [b"5", b'"no message"', b"5"]},
    ),
    "messages in a document": (
        "anthropic",
        lambda: json.dumps({"messages": [None, *anthropic_messages(SHORT)]}).encode(),
        {"message that is no object": [b"null"]},
    ),
    "chatgpt": (
        "chatgpt",
        broken_chatgpt,
        {
            "unreadable conversation": [b"5", b'{"half":}', b"5", b"5"],
            "conversation that is no UTF-8": [b'"\xff" 7'],
            "conversation without messages": [b'{"title": "no messages"}'],
            "node that is no object": [b'{"odd":"no node"}'],
        },
    ),
    "claude-ai": (
        "claude-ai",
        broken_claude_ai,
        {
            "unreadable conversation": [b"5", b'{"half":}', b"5", b"5"],
            "conversation that is no UTF-8": [b'"\xff" 7'],
            "conversation without messages": [b'{"title": "no messages"}'],
            "message that is no object": [b'"no message"'],
        },
    ),
}


@pytest.mark.parametrize("shape", UNREAD)
async def test_what_cannot_be_read_of_any_format_is_kept_once_and_told_of_in_the_same_way(
    service: ChatService, user_id: UserId, database: Database, shape: str
) -> None:
    format_name, write, expected = UNREAD[shape]
    told = await take_in(service, user_id, format_name, write())
    unread = {each["type"]: each["records"] for each in told["skipped"] if each["reason"] == "could not be read"}
    assert unread == {kind: len(raw) for kind, raw in expected.items()}
    counts = ", ".join(f"{kind}: {count}" for kind, count in sorted(unread.items()))
    assert [each["problem"] for each in told["problems"]] == [f"could not be read in full ({counts})"]
    raw = await database.read(kept)
    encodings = {kind: "latin-1" if "UTF-8" in kind else "utf-8" for kind in expected}
    assert {kind: sorted(line.encode(encodings[kind]) for line in raw[kind]) for kind in expected} == {
        kind: sorted(lines) for kind, lines in expected.items()
    }
    again = await take_in(service, user_id, format_name, write())
    assert (again["added"], again["skipped"], again["problems"]) == ({}, [], told["problems"])
    assert await database.read(kept) == raw


@pytest.mark.parametrize("shape", ["chatgpt", "claude-ai", "openai chat"])
async def test_a_conversation_grows_on_where_something_beside_it_cannot_be_read(
    service: ChatService, user_id: UserId, shape: str
) -> None:
    format_name, write = WRITERS[shape]
    for turns in (SHORT[:2], SHORT):
        text = write(turns)
        broken = text[:-1] + ', "no conversation"]' if text.startswith("[") else f"{text}\n{{half\n"
        await take_in(service, user_id, format_name, broken)
    [session] = await sessions_of(service, user_id)
    assert await told_by(service, user_id, session["id"]) == SHORT


async def test_a_document_that_is_broken_off_is_no_file_of_lines(service: ChatService, user_id: UserId) -> None:
    text = json.dumps(anthropic_messages(SHORT), indent=1)[:-3]
    told = await take_in(service, user_id, "anthropic", text)
    assert (told["added"], told["skipped"]) == (
        {},
        [{"type": "file that is not JSON", "reason": "could not be read", "records": 1}],
    )


async def test_what_stands_before_the_first_conversation_waits_for_one_and_so_much_of_it_at_most() -> None:
    source = Source(io.StringIO(), "file")
    strays = Strays(source)
    for _ in range(1_500):
        assert list(strays.take("odd", "x")) == []
    conversation = Conversation("c")
    said = NewMessage(role="user", content="hello", author="import")
    silent = Record(Conversation("silent"), "node", "n0", "{}", reason="says nothing")
    assert list(strays.pass_on([silent])) == [silent]
    records = list(strays.pass_on([Record(conversation, "node", "n1", "{}", entries=[said])]))
    assert len({each.native_id for each in records if isinstance(each, Record)}) == len(records) == 1_001
    assert all(each.conversation is conversation for each in records)
    strays.end()
    assert (source.unparsed, source.unreadable) == ({"odd": 1_000}, {"odd": 500})


async def test_a_file_of_nothing_but_broken_lines_is_told_of(
    service: ChatService, user_id: UserId, tmp_path: Path
) -> None:
    (tmp_path / "bad.jsonl").write_bytes(BROKEN + b"\n" + OTHER + b"\n")
    report = (await Importer(service, user_id, "claude-code", [tmp_path]).import_all()).to_dict()
    assert {each["type"]: each["reason"] for each in report["skipped"]} == dict.fromkeys(KINDS, "could not be read")
    assert (report["records"], len(report["problems"]), report["added"]) == (2, 1, {})


@pytest.mark.parametrize("shape", ["chatgpt", "openai"])
async def test_an_export_of_nothing_that_can_be_read_is_told_of(
    service: ChatService, user_id: UserId, shape: str
) -> None:
    text = b"[5, {]" if shape == "chatgpt" else b'{"messages": []}\n{half\n'
    told = await take_in(service, user_id, shape, text)
    assert (told["added"], len(told["problems"])) == ({}, 1)
    assert {each["reason"] for each in told["skipped"]} >= {"could not be read"}


async def test_a_byte_that_is_no_utf8_costs_a_line_one_character(service: ChatService, user_id: UserId) -> None:
    text = WRITERS["claude-code"][1](SHORT[1:2]).encode().replace(b"In May", b"In M\xffy")
    await take_in(service, user_id, "claude-code", text)
    [session] = await sessions_of(service, user_id)
    assert [turn.text for turn in await told_by(service, user_id, session["id"])] == ["In M\ufffdy."]
