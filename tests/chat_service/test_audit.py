"""The audit log: a receipt for each deletion, in a chain in which every change of a row shows."""

from typing import Any

import pytest
from sqlalchemy import select

from chat_service import audit, doctor
from chat_service.service import ChatService
from chat_service.work import Work
from models.database import Database
from models.errors import Invalid, NotFound
from models.ids import SessionId, UserId
from models.shapes import AuditEntryDict
from models.tables import audit_log
from tests.chat_service.transcripts.support import SHORT, Said, sessions_of, take_in, write_anthropic
from tests.reliability.scale import dice, scale
from tests.support import done, fill_long, new_session, new_user, said

pytestmark = pytest.mark.anyio

EDITS = scale(100, 1_000)
IMAGE = Said("image", "iVBORw0=")


async def entries_of(service: ChatService, user_id: UserId) -> list[AuditEntryDict]:
    return (await service.get_audit_log(user_id))["entries"]


async def fill_log(service: ChatService, user_id: UserId, deletions: int) -> None:
    for _ in range(deletions):
        session_id = await new_session(service, user_id)
        await service.add_message(user_id, session_id, said())
        await service.delete_session(user_id, session_id)
    await service.finish_deletions()


async def test_a_deletion_has_a_receipt_that_is_completed_once_all_is_overwritten(
    service: ChatService, database: Database, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id, title="Secret")
    await fill_long(database, session_id, 1_000)
    receipt = await service.delete_session(user_id, session_id)
    [entry] = await entries_of(service, user_id)
    assert (entry["id"], entry["action"]) == (receipt["receipt"], "session_deleted")
    assert entry["detail"] == {"sessions": 1, "messages": 1_000, "tool_usages": 1_000}
    assert await service.finish_deletions()
    erased, first = await entries_of(service, user_id)
    assert first == entry
    assert (erased["action"], erased["detail"]) == ("erased", {"receipt": 1, "blobs": 0, "source_records": 0})
    assert erased["created_at"] >= entry["created_at"]
    assert await service.finish_deletions()
    assert len(await entries_of(service, user_id)) == 2, "once"


async def test_a_receipt_counts_blobs_that_are_gone_and_source_records(service: ChatService, user_id: UserId) -> None:
    other_image = Said("image", "iVBORx0=")
    for turns in ([*SHORT, IMAGE, other_image], [Said("user", "Another."), IMAGE]):
        await take_in(service, user_id, "anthropic", write_anthropic(turns))
    first, second = await sessions_of(service, user_id)
    await service.delete_session(user_id, SessionId(first["id"]))
    await service.delete_session(user_id, SessionId(second["id"]))
    await service.finish_deletions()
    erased = [entry["detail"] for entry in await entries_of(service, user_id) if entry["action"] == "erased"]
    assert [(each["receipt"], each["blobs"]) for each in erased if each] == [(2, 1), (1, 1)], "one was in both"
    assert all(each["source_records"] > 0 for each in erased if each)


async def test_nobody_sees_the_rows_of_another(service: ChatService, user_id: UserId, stranger_id: UserId) -> None:
    await fill_log(service, user_id, 2)
    assert await entries_of(service, stranger_id) == []
    await fill_log(service, stranger_id, 1)
    assert [entry["id"] for entry in await entries_of(service, user_id)] == [4, 3, 2, 1]
    assert [entry["id"] for entry in await entries_of(service, stranger_id)] == [6, 5]


async def test_the_log_is_paged_newest_first(service: ChatService, user_id: UserId) -> None:
    await fill_log(service, user_id, 3)
    first = await service.get_audit_log(user_id, limit=4)
    second = await service.get_audit_log(user_id, limit=4, cursor=first["next_cursor"])
    assert [entry["id"] for page in (first, second) for entry in page["entries"]] == [6, 5, 4, 3, 2, 1]
    assert second["next_cursor"] is None
    with pytest.raises(Invalid, match="cursor"):
        await service.get_audit_log(user_id, cursor="x")


async def test_a_deleted_user_leaves_rows_that_tell_nothing_and_a_chain_that_holds(
    service: ChatService, database: Database, user_id: UserId, stranger_id: UserId
) -> None:
    await fill_log(service, user_id, 2)
    await fill_log(service, stranger_id, 1)
    session_id = await new_session(service, user_id)
    await service.add_tool_usage(user_id, session_id, done())
    await service.delete_session(user_id, session_id)
    await service.delete_user(user_id)
    await service.finish_deletions()
    with pytest.raises(NotFound):
        await service.get_audit_log(user_id)
    check = await service.verify_audit_log()
    assert (check["rows"], check["erased"], check["broken_at"]) == (10, 5, None)
    columns = (audit_log.c.user_key, audit_log.c.salt, audit_log.c.detail)
    of_user = select(*columns).where(audit_log.c.key.in_([1, 2, 3, 4, 7]))
    assert set(await database.read(lambda connection: connection.execute(of_user).all())) == {(None, None, None)}
    back = await new_user(service, "ada")
    assert await entries_of(service, back) == [], "whoever comes back begins anew"
    assert len(await entries_of(service, stranger_id)) == 2


