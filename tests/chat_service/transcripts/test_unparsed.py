"""Lines that cannot be read at all are kept as they stand, and told of."""

from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from chat_service import source_records
from chat_service.archive.write import archive_lines
from chat_service.import_paths import Importer
from chat_service.service import ChatService
from models.database import Database
from models.ids import SessionId, UserId
from models.tables import source_records as raw_records
from tests.chat_service.test_archive import restored
from tests.chat_service.transcripts.support import SHORT, WRITERS, sessions_of, take_in, told_by
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


async def test_a_file_of_nothing_but_broken_lines_is_told_of(
    service: ChatService, user_id: UserId, tmp_path: Path
) -> None:
    (tmp_path / "bad.jsonl").write_bytes(BROKEN + b"\n" + OTHER + b"\n")
    report = (await Importer(service, user_id, "claude-code", [tmp_path]).import_all()).to_dict()
    assert {each["type"]: each["reason"] for each in report["skipped"]} == dict.fromkeys(KINDS, "could not be read")
    assert (report["records"], len(report["problems"]), report["added"]) == (2, 1, {})


async def test_a_byte_that_is_no_utf8_costs_a_line_one_character(service: ChatService, user_id: UserId) -> None:
    text = WRITERS["claude-code"][1](SHORT[1:2]).encode().replace(b"In May", b"In M\xffy")
    await take_in(service, user_id, "claude-code", text)
    [session] = await sessions_of(service, user_id)
    assert [turn.text for turn in await told_by(service, user_id, session["id"])] == ["In M\ufffdy."]
