"""Callers who go: cancelled at a random await, in every way there is, nothing is lost, doubled, leaked or left to hang.

A caller who was cancelled does not know whether the append was stored. So each repeats it with the same idempotency
key, as clients are told to do, and then every entry is there once, and was told once.
"""

import asyncio
import contextlib
import gc
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from chat_service import appends
from chat_service.events import Event
from chat_service.service import ChatService
from chat_service.work import Work
from models.database import Database
from models.errors import Unavailable
from models.ids import SessionId, UserId
from tests.conftest import url_of
from tests.reliability.scale import JOURNALS, figure, library_for, make_ready, patient, scale, seed
from tests.support import done, hear, new_session, new_user, said

pytestmark = patient

Call = Callable[[], Coroutine[Any, Any, list[int]]]
"""An append that returns the seqs that it got."""

IN_A_ROUND = 25
TELLING = "the caller went"
SECONDS = 30
"""How long a close or a thread's end may take before it is called a hang."""


class Gone(Exception):
    """What a neighbour in a task group fails with."""


async def turns(chance: random.Random) -> None:
    """Let the event loop turn a random number of times, most often a few, sometimes past a whole commit."""
    for _ in range(int(2 ** chance.uniform(0, 11))):
        await asyncio.sleep(0)


def seconds(chance: random.Random) -> float:
    """Return how long a caller waits: from less than anything takes to more than most of it."""
    return float(2 ** chance.uniform(-14, -4))


# Each way of going returns what the append returned, or raises what its caller would see.


async def by_task_cancel(call: Call, chance: random.Random) -> list[int]:
    task = asyncio.create_task(call())
    await turns(chance)
    task.cancel(TELLING)
    return await task


async def by_wait_for(call: Call, chance: random.Random) -> list[int]:
    return await asyncio.wait_for(call(), seconds(chance))


async def by_timeout(call: Call, chance: random.Random) -> list[int]:
    async with asyncio.timeout(seconds(chance)):
        return await call()


async def by_a_failing_task_group(call: Call, chance: random.Random) -> list[int]:
    async def fail() -> None:
        await turns(chance)
        raise Gone

    async with asyncio.TaskGroup() as group:
        answer = group.create_task(call())
        group.create_task(fail())
    return answer.result()


async def by_a_cancelled_scope(call: Call, chance: random.Random) -> list[int]:
    answers: list[list[int]] = []

    async def answer() -> None:
        answers.append(await call())

    async with anyio.create_task_group() as group:
        group.start_soon(answer)
        await turns(chance)
        group.cancel_scope.cancel()
    if not answers:
        raise TimeoutError
    return answers[0]


async def by_a_scope_with_a_deadline(call: Call, chance: random.Random) -> list[int]:
    with anyio.fail_after(seconds(chance)):
        return await call()


WAYS: tuple[Callable[[Call, random.Random], Awaitable[list[int]]], ...] = (
    by_task_cancel,
    by_wait_for,
    by_timeout,
    by_a_failing_task_group,
    by_a_cancelled_scope,
    by_a_scope_with_a_deadline,
)


def append_of(service: ChatService, user_id: UserId, session_id: SessionId, number: int) -> Call:
    """Make the append of this number: a message, a batch of three, or a tool usage."""

    async def message() -> list[int]:
        one = said(f"number {number}", idempotency_key=f"{number}")
        return [(await service.add_message(user_id, session_id, one))["seq"]]

    async def batch() -> list[int]:
        three = [said(f"number {number}.{part}", idempotency_key=f"{number}.{part}") for part in range(3)]
        return [one["seq"] for one in await service.add_messages(user_id, session_id, three)]

    async def tool_usage() -> list[int]:
        usage = done(arguments={"number": number}, idempotency_key=f"{number}")
        return [(await service.add_tool_usage(user_id, session_id, usage))["seq"]]

    return (message, batch, tool_usage)[number % 3]


async def go(way: Callable[[Call, random.Random], Awaitable[list[int]]], call: Call, chance: random.Random) -> Any:
    """Append and perhaps go; returns the seqs, or None where the caller was gone before the answer."""
    await turns(chance)
    try:
        return await way(call, chance)
    except* (asyncio.CancelledError, TimeoutError, Gone):
        pass
    return None


async def seqs_of(service: ChatService, user_id: UserId, session_id: SessionId) -> list[tuple[int, str]]:
    """Read all entries: the seq of each, and what it says."""
    entries: list[tuple[int, str]] = []
    while True:
        after = entries[-1][0] if entries else 0
        page = await service.get_session_history(user_id, session_id, limit=500, after_seq=after)
        for entry in page["entries"]:
            # Only messages have a message_type.
            said_or_done = entry["content"] if "message_type" in entry else f"done {entry['arguments']['number']}"
            entries.append((entry["seq"], said_or_done))
        if not page["newer"]:
            return entries


