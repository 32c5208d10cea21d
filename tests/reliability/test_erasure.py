"""Erasure: once a deletion is finished, no byte of what was deleted stands in the file, its index or its log."""

import hashlib
import json
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from chat_service import import_batches, source_records
from chat_service.import_sessions import Origin
from chat_service.service import ChatService
from chat_service.transcripts.neutral import Conversation, Record
from models.database import Database
from models.ids import RunId, SessionId, UserId, pack_id
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
from models.remnants import sweep
from models.sqlite import choose_library
from server.housekeeping import Housekeeping
from tests.conftest import url_of
from tests.reliability.scale import FRESH_JOURNALS, JOURNALS, dice, library_for, make_ready, scale
from tests.reliability.test_readers import stalled_reader
from tests.support import asking, finish, new_session, new_user, run_python, said, start_python

pytestmark = pytest.mark.anyio

APPENDS = scale(240, 20_000)
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
        words = f"canary{number}bird canarySong{number} 金丝雀 " * 5
        await self.service.add_message(self.user_id, self.session_id, said(f"{self.word()} {words}", **more))
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
        message = asking(call.tool_call_id, content=self.word())
        await self.service.add_run_message(self.user_id, RunId(run["id"]), LEASE, message, [call])


async def plant(service: ChatService, user_id: UserId, suffix: str) -> Planted:
    """Make a session with canaries in all that a session has."""
    given = NewSession(
        title=f"canary {suffix} singvogel", session_data={"workspace": "/canary"}, client="canary-client",
        idempotency_key=f"canary-{suffix}",
    )  # fmt: skip
    session = await service.create_chat_session(user_id, given)
    return Planted(service, user_id, SessionId(session["id"]))


_COPY = """
import shutil, sys
from pathlib import Path
path, target = Path(sys.argv[1]), Path(sys.argv[2])
shutil.rmtree(target, ignore_errors=True)
target.mkdir()
for file in path.parent.glob(path.name + "*"):
    shutil.copy(file, target)
"""


def bytes_beside(path: Path) -> bytes:
    """Return all bytes of the file and of what stands beside it."""
    # Copied elsewhere: reading a file here would let go of the locks that this process has on it.
    copies = path.parent / "copies"
    run_python(_COPY, path, copies)
    return b"".join(file.read_bytes() for file in copies.iterdir())


def found_in(data: bytes, traces: Iterable[bytes]) -> dict[bytes, int]:
    """Return which traces there are, whatever their letters' case, and how often."""
    lower = data.lower()
    return {trace: count for trace in traces if (count := lower.count(trace.lower()))}


