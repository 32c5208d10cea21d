"""Candidates: whatever the words' places, they are the newest rows that a scan of the index finds."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select

from chat_service.candidates import BLOCK, NARROWED, PLAIN, Candidates, Reach, find_newest
from chat_service.service import ChatService
from models.database import Database
from models.ids import SessionId, UserId, utc_now
from models.tables import chat_sessions, messages
from tests.support import new_session, new_user, said

pytestmark = pytest.mark.anyio

COUNT = 6_000

HOLDS: dict[str, Callable[[int], bool]] = {
    "everywhere": lambda number: True,
    "half": lambda number: number % 2 == 0,
    "tenth": lambda number: number % 10 == 0,
    "sometimes": lambda number: number % 35 == 0,
    "rare": lambda number: number % 1_000 == 0,
    "nowhere": lambda number: False,
    "once": lambda number: number < 3_000,
    "lately": lambda number: number > COUNT - 90,
    "burst": lambda number: 2_000 <= number < 2_900,
    "bursts": lambda number: number % 2_000 < 450,
}
"""Words, and which of the messages, numbered from 1, hold them."""

SMALL = Reach(rows=30, enough=30, width=40, limit=60)


async def fill_with_words(database: Database, session_id: SessionId) -> None:
    def insert_all(connection: Connection) -> None:
        found = select(chat_sessions.c.key).where(chat_sessions.c.id == session_id)
        same = {
            "session_key": connection.execute(found).scalar_one(),
            "created_at": utc_now(),
            "kind": "message",
            "role": "user",
            "author": "agent",
        }
        rows = [
            {**same, "seq": number, "content": " ".join(word for word, holds in HOLDS.items() if holds(number))}
            for number in range(1, COUNT + 1)
        ]
        connection.execute(insert(messages), rows)

    await database.write(insert_all)
    await database.index()


def newest(database_keys: list[int], edge: int, rows: int) -> list[int]:
    return [key for key in reversed(database_keys) if key < edge][:rows]


async def test_they_are_the_newest_rows_wherever_a_word_stands_also_after_deletions(database: Database) -> None:
    service = ChatService(database)
    user_id = await new_user(service)
    await fill_with_words(database, await new_session(service, user_id))
    await assert_all_found(database, user_id)

    def delete(connection: Connection) -> None:
        connection.exec_driver_sql("DELETE FROM messages WHERE key % 7 = 0 OR key > 5950 OR key BETWEEN 900 AND 1500")

    await database.write(delete)
    await assert_all_found(database, user_id)


async def assert_all_found(database: Database, user_id: UserId) -> None:
    held = await database.read(lambda connection: connection.execute(select(messages.c.key)).scalars().all())
    keys = {word: [key for key in sorted(held) if holds(key)] for word, holds in HOLDS.items()}
    keys["half AND tenth"] = [key for key in keys["half"] if key in set(keys["tenth"])]
    keys["once AND lately"] = []
    keys["everywhere NOT half"] = [key for key in keys["everywhere"] if key % 2]
    keys["everywhere NOT everywhere"] = []
    for words, of_words in keys.items():
        for reach in (PLAIN, NARROWED, SMALL):
            for edge in (COUNT + 1, 3_100, 1_000, 200, 2):
                found = await find(database, user_id, words, edge, reach)
                expected = newest(of_words, edge, reach.rows)
                assert [each.key for each in found.fitting] == expected[: BLOCK + 1], (words, reach, edge)
                assert found == await find(database, user_id, words, found.edge, reach)
                # What is not looked at begins where all before was given, and all are read where no more is told of.
                older = newest(of_words, found.next_edge, COUNT)
                assert [*expected, *older] == newest(of_words, edge, COUNT) or len(expected) > BLOCK


async def find(database: Database, user_id: UserId, words: str, edge: int, reach: Reach) -> Candidates:
    parameters: dict[str, Any] = {
        "wanted": words,
        "user_id": user_id,
        "first": -(2**63),
        "last": 2**63 - 1,
        "segments": None,
    }
    return await database.read(lambda connection: find_newest(connection, messages, edge, reach, parameters))


async def test_what_is_being_deleted_hides_nothing_of_what_is_older(service: ChatService, user_id: UserId) -> None:
    kept, deleted = await new_session(service, user_id), await new_session(service, user_id)
    await service.add_message(user_id, kept, said("an orchid"))
    for _ in range(4):
        await service.add_messages(user_id, deleted, [said("orchid")] * 500)
    await service.search_history(user_id, "orchid")
    await service.delete_session(user_id, deleted)
    found = []
    cursor = None
    while True:
        page = await service.search_history(user_id, "orchid", 20, cursor)
        found += [(hit["session_id"], hit["seq"]) for hit in page["hits"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == [(kept, 1)]
