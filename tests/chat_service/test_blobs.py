"""Blobs: kept once, and as long as a message refers to them."""

import pytest
from sqlalchemy import select

from chat_service import blobs
from chat_service.service import ChatService
from models import tables
from models.database import Database
from models.ids import SessionId, UserId
from tests.chat_service.transcripts.support import (
    Said,
    history_of,
    sessions_of,
    take_in,
    write_anthropic,
    write_claude_code,
)
from tests.support import count_rows, new_user

pytestmark = pytest.mark.anyio

IMAGE, OTHER = Said("image", "iVBORw0="), Said("image", "AAAA")


async def test_what_is_attached_twice_is_kept_once(service: ChatService, user_id: UserId, database: Database) -> None:
    await take_in(service, user_id, "anthropic", write_anthropic([IMAGE, Said("assistant", "A bean."), IMAGE]))
    await take_in(service, user_id, "claude-code", write_claude_code([IMAGE, OTHER]))
    columns = tables.blobs.c
    query = select(columns.size, columns.media_type, columns.data).order_by(columns.key)
    rows = await database.read(lambda connection: connection.execute(query).all())
    assert [tuple(row) for row in rows] == [(5, "image/png", b"\x89PNG\r"), (3, "image/png", b"\0\0\0")]
    assert await count_rows(database, tables.blob_references) == 4


async def test_a_message_names_its_blob(service: ChatService, user_id: UserId) -> None:
    await take_in(service, user_id, "anthropic", write_anthropic([IMAGE]))
    [session] = await sessions_of(service, user_id)
    [message] = await history_of(service, user_id, session["id"])
    [part] = message["parts"]
    assert part == {
        "type": "blob_reference",
        "sha256": "a8eb710131695aa6b6463346898b51a4d751c1f5771f367f55a0bb52dd9a7e32",
        "size": 5,
        "mime_type": "image/png",
        "modality": "image",
    }
    assert "iVBORw0=" not in str(message)


async def test_a_blob_goes_with_the_last_session_that_refers_to_it(
    service: ChatService, user_id: UserId, database: Database
) -> None:
    await take_in(service, user_id, "anthropic", write_anthropic([IMAGE, OTHER]))
    await take_in(service, user_id, "claude-code", write_claude_code([IMAGE]))
    first, second = await sessions_of(service, user_id)
    await service.delete_session(user_id, SessionId(first["id"]))
    assert await count_rows(database, tables.blobs) == 1
    await service.delete_session(user_id, SessionId(second["id"]))
    for table in (tables.blobs, tables.blob_references, tables.source_records):
        assert await count_rows(database, table) == 0


async def test_a_blob_stays_while_another_user_refers_to_it(service: ChatService, database: Database) -> None:
    ada, grace = await new_user(service, "ada"), await new_user(service, "grace")
    for user_id in (ada, grace):
        await take_in(service, user_id, "anthropic", write_anthropic([IMAGE]))
    await service.delete_user(ada)
    assert await count_rows(database, tables.blobs) == 1
    await service.delete_user(grace)
    assert await count_rows(database, tables.blobs) == 0


async def test_what_only_says_that_it_is_base64_stays_as_it_is(
    service: ChatService, user_id: UserId, database: Database
) -> None:
    for data in ("no base64!", "iVBORw0", "iVBORw0=\n", "iVBORw1="):
        await take_in(service, user_id, "anthropic", write_anthropic([Said("assistant", data), Said("image", data)]))
    assert await count_rows(database, tables.blobs) == 0
    for session in await sessions_of(service, user_id):
        message = (await history_of(service, user_id, session["id"]))[-1]
        assert message["parts"][0]["type"] == "blob"


async def test_a_fork_reads_what_it_inherits_also_once_the_parent_is_deleted(
    service: ChatService, user_id: UserId, database: Database
) -> None:
    await take_in(service, user_id, "anthropic", write_anthropic([IMAGE, OTHER]))
    [session] = await sessions_of(service, user_id)
    [message, _] = await history_of(service, user_id, session["id"])
    sha256 = message["parts"][0]["sha256"]
    fork_id = SessionId((await service.fork_session(user_id, SessionId(session["id"]), 1))["id"])

    async def read() -> bytes:
        return await service.snapshot(lambda connection: blobs.read(connection, user_id, fork_id, sha256))

    assert await read() == b"\x89PNG\r"
    await service.delete_session(user_id, SessionId(session["id"]))
    assert await read() == b"\x89PNG\r"
    assert await count_rows(database, tables.blobs) == 1
    await service.delete_session(user_id, fork_id)
    assert await count_rows(database, tables.blobs) == 0