async def test_a_receipt_is_part_of_the_transaction_that_deletes(service: ChatService, user_id: UserId) -> None:
    def refused(work: Work) -> None:
        audit.add(work, "erased", {"receipt": 1}, user_id)
        raise Invalid("no")

    with pytest.raises(Invalid):
        await service.transaction(refused)
    assert (await service.verify_audit_log())["rows"] == 0


# Tampering


def another(value: Any, random: Any) -> Any:
    """Return another value of the same kind, or none."""
    if random.random() < 0.2 and value is not None:
        return None
    if isinstance(value, bytes):
        place = random.randrange(len(value))
        return value[:place] + bytes([value[place] ^ (1 << random.randrange(8))]) + value[place + 1 :]
    if isinstance(value, str):
        place = random.randrange(len(value))
        return random.choice([value + " ", value[:place] + chr(ord(value[place]) ^ 1) + value[place + 1 :]])
    return random.randrange(10) if value is None else value + random.choice([-1, 1, 1_000])


async def test_every_edit_of_a_single_field_is_found(
    service: ChatService, database: Database, user_id: UserId, stranger_id: UserId
) -> None:
    await fill_log(service, user_id, 4)
    await fill_log(service, stranger_id, 2)
    await service.delete_user(stranger_id)
    await service.finish_deletions()
    raw = open_raw(database)
    names = [column.name for column in audit_log.c]
    keys = [key for (key,) in raw.execute("SELECT key FROM audit_log")]
    random, edited = dice("audit"), dict.fromkeys(names, 0)
    assert (await service.verify_audit_log())["broken_at"] is None
    while sum(edited.values()) < EDITS:
        key, name = random.choice(keys), random.choice(names)
        (value,) = raw.execute(f"SELECT {name} FROM audit_log WHERE key = ?", (key,)).fetchone()  # noqa: S608
        now = another(value, random)
        try:
            raw.execute(f"UPDATE audit_log SET {name} = ? WHERE key = ?", (now, key))  # noqa: S608
        except database._library.IntegrityError:
            # The schema has refused it.
            continue
        broken = (await service.verify_audit_log())["broken_at"]
        assert broken is not None, (key, name, value, now)
        edited[name] += 1
        where = now if name == "key" else key
        raw.execute(f"UPDATE audit_log SET {name} = ? WHERE key = ?", (value, where))  # noqa: S608
    raw.close()
    assert (await service.verify_audit_log())["broken_at"] is None
    assert min(count for name, count in edited.items() if name != "action") > 3, edited


@pytest.mark.parametrize(
    ("change", "broken_at"),
    [
        ("DELETE FROM audit_log WHERE key = 1", 2),
        ("DELETE FROM audit_log WHERE key = 3", 4),
        ("UPDATE audit_log SET key = CASE key WHEN 2 THEN -3 ELSE -2 END WHERE key IN (2, 3)", -3),
        ("UPDATE audit_log SET action = 'erased' WHERE key = 2", 2),
        ("INSERT INTO audit_log SELECT 9, created_at, action, user_key, salt, detail, digest, chain FROM audit_log "
         "WHERE key = 8", 9),
        ("DELETE FROM audit_log WHERE key > 5", None),
    ],
    ids=["the first removed", "one removed", "two moved", "relabelled", "one repeated", "the end cut off: not seen"],
)  # fmt: skip
async def test_removal_and_reordering_are_found_but_not_a_missing_end(
    service: ChatService, database: Database, user_id: UserId, change: str, broken_at: int | None
) -> None:
    await fill_log(service, user_id, 4)
    whole = await service.verify_audit_log()
    raw = open_raw(database)
    raw.execute(change)
    raw.close()
    check = await service.verify_audit_log()
    assert check["broken_at"] == broken_at
    if broken_at is None:
        assert check["head"] != whole["head"], "who has written the head down sees the missing end too"
    [finding] = [each for each in await findings(database) if each["check"] == "audit log"]
    assert finding["is_problem"] == (broken_at is not None)


async def test_two_rows_cannot_change_places(service: ChatService, database: Database, user_id: UserId) -> None:
    await fill_log(service, user_id, 4)
    raw = open_raw(database)
    for statement in ("key = -2 WHERE key = 2", "key = 2 WHERE key = 3", "key = 3 WHERE key = -2"):
        raw.execute(f"UPDATE audit_log SET {statement}")  # noqa: S608
    raw.close()
    assert (await service.verify_audit_log())["broken_at"] == 2


async def test_a_long_log_is_verified_in_chunks(service: ChatService, user_id: UserId) -> None:
    rows = 2 * audit.CHUNK + 7

    def add(work: Work) -> None:
        for number in range(rows):
            audit.add(work, "erased", {"receipt": number}, user_id)

    await service.transaction(add)
    assert (await service.verify_audit_log())["rows"] == rows


async def findings(database: Database) -> list[doctor.Finding]:
    return await doctor.examine(f"sqlite+aiosqlite:///{database.path}", lambda done, total: None)


def open_raw(database: Database) -> Any:
    """Open the file as another program would, without any rule of ours."""
    raw = database._library.connect(str(database.path), isolation_level=None)
    raw.execute("PRAGMA busy_timeout=5000")
    return raw