def database_threads() -> set[threading.Thread]:
    """Return the threads that hold connections."""
    return {thread for thread in threading.enumerate() if "_connection_worker_thread" in thread.name}


def open_files(path: Path) -> list[str]:
    """Return which files of a database this process holds open, where the system tells."""
    gc.collect()
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        return []
    found = []
    for descriptor in descriptors.iterdir():
        with contextlib.suppress(OSError):
            name = str(descriptor.readlink())
            if name.startswith(str(path)):
                found.append(name)
    return found


def assert_nothing_is_open(path: Path, before: set[threading.Thread]) -> None:
    """Fail where a thread or an open file is left of a database that was closed."""
    for thread in database_threads() - before:
        thread.join(SECONDS)
    assert database_threads() - before == set()
    assert open_files(path) == []


def assert_no_task_is_left() -> None:
    """Fail where a task other than the caller's is still pending."""
    assert asyncio.all_tasks() - {asyncio.current_task()} == set()


def told(heard: Sequence[Event]) -> list[int]:
    """Return the ends of the timeline that were told, in the order of telling."""
    return [event.last_seq for event in heard if event.change == "appended" and event.last_seq is not None]


@pytest.mark.parametrize("journal", JOURNALS)
def test_appends_cancelled_at_random_and_repeated_are_stored_once_and_told_once(tmp_path: Path, journal: str) -> None:
    chance = random.Random(seed())  # noqa: S311 - repeats a run, guards nothing
    path = tmp_path / "chat.db"
    make_ready(journal, path)
    before = database_threads()

    async def main() -> None:
        count = scale(1_500, 20_000)
        gone = committed = 0
        async with Database(url_of(path), library=library_for(journal)) as database:
            service = ChatService(database)
            user_id = await new_user(service)
            session_id = await new_session(service, user_id)
            heard = hear(service)
            ends: list[int] = []
            expected: Counter[str] = Counter()
            for start in range(0, count, IN_A_ROUND):
                calls = [append_of(service, user_id, session_id, number) for number in range(start, start + IN_A_ROUND)]
                ways = [chance.choice(WAYS) for _ in calls]
                answers = await asyncio.gather(*(go(*each, chance) for each in zip(ways, calls, strict=True)))
                told_before = set(told(heard))
                repeated = await asyncio.gather(*(call() for call in calls))
                for number, (answer, seqs) in enumerate(zip(answers, repeated, strict=True), start=start):
                    assert answer is None or answer == seqs
                    gone += answer is None
                    committed += answer is None and seqs[-1] in told_before
                    ends.append(seqs[-1])
                    expected.update(_texts(number))
            entries = await seqs_of(service, user_id, session_id)
            assert [seq for seq, _ in entries] == list(range(1, len(entries) + 1))
            assert Counter(text for _, text in entries) == expected
            assert sorted(told(heard)) == sorted(ends)
            assert told(heard) == sorted(told(heard))
        assert_no_task_is_left()
        # All three happened: answered, gone and not stored, gone and stored all the same.
        assert 0 < committed < gone < count
        figure("cancelled appends", {"appends": count, "gone": gone, "committed all the same": committed}, journal)

    asyncio.run(main())
    assert_nothing_is_open(path, before)


def _texts(number: int) -> list[str]:
    if number % 3 == 1:
        return [f"number {number}.{part}" for part in range(3)]
    return [f"number {number}" if number % 3 == 0 else f"done {number}"]