def integrity(connection: Connection) -> Any:
    """Tell what SQLite finds in the file; raises where an index of full text is not sound."""
    for index in ("message_search", "tool_usage_search"):
        connection.exec_driver_sql(f"INSERT INTO {index}({index}) VALUES ('integrity-check')")  # noqa: S608
    return connection.exec_driver_sql("PRAGMA integrity_check").scalar()


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
            kept_call = planted.word().replace("canary", "bullfinch")
            await service.add_message(kept_user, kept, asking(kept_call, content=f"bullfinch finch{number}bird"))
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
        assert len((await service.search_history(kept_user, "bullfinch", 50))["hits"]) == 50
        for number in range(0, APPENDS // 3, 7):
            assert len((await service.search_history(kept_user, f"finch{number}bird"))["hits"]) == 1
        assert await database.write(integrity) == "ok"


@pytest.mark.parametrize("journal", JOURNALS)
async def test_sessions_that_grew_together_leave_nothing_one_after_the_other(tmp_path: Path, journal: str) -> None:
    path = tmp_path / "chat.db"
    make_ready(journal, path)
    async with Database(url_of(path), library=library_for(journal)) as database:
        service = ChatService(database)
        user_id = await new_user(service)
        sessions = [await new_session(service, user_id, title=f"w{number}bird") for number in range(4)]
        random = dice("together")
        traces: dict[SessionId, set[bytes]] = {each: {pack_id(each)} for each in sessions}
        for number in range(APPENDS):
            session_id = random.choice(sessions)
            word = f"{random.getrandbits(64):016x}"
            traces[session_id].add(word.encode())
            content = f"{word} " * random.choice([1, 1, 10, 300])
            await service.add_message(user_id, session_id, asking(word, content=content, idempotency_key=word))
            if number % 50 == 49:
                await service.search_history(user_id, "nothing")
        for number, session_id in enumerate(sessions):
            await service.delete_session(user_id, session_id)
            assert await service.finish_deletions()
            data = bytes_beside(path)
            assert found_in(data, traces[session_id]) == {}, number
            for other in sessions[number + 1 :]:
                assert set(found_in(data, traces[other])) == traces[other], "what others said is all there"


ANOTHER = """
import asyncio, sys
from chat_service.service import ChatService
from models.database import Database
from models.inputs import NewMessage
async def main():
    url, user_id, session_id, library = sys.argv[1:]
    async with Database(url, library=__import__(library)) as database:
        service = ChatService(database)
        read = [await service.get_user_sessions(user_id, limit=500), await service.search_history(user_id, "canary")]
        print("has read", flush=True)
        for _ in sys.stdin:
            for number in range(30):
                await service.add_message(user_id, session_id, NewMessage(role="user", content=f"bullfinch {number}"))
            print("has written", flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize("journal", JOURNALS)
async def test_another_process_that_has_read_it_does_not_write_it_back(tmp_path: Path, journal: str) -> None:
    path = tmp_path / "chat.db"
    make_ready(journal, path)
    library = library_for(journal)
    async with Database(url_of(path), library=library) as database:
        service = ChatService(database)
        user_id = await new_user(service)
        kept = await new_session(service, user_id)
        planted = await plant(service, user_id, "one")
        for number in range(60):
            await service.add_message(user_id, kept, said(f"bullfinch {number}"))
            await planted.append(number)
        with started(url_of(path), user_id, kept, library.__name__) as another:
            assert another.stdout.readline() == "has read\n"
            await service.delete_session(user_id, planted.session_id)
            write_more(another)
            while not await service.finish_deletions():
                """The other one was in the way for so long that it is tried again."""
            write_more(another)
            assert another.stdout.readline() + another.stdout.readline() == "has written\n" * 2
            assert found_in(bytes_beside(path), planted.traces) == {}
            finish([another])
            assert found_in(bytes_beside(path), planted.traces) == {}
        assert (await service.get_session(user_id, kept))["last_seq"] == 120


@contextmanager
def started(*arguments: object) -> Iterator[Any]:
    with start_python(ANOTHER, *arguments) as process:
        try:
            yield process
        finally:
            process.kill()


def write_more(another: Any) -> None:
    """Let the other process append, while this one goes on."""
    another.stdin.write("\n")
    another.stdin.flush()


# Beside a rollback journal, a reader that stalls keeps everybody from writing.
@pytest.mark.parametrize("journal", [journal for journal in JOURNALS if journal == "wal"])
async def test_it_is_tried_again_where_a_reader_is_in_the_way(
    tmp_path: Path, journal: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chat.db"
    make_ready(journal, path)
    async with Database(url_of(path), library=library_for(journal)) as database:
        service = ChatService(database)
        user_id = await new_user(service)
        planted = await plant(service, user_id, "one")
        for number in range(40):
            await planted.append(number)
        await service.delete_session(user_id, planted.session_id)
        with stalled_reader(path, journal):
            assert not await service.finish_deletions()
            assert "not overwritten" in caplog.text
            assert [entry["action"] for entry in (await service.get_audit_log(user_id))["entries"]] == [
                "session_deleted"
            ]
            housekeeping = Housekeeping(service, retry_seconds=0.05)
            housekeeping.start()
        while len((await service.get_audit_log(user_id))["entries"]) < 2:
            assert found_in(caplog.text.encode(), planted.traces) == {}
        await housekeeping.stop()
        assert found_in(bytes_beside(path), planted.traces) == {}


def test_a_sweep_changes_nothing_but_gaps(tmp_path: Path) -> None:
    path = tmp_path / "some.db"
    library = choose_library()
    raw = library.connect(str(path), isolation_level=None)
    raw.execute("PRAGMA secure_delete = ON")
    raw.execute("CREATE TABLE some (key INTEGER PRIMARY KEY, word TEXT)")
    raw.execute("CREATE INDEX by_word ON some (word)")
    random = dice("gaps")
    raw.execute("BEGIN")
    for number in range(4_000):
        word = f"{random.getrandbits(64):x}-{'canary' if number % 3 else 'bullfinch'}"
        raw.execute("INSERT INTO some (word) VALUES (?)", (word,))
    raw.execute("COMMIT")
    raw.execute("DELETE FROM some WHERE word LIKE '%canary'")
    before = raw.execute("SELECT * FROM some").fetchall()
    raw.close()
    assert path.read_bytes().count(b"canary") > 0, "what this test is about happens no more: a sweep is not needed"
    swept = sweep(path, library)
    assert (swept.problem, swept.overwritten > 0) == (None, True)
    assert path.read_bytes().count(b"canary") == 0
    raw = library.connect(str(path))
    assert raw.execute("SELECT * FROM some").fetchall() == before
    assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    raw.close()
    assert sweep(path, library).overwritten == 0


def test_a_file_that_is_none_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    path.write_bytes(b"\x0d" * 8_192)
    assert sweep(path, choose_library()).problem is not None
    assert path.read_bytes() == b"\x0d" * 8_192


@pytest.mark.skipif(len(FRESH_JOURNALS) < 2, reason="the standard library's SQLite overwrites words by itself")
async def test_an_index_that_an_older_sqlite_made_overwrites_from_then_on(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    planted: Planted | None = None
    for journal in ("delete", "wal"):
        async with Database(url_of(path), library=library_for(journal)) as database:
            service = ChatService(database)
            user_id = await new_user(service)
            planted = planted or await plant(service, user_id, "one")
            planted.service = service
            for number in range(20):
                await planted.append(number)
            assert (await service.search_history(user_id, "canary"))["hits"]
            if journal == "wal":
                await service.delete_session(user_id, planted.session_id)
                assert await service.finish_deletions()
                assert found_in(bytes_beside(path), planted.traces) == {}
                assert await database.read(overwrites_words)


def overwrites_words(connection: Connection) -> bool:
    option = "SELECT v FROM message_search_config WHERE k = 'secure-delete'"
    return connection.exec_driver_sql(option).scalar() == 1
