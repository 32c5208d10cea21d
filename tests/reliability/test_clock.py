"""Clocks that jump: seq orders a timeline, and no clock does."""

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chat_service.service import ChatService
from models.database import Database
from models.ids import SessionId, UserId, to_timestamp
from tests.conftest import url_of
from tests.reliability.scale import JOURNALS, library_for, make_ready, patient, scale, seed
from tests.support import done, new_session, new_user, said

pytestmark = patient


def jumping(chance: random.Random) -> Callable[[], str]:
    """Make a clock that is a day ahead, a day behind or right, differently at each look."""
    start = datetime(2026, 3, 29, tzinfo=UTC)
    steps = itertools.count()

    def look() -> str:
        days = chance.choice([-1, 0, 1])
        return to_timestamp(start + timedelta(days=days, seconds=next(steps)))

    return look


@dataclass(frozen=True)
class Written:
    """A session that was written while the clock jumped, and the numbers of its messages, tool usages, and all."""

    service: ChatService
    user_id: UserId
    session_ids: list[SessionId]
    said: list[int]
    done: list[int]

    @property
    def session_id(self) -> SessionId:
        return self.session_ids[0]

    @property
    def all(self) -> list[int]:
        return sorted([*self.said, *self.done])


async def write(database: Database) -> Written:
    """Create sessions, and append to the first of them, each entry saying which it is."""
    service = ChatService(database, clock=jumping(random.Random(seed())))  # noqa: S311 - repeats a run, guards nothing
    user_id = await new_user(service)
    session_ids = [await new_session(service, user_id, title=f"{number}") for number in range(25)]
    written = Written(service, user_id, session_ids, [], [])
    for seq in range(1, scale(150, 5_000) + 1):
        if seq % 3:
            await service.add_message(user_id, session_ids[0], said(f"{seq}"), expected_seq=seq - 1)
            written.said.append(seq)
        else:
            usage = done(arguments={"number": f"{seq}"})
            await service.add_tool_usage(user_id, session_ids[0], usage, expected_seq=seq - 1)
            written.done.append(seq)
    return written


async def history_is_in_order(written: Written) -> None:
    service, user_id, session_id = written.service, written.user_id, written.session_id
    whole = await service.get_session_history(user_id, session_id, limit=500)
    times = [entry["created_at"] for entry in whole["entries"]]
    assert times != sorted(times)
    forward: list[int] = []
    newer = 1
    while newer:
        page = await service.get_session_history(user_id, session_id, limit=7, after_seq=len(forward))
        newer = page["newer"]
        for entry in page["entries"]:
            number = entry["content"] if "message_type" in entry else entry["arguments"]["number"]
            assert number == str(entry["seq"])
            forward.append(entry["seq"])
    assert forward == written.all
    backward: list[int] = []
    before: int | None = len(forward) + 1
    while before is not None:
        page = await service.get_session_history(user_id, session_id, limit=7, before_seq=before)
        backward += [entry["seq"] for entry in reversed(page["entries"])]
        before = page["before_seq"]
    assert backward == forward[::-1]


async def messages_are_in_order(written: Written) -> None:
    found: list[int] = []
    after: int | None = 0
    while after is not None:
        page = await written.service.get_session_messages(written.user_id, written.session_id, limit=7, after_seq=after)
        found += [message["seq"] for message in page["messages"]]
        after = page["after_seq"]
    assert found == written.said


async def tool_usage_is_listed_newest_first(written: Written) -> None:
    found: list[int] = []
    cursor: str | None = None
    more = True
    while more:
        page = await written.service.get_session_tool_usage(written.user_id, limit=7, cursor=cursor)
        found += [usage["seq"] for usage in page["tool_usages"]]
        cursor = page["next_cursor"]
        more = cursor is not None
    assert found == written.done[::-1]


async def sessions_are_listed_newest_first(written: Written) -> None:
    found: list[str] = []
    cursor: str | None = None
    more = True
    while more:
        page = await written.service.get_user_sessions(written.user_id, limit=7, cursor=cursor)
        found += [session["id"] for session in page["sessions"]]
        cursor = page["next_cursor"]
        more = cursor is not None
    assert found == written.session_ids[::-1]


@pytest.mark.parametrize("journal", JOURNALS)
@pytest.mark.parametrize(
    "order",
    [
        history_is_in_order,
        messages_are_in_order,
        tool_usage_is_listed_newest_first,
        sessions_are_listed_newest_first,
    ],
    ids=lambda order: order.__name__,
)
def test_a_clock_that_jumps_a_day_either_way_changes_neither_order_nor_pages(
    tmp_path: Path, journal: str, order: Callable[[Written], Coroutine[Any, Any, None]]
) -> None:
    path = tmp_path / "chat.db"
    make_ready(journal, path)

    async def main() -> None:
        async with Database(url_of(path), library=library_for(journal)) as database:
            await order(await write(database))

    asyncio.run(main())
