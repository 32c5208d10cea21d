"""Erasure: once a deletion is finished, no byte of what was deleted stands in the file, its index or its log."""

import hashlib
import json
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from chat_service import import_batches, source_records
from chat_service.import_sessions import Origin
from chat_service.service import ChatService
from chat_service.transcripts.neutral import Conversation, Record
from models.database import Database
from models.ids import SessionId, UserId, pack_id
from models.inputs import (
    BlobPart,
    Lease,
    NewMessage,
    NewRun,
    NewSession,
    NewToolUsage,
    RunCall,
    UserChanges,
)
from tests.conftest import url_of
from tests.reliability.scale import JOURNALS, dice, library_for, make_ready, scale
from tests.support import asking, new_session, new_user, said

pytestmark = pytest.mark.anyio

APPENDS = scale(400, 20_000)
LEASE = Lease(owner="canary-owner", seconds=60)
CANARIES = ("canary", "金丝雀", "singvogel")


class Planted:
    """A session that holds canaries in every place, and what of it must be found nowhere once it is deleted."""

    def __init__(self, service: ChatService, user_id: UserId, session_id: SessionId) -> None:
        self.service = service
        self.user_id = user_id
        self.session_id = session_id
        self.traces: set[bytes] = {each.encode() for each in CANARIES} | {pack_id(session_id), session_id.encode()}
        self._dice = dice(session_id)

    def word(self) -> str:
        """Draw a word, so that it comes anywhere in an index."""
        return f"{self._dice.getrandbits(64):016x}-canary-{self._dice.getrandbits(32):08x}"

    async def append(self, number: int) -> None:
        """Append an entry or two of the kinds that clients append."""
        call_id = self.word()
        more: dict[str, Any] = {"message_metadata": {"canary": self.word()}, "idempotency_key": self.word()}
        await self.service.add_message(self.user_id, self.session_id, said(f"{self.word()} 金丝雀 {number}", **more))
        await self.service.add_message(self.user_id, self.session_id, asking(call_id, content=self.word()))
        usage = NewToolUsage(
            tool_name="canary_tool", server_name="canary-server", tool_call_id=call_id, arguments={"a": self.word()},
            result={"r": [self.word()]}, error=self.word(), idempotency_key=self.word(),
            call_metadata={"canary": self.word()},
        )  # fmt: skip
        await self.service.add_tool_usage(self.user_id, self.session_id, usage)

    async def append_rarities(self, suffix: str) -> None:
        """Append what is long, attached, imported, or still being written."""
        await self.service.add_message(self.user_id, self.session_id, said("canarySingvogel " * 20_000))
        data = b"canary-blob-" + self._dice.randbytes(20_000) + b"-canary"
        self.traces |= {hashlib.sha256(data).digest(), data[1_000:1_040], data[15_000:15_040]}
        blob = BlobPart(type="blob", content=b64encode(data).decode(), mime_type="image/canary", modality="image")
        key = self.word()
        conversation = Conversation(source_id=f"canary-source-{suffix}", title="canary title")
        raw = json.dumps({"canary": [self.word() for _ in range(20)], "key": key})
        packed = source_records.pack(raw)
        self.traces |= {packed[10:50], source_records.digest_of_raw(raw)}
        entry = NewMessage(role="user", content="canary", parts=[blob], idempotency_key=key)
        record = Record(conversation, native_id=self.word(), kind="canary-kind", raw=raw, entries=[entry])
        origin = Origin("canary-client", self.session_id)
        await self.service.transaction(lambda work: import_batches.store(work, self.user_id, origin, [record]))
        question = NewRun(message=said("canary question"), session_id=self.session_id, idempotency_key=self.word())
        run = await self.service.begin_run(self.user_id, question, LEASE)
        call = RunCall(tool_call_id=self.word(), tool_name="canary_draft", arguments={"canary": self.word()})
        await self.service.add_run_message(
            self.user_id,
            run["id"],
            LEASE,
            asking(call.tool_call_id, content=self.word()),
            [call],  # type: ignore[arg-type]
        )


async def plant(service: ChatService, user_id: UserId, suffix: str) -> Planted:
    """Make a session with canaries in all that a session has."""
    given = NewSession(
        title=f"canary {suffix} singvogel", session_data={"workspace": "/canary"}, client="canary-client",
        idempotency_key=f"canary-{suffix}",
    )  # fmt: skip
    session = await service.create_chat_session(user_id, given)
    return Planted(service, user_id, SessionId(session["id"]))


def bytes_beside(path: Path) -> bytes:
    """Return all bytes of the file and of what stands beside it."""
    return b"".join(file.read_bytes() for file in path.parent.iterdir() if file.name.startswith(path.name))


def found_in(data: bytes, traces: Iterable[bytes]) -> dict[bytes, int]:
    """Return which traces there are, whatever their letters' case, and how often."""
    lower = data.lower()
    return {trace: count for trace in traces if (count := lower.count(trace.lower()))}


@pytest.mark.parametrize("journal", JOURNALS)
@pytest.mark.parametrize("all_of_the_user", [False, True], ids=["a session", "a user"])
async def test_no_byte_is_left_of_what_was_deleted(tmp_path: Path, journal: str, all_of_the_user: bool) -> None:
    path = tmp_path / "chat.db"
    make_ready(journal, path)
    async with Database(url_of(path), library=library_for(journal)) as database:
        service = ChatService(database)
        kept_user = await new_user(service, "kept")
        kept = await new_session(service, kept_user, title="bullfinch")
        user_id = await new_user(service, "canary-user" if all_of_the_user else "ada")
        if all_of_the_user:
            changes = UserChanges(email="canary@example.org", display_name="canary 金丝雀")
            await service.update_user(user_id, changes)
        planted = await plant(service, user_id, "one")
        for number in range(APPENDS // 3):
            kept_call = f"{planted._dice.getrandbits(64):x}-bullfinch"
            await service.add_message(kept_user, kept, asking(kept_call, content=f"bullfinch {number}"))
            await planted.append(number)
        await planted.append_rarities("one")
        before = found_in(bytes_beside(path), planted.traces)
        assert planted.traces - {planted.session_id.encode()} <= set(before), "all was there"
        if all_of_the_user:
            planted.traces.add(pack_id(user_id))
            await service.delete_user(user_id)
        else:
            await service.delete_session(user_id, planted.session_id)
        assert await service.finish_deletions()
        assert found_in(bytes_beside(path), planted.traces) == {}
        assert (await service.get_session(kept_user, kept))["message_count"] == APPENDS // 3
        assert len((await service.search_history(kept_user, "bullfinch", 100))["hits"]) == 100
        check = await database.read(lambda connection: connection.exec_driver_sql("PRAGMA integrity_check").scalar())
        assert check == "ok"
