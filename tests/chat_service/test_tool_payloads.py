"""Images, sounds and documents in tool results are kept once, and come back as they were given."""

import base64
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, select

from chat_service import tombstones
from chat_service.archive.write import archive_lines
from chat_service.service import ChatService
from chat_service.whole import render_whole
from models.database import Database
from models.ids import SessionId, UserId
from models.inputs import ContextShape
from models.tables import blob_references, blobs, tool_usages
from tests.chat_service.test_archive import restored
from tests.chat_service.transcripts.support import take_in
from tests.conftest import url_of
from tests.support import count_rows, done, new_session, new_user

pytestmark = pytest.mark.anyio

BYTES = bytes(range(256)) * 20
DATA = base64.b64encode(BYTES).decode()
URL = f"data:image/png;base64,{DATA}"

SHAPES = {
    "an image of MCP": {"content": [{"type": "image", "data": DATA, "mimeType": "image/png"}]},
    "a sound of MCP": {"content": [{"type": "audio", "data": DATA, "mimeType": "audio/wav"}]},
    "a resource of MCP": {"type": "resource", "resource": {"uri": "a://b", "blob": DATA, "mimeType": "image/png"}},
    "an image of Anthropic": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}}],
    "a document of Anthropic": [
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": DATA}, "title": "x"}
    ],
    "an image of Chat Completions": [{"type": "image_url", "image_url": {"url": URL}}],
    "an image of Responses": [{"type": "input_image", "image_url": URL}],
    "a file of Responses": [{"type": "input_file", "file_data": f"data:application/pdf;base64,{DATA}"}],
    "a sound of OpenAI": [{"type": "input_audio", "input_audio": {"data": DATA, "format": "wav"}}],
}


def kept_length(connection: Connection) -> int:
    length: int = connection.execute(select(func.max(func.length(tool_usages.c.result)))).scalar_one()
    return length


async def results_of(service: ChatService, user_id: UserId, session_id: str) -> list[Any]:
    entries = (await service.get_session_history(user_id, SessionId(session_id)))["entries"]
    return [entry["result"] for entry in entries if "message_type" not in entry]


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_payload_is_kept_once_and_given_back(
    service: ChatService, user_id: UserId, database: Database, shape: str
) -> None:
    session_id = await new_session(service, user_id)
    result = SHAPES[shape]
    for key in "ab":
        usage = done(result=result, idempotency_key=key)
        first = await service.add_tool_usage(user_id, session_id, usage)
        assert first["result"] == result
        assert await service.add_tool_usage(user_id, session_id, usage) == first
    assert await results_of(service, user_id, session_id) == [result, result]
    listed = (await service.get_session_tool_usage(user_id))["tool_usages"]
    assert [usage["result"] for usage in listed] == [result, result]
    entry = await service.get_session_entry(user_id, session_id, 1, content_limit=100_000)
    assert json.loads(entry["content"])["result"] == result
    assert await count_rows(database, blobs) == 1
    assert await database.read(kept_length) < 400