@pytest.mark.parametrize("journal", JOURNALS)
def test_closing_in_a_storm_of_calls_answers_all_of_them_and_loses_nothing(tmp_path: Path, journal: str) -> None:
    chance = random.Random(seed())  # noqa: S311
    path = tmp_path / "chat.db"
    make_ready(journal, path)
    before = database_threads()

    async def main() -> tuple[int, int]:
        database = await Database(url_of(path), library=library_for(journal)).open()
        service = ChatService(database)
        user_id = await new_user(service)
        session_id = await new_session(service, user_id)
        heard = hear(service)

        async def append(number: int) -> list[int]:
            await turns(chance)
            return await append_of(service, user_id, session_id, number)()

        async def read() -> None:
            await turns(chance)
            await service.get_session_history(user_id, session_id)

        storm = [asyncio.create_task(append(number)) for number in range(60)]
        readings = [asyncio.create_task(read()) for _ in range(20)]
        await turns(chance)
        for caller in chance.sample([*storm, *readings], 20):
            caller.cancel()
        await asyncio.wait_for(database.close(), SECONDS)
        answers = await asyncio.gather(*storm, *readings, return_exceptions=True)
        assert all(isinstance(answer, (list, Unavailable, asyncio.CancelledError, type(None))) for answer in answers)
        assert_no_task_is_left()
        async with Database(url_of(path), library=library_for(journal)) as again:
            entries = await seqs_of(ChatService(again), user_id, session_id)
        acknowledged = {seq for answer in answers if isinstance(answer, list) for seq in answer}
        assert [seq for seq, _ in entries] == list(range(1, len(entries) + 1))
        assert acknowledged <= {seq for seq, _ in entries}
        stored = [text for _, text in entries]
        assert len(set(stored)) == len(stored)
        batches = Counter(text.split(".")[0] for text in stored if "." in text)
        assert set(batches.values()) <= {3}
        # Each append that was stored was told, once and in order, and nothing else was.
        assert told(heard) == [seq for seq, text in entries if "." not in text or text.endswith(".2")]
        return len(acknowledged), sum(isinstance(answer, Unavailable) for answer in answers)

    outcomes = [asyncio.run(main()) for _ in range(scale(12, 300))]
    assert_nothing_is_open(path, before)
    assert any(acknowledged for acknowledged, _ in outcomes)
    assert any(refused for _, refused in outcomes)


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_closing_that_is_cancelled_and_repeated_leaves_nothing_open(tmp_path: Path, journal: str) -> None:
    path = tmp_path / "chat.db"
    make_ready(journal, path)
    before = database_threads()

    async def main() -> None:
        # After each number of turns in which a close has something left to do, while the file is written and not.
        for number in range(scale(24, 240)):
            database = await Database(url_of(path), library=library_for(journal)).open()
            service = ChatService(database)
            writing = [asyncio.create_task(new_user(service)) for _ in range(number % 2 * 3)]
            closing = asyncio.create_task(database.close())
            for _ in range(number // 2):
                await asyncio.sleep(0)
            closing.cancel()
            await asyncio.wait([closing])
            await asyncio.wait_for(database.close(), SECONDS)
            answers = await asyncio.gather(*writing, return_exceptions=True)
            assert all(isinstance(answer, (str, Unavailable)) for answer in answers)
            assert_no_task_is_left()
            for thread in database_threads() - before:
                thread.join(1)
            # Looked at while the database is still referred to: what only garbage collection closes was left open.
            assert database_threads() - before == set(), f"left open where cancelled after {number // 2} turns"

    asyncio.run(main())
    assert_nothing_is_open(path, before)


@pytest.mark.parametrize("journal", JOURNALS)
def test_an_opening_that_is_cancelled_at_random_leaves_nothing_open(tmp_path: Path, journal: str) -> None:
    chance = random.Random(seed())  # noqa: S311
    path = tmp_path / "chat.db"
    make_ready(journal, path)
    before = database_threads()

    async def main() -> bool:
        database = Database(url_of(path), library=library_for(journal))
        opening = asyncio.create_task(database.open())
        for _ in range(3):
            await turns(chance)
        opening.cancel()
        await asyncio.wait([opening])
        await asyncio.wait_for(database.close(), SECONDS)
        assert_no_task_is_left()
        return opening.cancelled()

    # Each on a loop of its own, whose end waits for the thread that prepares the file: that cannot be cancelled.
    cancelled = [asyncio.run(main()) for _ in range(scale(40, 1_000))]
    assert_nothing_is_open(path, before)
    assert any(cancelled)

    async def use() -> None:
        async with Database(url_of(path), library=library_for(journal)) as database:
            assert await new_user(ChatService(database))

    asyncio.run(use())


@pytest.mark.parametrize("journal", JOURNALS)
def test_transactions_of_several_rooms_are_whole_whatever_becomes_of_their_callers(
    tmp_path: Path, journal: str
) -> None:
    chance = random.Random(seed())  # noqa: S311
    path = tmp_path / "chat.db"
    make_ready(journal, path)

    async def main() -> None:
        async with Database(url_of(path), library=library_for(journal)) as database:
            service = ChatService(database)
            user_id = await new_user(service)
            sessions = [await new_session(service, user_id) for _ in range(2)]

            def both(number: int) -> Call:
                async def append() -> list[int]:
                    def unit(work: Work) -> list[int]:
                        stored = [appends.add(work, user_id, each, [said(f"number {number}")]) for each in sessions]
                        return [stored[0][0]["seq"], stored[1][0]["seq"]]

                    return await service.transaction(unit)

                return append

            count = scale(150, 2_000)
            for start in range(0, count, IN_A_ROUND):
                calls = [both(number) for number in range(start, start + IN_A_ROUND)]
                answers = await asyncio.gather(*(go(chance.choice(WAYS), call, chance) for call in calls))
                assert all(answer is None or answer[0] == answer[1] for answer in answers)
            # What was written by callers who have gone is stored by the time that a later write is.
            await new_user(service)
            one, other = [await seqs_of(service, user_id, each) for each in sessions]
            assert one == other
            assert max(Counter(text for _, text in one).values()) == 1

    asyncio.run(main())
