"""Runs: a question is answered once, by one process at a time, and what a crash left open is closed as unknown."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from chat_service.runs import LOST
from chat_service.service import ChatService
from models.database import Database
from models.errors import Conflict
from models.ids import RunId, SessionId, UserId, to_timestamp
from models.inputs import Lease, NewRun, RunCall
from models.shapes import RunDict
from tests.support import asking, done, last_seq, new_session, new_user, said

pytestmark = pytest.mark.anyio

OURS, THEIRS = Lease(owner="ours", seconds=30), Lease(owner="theirs", seconds=30)


class Clock:
    """A time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 31, tzinfo=UTC)

    def __call__(self) -> str:
        return to_timestamp(self.now)

    def move(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(database: Database, clock: Clock) -> ChatService:
    return ChatService(database, clock=clock)


def question(key: str = "k", session_id: SessionId | None = None, content: str = "why?") -> NewRun:
    return NewRun(message=said(content), session_id=session_id, idempotency_key=key)


def run_of(run: RunDict) -> tuple[RunId, SessionId]:
    return RunId(run["id"]), SessionId(run["session_id"])


async def contents(service: ChatService, user_id: UserId, session_id: SessionId) -> list[str]:
    page = await service.get_session_messages(user_id, session_id)
    return [message["content"] for message in page["messages"]]


async def test_a_question_begins_a_session_and_an_answer_ends_its_run(service: ChatService, user_id: UserId) -> None:
    run = await service.begin_run(user_id, question(), OURS)
    run_id, session_id = run_of(run)
    assert (run["state"], run["message_seq"], run["result"]) == ("running", 1, None)
    ended = await service.end_run(user_id, run_id, OURS, "done", [said("because")], {"rounds": 0})
    assert (ended["state"], ended["result"]) == ("done", {"rounds": 0, "answer_seq": 2})
    assert await service.begin_run(user_id, question(), THEIRS) == ended
    assert await contents(service, user_id, session_id) == ["why?", "because"]


async def test_a_key_belongs_to_one_question_of_one_user(service: ChatService, user_id: UserId) -> None:
    run = await service.begin_run(user_id, question(), OURS)
    with pytest.raises(Conflict, match="another message"):
        await service.begin_run(user_id, question(content="what?"), OURS)
    other = await service.begin_run(await new_user(service), question(), OURS)
    assert other["id"] != run["id"]


async def test_another_process_waits_for_the_lease_and_then_takes_over(
    timed: ChatService, clock: Clock, user_id: UserId
) -> None:
    run = await timed.begin_run(user_id, question(), OURS)
    run_id, session_id = run_of(run)
    clock.move(29)
    with pytest.raises(Conflict, match="is being written"):
        await timed.begin_run(user_id, question(), THEIRS)
    await timed.renew_run(user_id, run_id, OURS)
    clock.move(29)
    with pytest.raises(Conflict, match="is being written"):
        await timed.begin_run(user_id, question(), THEIRS)
    clock.move(2)
    taken = await timed.begin_run(user_id, question(), THEIRS)
    assert (taken["id"], taken["state"], taken["message_seq"]) == (run_id, "running", 1)
    assert await contents(timed, user_id, session_id) == ["why?"]


async def test_who_has_lost_the_lease_appends_nothing(timed: ChatService, clock: Clock, user_id: UserId) -> None:
    run_id, session_id = run_of(await timed.begin_run(user_id, question(), OURS))
    clock.move(31)
    await timed.begin_run(user_id, question(), THEIRS)
    late: list[Callable[[], object]] = [
        lambda: timed.renew_run(user_id, run_id, OURS),
        lambda: timed.add_run_message(user_id, run_id, OURS, asking("call"), []),
        lambda: timed.end_run(user_id, run_id, OURS, "done", [said("mine")]),
    ]
    for attempt in late:
        with pytest.raises(Conflict, match="taken this answer over"):
            await attempt()  # type: ignore[misc]
    assert await last_seq(timed, user_id, session_id) == 1


async def test_calls_that_a_crash_left_open_are_unknown_with_their_arguments(
    timed: ChatService, clock: Clock, user_id: UserId
) -> None:
    run_id, session_id = run_of(await timed.begin_run(user_id, question(), OURS))
    calls = [
        RunCall(tool_call_id=f"call-{number}", server_name="files", tool_name="read", arguments={"n": number})
        for number in range(3)
    ]
    message = await timed.add_run_message(user_id, run_id, OURS, asking("call-0", "call-1", "call-2"), calls)
    recorded = done(tool_call_id="call-0", message_seq=message["seq"])
    await timed.add_tool_usage(user_id, session_id, recorded)
    clock.move(31)
    for _ in range(2):
        await timed.begin_run(user_id, question(), THEIRS)
    found = (await timed.get_session_tool_usage(user_id, session_id))["tool_usages"][::-1]
    assert [(usage["tool_call_id"], usage["status"]) for usage in found] == [
        ("call-0", "success"),
        ("call-1", "unknown"),
        ("call-2", "unknown"),
    ]
    assert [usage["arguments"] for usage in found[1:]] == [{"n": 1}, {"n": 2}]
    assert {(usage["error"], usage["message_seq"], usage["server_name"]) for usage in found[1:]} == {(LOST, 2, "files")}


async def test_a_session_has_one_answer_at_a_time(timed: ChatService, clock: Clock, user_id: UserId) -> None:
    session_id = await new_session(timed, user_id)
    run_id, _ = run_of(await timed.begin_run(user_id, question("first", session_id), OURS))
    with pytest.raises(Conflict, match="Another answer"):
        await timed.begin_run(user_id, question("second", session_id), OURS)
    assert await last_seq(timed, user_id, session_id) == 1
    await timed.end_run(user_id, run_id, OURS, "failed", [said("broken off")])
    second, _ = run_of(await timed.begin_run(user_id, question("second", session_id), OURS))
    with pytest.raises(Conflict, match="Another answer"):
        await timed.begin_run(user_id, question("first", session_id), OURS)
    await timed.end_run(user_id, second, OURS, "done", [said("answered")], {})
    again = await timed.begin_run(user_id, question("first", session_id), OURS)
    assert (again["id"], again["state"], again["message_seq"]) == (run_id, "running", 1)


async def test_an_answer_that_was_left_is_not_taken_over_beside_another(
    timed: ChatService, clock: Clock, user_id: UserId
) -> None:
    session_id = await new_session(timed, user_id)
    first, _ = run_of(await timed.begin_run(user_id, question("first", session_id), THEIRS))
    clock.move(THEIRS.seconds + 1)
    second, _ = run_of(await timed.begin_run(user_id, question("second", session_id), OURS))
    with pytest.raises(Conflict, match="Another answer"):
        await timed.begin_run(user_id, question("first", session_id), THEIRS)
    await timed.end_run(user_id, second, OURS, "done", [said("answered")], {})
    assert (await timed.begin_run(user_id, question("first", session_id), THEIRS))["id"] == first


async def test_a_deleted_session_takes_its_runs_along(service: ChatService, user_id: UserId) -> None:
    run_id, session_id = run_of(await service.begin_run(user_id, question(), OURS))
    await service.delete_session(user_id, session_id)
    assert (await service.begin_run(user_id, question(), OURS))["id"] != run_id