@pytest.mark.parametrize(
    "result",
    [
        DATA,
        {"data": DATA},
        {"data": DATA + "\n", "mimeType": "image/png"},
        {"data": "not base64", "mimeType": "text/plain"},
        {"data": "", "mimeType": "text/plain"},
        {"data": {"blob_reference": "0" * 64, "size": 1}, "mimeType": "image/png", "more": [URL]},
        {"url": "data:,hello"},
    ],
)
async def test_what_is_no_payload_stays_as_it_is(
    service: ChatService, user_id: UserId, database: Database, result: Any
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_tool_usage(user_id, session_id, done(result=result))
    assert await results_of(service, user_id, session_id) == [result]
    assert await count_rows(database, blobs) == 0


async def test_what_looks_like_a_reference_is_given_back_as_it_was_said(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    await service.add_tool_usage(user_id, session_id, done(result=[URL]))
    preview = (await service.get_session_preview(user_id, session_id))["entries"][0]
    assert "message_type" not in preview
    said = json.loads(preview["result"] or "")
    await service.add_tool_usage(user_id, session_id, done(result=said))
    assert await results_of(service, user_id, session_id) == [[URL], said]


@pytest.mark.parametrize("shape", ["openai_chat", "openai_responses", "anthropic", "own"])
async def test_providers_get_the_payload(service: ChatService, user_id: UserId, shape: ContextShape) -> None:
    session_id = await new_session(service, user_id)
    await service.add_tool_usage(user_id, session_id, done(result=SHAPES["an image of MCP"]))
    whole = await service.snapshot(partial(render_whole, user_id=user_id, session_id=session_id, shape=shape))
    assert DATA in json.dumps(whole)


async def test_a_fork_has_the_payloads_also_when_its_parent_is_gone(
    service: ChatService, user_id: UserId, database: Database
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_tool_usage(user_id, session_id, done(result=[URL]))
    fork_id = SessionId((await service.fork_session(user_id, session_id))["id"])
    assert await results_of(service, user_id, fork_id) == [[URL]]
    await service.delete_session(user_id, session_id)
    await service.finish_deletions()
    assert await results_of(service, user_id, fork_id) == [[URL]]
    await service.delete_session(user_id, fork_id)
    await service.finish_deletions()
    assert [await count_rows(database, table) for table in (blobs, blob_references)] == [0, 0]


async def test_an_archive_brings_the_payloads_back(service: ChatService, user_id: UserId, tmp_path: Path) -> None:
    session_id = await new_session(service, user_id)
    for result in SHAPES.values():
        await service.add_tool_usage(user_id, session_id, done(result=result))
    text = "".join([f"{line}\n" async for line in archive_lines(service, user_id, [session_id])])
    assert text.count(DATA) == 1
    async with Database(url_of(tmp_path / "other.db")) as other:
        elsewhere = ChatService(other)
        somebody = await new_user(elsewhere, "grace")
        assert (await restored(elsewhere, somebody, tmp_path / "archive.jsonl", text))["problems"] == []
        assert await results_of(elsewhere, somebody, session_id) == [*SHAPES.values()]
        again = "".join([f"{line}\n" async for line in archive_lines(elsewhere, somebody, [session_id])])
        assert again == text


async def test_a_session_brings_its_payloads_back_where_another_that_has_them_is_left_out(
    service: ChatService, user_id: UserId, database: Database, tmp_path: Path
) -> None:
    first_id, second_id = [await new_session(service, user_id) for _ in range(2)]
    for session_id in (first_id, second_id):
        await service.add_tool_usage(user_id, session_id, done(result=[URL]))
    text = "".join([f"{line}\n" async for line in archive_lines(service, user_id, [first_id, second_id])])
    async with Database(url_of(tmp_path / "other.db")) as other:
        elsewhere = ChatService(other)
        somebody = await new_user(elsewhere)
        await restored(elsewhere, somebody, tmp_path / "archive.jsonl", text)
        for session_id in (first_id, second_id):
            await elsewhere.delete_session(somebody, session_id)
        await elsewhere.transaction(lambda work: tombstones.forget_session(work, second_id))
        await restored(elsewhere, somebody, tmp_path / "archive.jsonl", text)
        assert await results_of(elsewhere, somebody, second_id) == [[URL]]
        assert await count_rows(other, blobs) == 1


async def test_a_blob_of_an_archive_that_no_entry_refers_to_is_not_kept(
    service: ChatService, user_id: UserId, tmp_path: Path
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_tool_usage(user_id, session_id, done(result=[URL]))
    lines = [line async for line in archive_lines(service, user_id, [session_id])]
    text = "".join(f"{line}\n" for line in lines).replace('[{"blob_reference"', '[{"something_else"')
    async with Database(url_of(tmp_path / "other.db")) as other:
        elsewhere = ChatService(other)
        told = await restored(elsewhere, await new_user(elsewhere), tmp_path / "archive.jsonl", text)
        assert (told["stored"]["tool_usage"], told["problems"]) == (1, [])
        assert await count_rows(other, blobs) == 0


def transcript(*blocks: dict[str, Any]) -> str:
    """Write a conversation in which a tool is called, and what came of it, if anything."""
    use = {"type": "tool_use", "id": "toolu_0", "name": "read", "input": {}}
    lines = [("assistant", [use]), *([("user", [*blocks])] if blocks else [])]
    about = {"sessionId": "s-1", "timestamp": "2026-03-01T10:00:01Z"}
    return "".join(
        json.dumps({"type": role, "uuid": role, "message": {"role": role, "content": content}, **about}) + "\n"
        for role, content in lines
    )


async def test_what_looks_like_a_reference_gets_nothing_also_where_a_call_joins_an_imported_one(
    service: ChatService, user_id: UserId, database: Database
) -> None:
    stranger = await new_user(service, "stranger")
    await service.add_tool_usage(stranger, await new_session(service, stranger), done(result=[URL]))
    [sha256] = await database.read(lambda connection: connection.execute(select(blobs.c.sha256)).scalars().all())
    for digest in (sha256.hex(), "ab" * 32):
        other_id = await new_session(service, user_id)
        await take_in(service, user_id, "claude-code", transcript().replace("s-1", digest), into=other_id)
        said = {"blob_reference": digest}
        await service.add_tool_usage(user_id, other_id, done(origin="proxy", tool_call_id="toolu_0", result=said))
        assert await results_of(service, user_id, other_id) == [said]


async def test_a_payload_of_a_result_that_is_known_already_is_not_kept(
    service: ChatService, user_id: UserId, database: Database
) -> None:
    session_id = await new_session(service, user_id)
    usage = done(origin="proxy", tool_call_id="toolu_0", result="without the picture")
    await service.add_tool_usage(user_id, session_id, usage)
    result = {"type": "tool_result", "tool_use_id": "toolu_0", "content": SHAPES["an image of Anthropic"]}
    await take_in(service, user_id, "claude-code", transcript(result), into=session_id)
    assert await results_of(service, user_id, session_id) == ["without the picture"]
    assert await count_rows(database, blobs) == 0
