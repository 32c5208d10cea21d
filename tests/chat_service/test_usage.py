"""Usage: what answers cost and which tools were called, each entry counted once, held against plain Python."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from chat_service.service import ChatService
from chat_service.sessions import digest_of
from models.database import Database
from models.errors import ChatError, Conflict, Invalid, NotFound
from models.ids import SessionId, UserId, new_id
from models.inputs import NewMessage, TimeRange, Usage
from tests.chat_service.summaries import COUNTS, summary_of_tokens, summary_of_tools
from tests.chat_service.transcripts.support import SHORT, history_of, sessions_of, take_in, write_codex
from tests.conftest import url_of
from tests.support import PROPERTY, Serving, done, new_session, new_user, said, serving

pytestmark = pytest.mark.anyio

MOST = 2**53 - 1
GROUPS = ("model", "day", "session")


@pytest.fixture
def service(database: Database) -> ChatService:
    return ChatService(database)


@pytest.fixture
async def user_id(service: ChatService) -> UserId:
    return await new_user(service)


def answer(*counts: int | None, **more: Any) -> NewMessage:
    """Make an answer with what it cost, in the order of `COUNTS`, without figures where none is given."""
    has_figures = any(count is not None for count in counts)
    usage = Usage(**dict(zip(COUNTS, counts, strict=False))) if has_figures else None
    return NewMessage(**{"role": "assistant", "content": "answer", "usage": usage} | more)


COUNTED = st.none() | st.sampled_from([0, 1, MOST]) | st.integers(0, MOST)
MESSAGES = st.builds(
    answer,
    *[COUNTED] * len(COUNTS),
    model=st.sampled_from([None, "small", "large", "\x1b[2J"]),
    role=st.sampled_from(["assistant", "assistant", "user"]),
    author=st.sampled_from(["agent", "import"]),
    message_metadata=st.none()
    | st.datetimes(datetime(1970, 1, 3), datetime(9990, 1, 1), timezones=st.just(UTC)).map(
        lambda moment: {"timestamp": moment.isoformat()}
    ),
)
CALLS = st.builds(
    done,
    st.sampled_from(["read", "write"]),
    server_name=st.sampled_from([None, "files"]),
    status=st.sampled_from(["success", "error", "unknown", "cancelled"]),
    duration_ms=st.none() | st.integers(0, 2**30).map(float),
    started_at=st.none() | st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("message"), st.integers(0, 9), MESSAGES),
        st.tuples(st.just("call"), st.integers(0, 9), CALLS),
        st.tuples(
            st.sampled_from(["start", "fork", "merge", "delete", "import"]), st.integers(0, 9), st.integers(0, 9)
        ),
    ),
    max_size=25,
)


class _World:
    """A record that steps are made in; what a step cannot do, it leaves."""

    def __init__(self, world: Serving) -> None:
        self.service, self._run = world.service, world.runner.run
        self.user_id = self._run(new_user(self.service, f"user-{new_id()}"))
        self._imported = 0
        self._take("start", 0, 0)

    def take(self, step: tuple[str, int, Any]) -> None:
        with suppress(ChatError):
            self._take(*step)

    def own_entries(self) -> list[Any]:
        """Return each entry once: what a session shows of another one is that one's."""
        self._run(self.service.finish_deletions())
        return [
            entry
            for session in self._sessions()
            for entry in self.entries_of(session)
            if entry["session_id"] == session
        ]

    def entries_of(self, session_id: SessionId) -> list[Any]:
        return self._run(history_of(self.service, self.user_id, session_id))

    def _sessions(self) -> list[SessionId]:
        return [SessionId(each["id"]) for each in self._run(sessions_of(self.service, self.user_id))]

    sessions = property(_sessions)

    def _take(self, what: str, which: int, given: Any) -> None:
        sessions = self._sessions()
        if what == "start" or not sessions:
            self._run(new_session(self.service, self.user_id))
            return
        session_id = sessions[which % len(sessions)]
        match what:
            case "message":
                self._run(self.service.add_message(self.user_id, session_id, given))
            case "call":
                self._run(self.service.add_tool_usage(self.user_id, session_id, given))
            case "fork":
                self._run(self.service.fork_session(self.user_id, session_id))
            case "merge":
                self._run(self.service.merge_sessions(self.user_id, session_id, sessions[given % len(sessions)]))
            case "delete":
                self._run(self.service.delete_session(self.user_id, session_id))
            case _:
                self._imported += given % 2
                text = codex(counted(1, 2), counted(10, 30, cached_input_tokens=7), session=f"s-{self._imported}")
                self._run(take_in(self.service, self.user_id, "codex", text))


def counted(input_tokens: int, output_tokens: int, *, says: bool = True, **more: Any) -> list[dict[str, Any]]:
    """Write an answer of Codex, and the count of the whole session that follows it."""
    text = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "done"}]}
    total = {"input_tokens": input_tokens, "output_tokens": output_tokens, "total_tokens": 10**6, **more}
    count = {"type": "token_count", "info": {"total_token_usage": total}}
    answers = [{"type": "response_item", "payload": text}] if says else []
    return [*answers, {"type": "event_msg", "payload": count}]


def codex(*answers: list[dict[str, Any]], session: str = "s-1") -> str:
    head = [{"type": "session_meta", "payload": {"id": session}}, {"type": "turn_context", "payload": {"model": "gpt"}}]
    lines = [*head, *(line for each in answers for line in each)]
    moments = (f"2026-01-31T23:{number // 60:02}:{number % 60:02}Z" for number in range(len(lines)))
    return "".join(json.dumps({"timestamp": at} | line) + "\n" for at, line in zip(moments, lines, strict=True))


def named(summary: Any) -> dict[str, Any]:
    """Return a summary with its totals by name."""
    totals = [dict(total) for total in summary["totals"]]
    return {**summary, "totals": {total.pop("name"): total for total in totals}}


def test_summaries_are_those_of_the_exported_history_whatever_became_of_it(tmp_path: Path) -> None:
    with serving(tmp_path) as world:

        @settings(PROPERTY, max_examples=25)
        @given(STEPS, st.sampled_from([-720, -61, 0, 330, 840]))
        def check(steps: list[tuple[str, int, Any]], offset: int) -> None:
            made = _World(world)
            for step in steps:
                made.take(step)
            run, service, user_id = world.runner.run, world.service, made.user_id
            shown = [(None, made.own_entries())]
            shown += [(session, made.entries_of(session)) for session in made.sessions[:2]]
            for session_id, entries in shown:
                calls = [entry for entry in entries if "tool_name" in entry]
                assert run(service.summarize_tool_usage(user_id, session_id)) == summary_of_tools(calls)
                messages = [entry for entry in entries if "message_type" in entry]
                for by in GROUPS:
                    summary = run(service.summarize_token_usage(user_id, session_id, by, None, offset))  # type: ignore[arg-type]
                    assert named(summary) == summary_of_tokens(messages, by, offset)

        check()


async def test_what_a_fork_inherits_is_its_parents_in_all_and_its_own_in_a_look_at_it(
    service: ChatService, user_id: UserId
) -> None:
    parent_id = await new_session(service, user_id)
    await service.add_message(user_id, parent_id, answer(1, 2))
    fork_id = SessionId((await service.fork_session(user_id, parent_id))["id"])
    await service.add_message(user_id, fork_id, answer(10, 20))
    everything = named(await service.summarize_token_usage(user_id, by="session"))
    assert everything["totals"][parent_id]["input_tokens"] == 1
    assert everything["totals"][fork_id]["input_tokens"] == 10
    assert (await service.summarize_token_usage(user_id, fork_id))["input_tokens"] == 11


async def test_an_answer_without_figures_is_told_apart_from_one_that_cost_nothing(
    service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    answers = [answer(), answer(0, 0), answer(None, 3), answer(None, None, 4), said("a question")]
    await service.add_messages(user_id, session_id, answers)
    summary = await service.summarize_token_usage(user_id)
    assert (summary["messages"], summary["without_figures"]) == (4, 1)
    assert (summary["input_tokens"], summary["output_tokens"], summary["cache_read_tokens"]) == (0, 3, 4)


async def test_totals_go_by_all_tokens_wherever_the_provider_counts_those_of_its_cache(
    service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    answers = [
        answer(1_000, 10, model="without a cache"),
        answer(4, 1, 30_000, 2_000, model="cache beside"),
        answer(20_000, 5, 19_000, model="cache within"),
    ]
    await service.add_messages(user_id, session_id, answers)
    names = [total["name"] for total in (await service.summarize_token_usage(user_id))["totals"]]
    assert names == ["cache beside", "cache within", "without a cache"]


def test_an_answer_without_the_counts_of_a_cache_has_the_digest_that_it_had_before_there_were_any() -> None:
    # Keys of messages that are stored already are compared by these digests.
    known = NewMessage(role="assistant", content="yes", usage=Usage(input_tokens=3, output_tokens=5))
    assert digest_of(known).hex() == "0eb6682f0d23d8c0cb53f4ac6cc00f24"
    assert digest_of(known.model_copy(update={"usage": Usage()})).hex() == "c50af66f68cc994e3fb5bb19d66c0206"


async def test_a_key_is_used_again_where_a_count_of_the_cache_differs(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    first = await service.add_message(user_id, session_id, answer(1, 2, 3, idempotency_key="k"))
    assert await service.add_message(user_id, session_id, answer(1, 2, 3, idempotency_key="k")) == first
    for other in (answer(1, 2, idempotency_key="k"), answer(1, 2, 4, idempotency_key="k")):
        with pytest.raises(Conflict):
            await service.add_message(user_id, session_id, other)


async def test_sums_beyond_what_the_database_can_hold_are_exact(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    for _ in range(5):
        await service.add_messages(user_id, session_id, [answer(*[MOST] * len(COUNTS))] * 500)
    summary: Any = await service.summarize_token_usage(user_id)
    assert {summary[name] for name in COUNTS} == {summary["totals"][0][name] for name in COUNTS} == {2_500 * MOST}
    assert 2_500 * MOST > 2**63


@pytest.mark.parametrize(
    ("now", "offset", "day"),
    [
        ("2026-01-31T23:59:59.999999Z", 0, "2026-01-31"),
        ("2026-02-01T00:00:00.000000Z", 0, "2026-02-01"),
        ("2026-01-31T23:59:59.999999Z", 1, "2026-02-01"),
        ("2026-02-01T00:00:00.000000Z", -1, "2026-01-31"),
        ("2024-02-29T10:00:00.000000Z", 840, "2024-03-01"),
        ("1969-12-31T23:59:59.999999Z", 0, "1969-12-31"),
        ("1970-01-01T00:00:00.000000Z", -720, "1969-12-31"),
        ("0001-01-01T00:00:00.000000Z", -720, "0001-01-01"),
        ("9999-12-31T23:59:59.999999Z", 840, "9999-12-31"),
    ],
)
async def test_a_day_begins_at_midnight_of_the_offset(database: Database, now: str, offset: int, day: str) -> None:
    service = ChatService(database, clock=lambda: now)
    user_id = await new_user(service)
    await service.add_message(user_id, await new_session(service, user_id), answer(1, 1))
    summary = await service.summarize_token_usage(user_id, by="day", utc_offset_minutes=offset)
    assert [total["name"] for total in summary["totals"]] == [day]


@pytest.mark.parametrize(
    "timestamp", ["now", "2460000.5", "2026-13-45T99:00:00Z", "", None, 7, {"a": 1}, "0000-01-01T0"]
)
async def test_an_import_whose_time_is_none_counts_when_it_was_stored(database: Database, timestamp: Any) -> None:
    service = ChatService(database, clock=lambda: "2001-02-03T04:05:06.000000Z")
    user_id = await new_user(service)
    imported = answer(1, 1, author="import", message_metadata={"timestamp": timestamp})
    await service.add_message(user_id, await new_session(service, user_id), imported)
    summary = await service.summarize_token_usage(user_id, by="day")
    assert [total["name"] for total in summary["totals"]] == ["2001-02-03"]


async def test_a_range_has_its_beginning_and_not_its_end(database: Database) -> None:
    moment = datetime(2026, 1, 31, 12, tzinfo=UTC)
    service = ChatService(database, clock=lambda: "2026-01-31T12:00:00.000000Z")
    user_id = await new_user(service)
    session_id = await new_session(service, user_id)
    await service.add_message(user_id, session_id, answer(1, 1))
    await service.add_tool_usage(user_id, session_id, done())
    late = timedelta(microseconds=1)
    for times, count in (
        (TimeRange(since=moment), 1),
        (TimeRange(since=moment + late), 0),
        (TimeRange(until=moment), 0),
        (TimeRange(since=moment - late, until=moment + late), 1),
    ):
        assert (await service.summarize_token_usage(user_id, times=times))["messages"] == count
        assert (await service.summarize_tool_usage(user_id, times=times))["calls"] == count


async def test_what_cannot_be_is_refused_by_name(service: ChatService, user_id: UserId) -> None:
    moment = datetime(2026, 1, 31, tzinfo=UTC)
    bad: Any = "colour"
    with pytest.raises(Invalid, match=r"^by must be one of model, day, session"):
        await service.summarize_token_usage(user_id, by=bad)
    for offset in (-721, 841, 2**70):
        with pytest.raises(Invalid, match=r"^utc_offset_minutes must be between"):
            await service.summarize_token_usage(user_id, utc_offset_minutes=offset)
    with pytest.raises(ValidationError, match="until is not after since"):
        TimeRange(since=moment, until=moment)
    with pytest.raises(ValidationError, match="has no time zone"):
        TimeRange(since=datetime(2026, 1, 31))
    with pytest.raises(NotFound):
        await service.summarize_token_usage(UserId(new_id()))


async def test_percentiles_are_durations_that_were_measured_of_each_server_by_itself(
    service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    for number in range(20):
        await service.add_tool_usage(user_id, session_id, done(duration_ms=(number * 7) % 20 + 1))
    for status in ("unknown", "success"):
        await service.add_tool_usage(user_id, session_id, done(status=status))
    await service.add_tool_usage(user_id, session_id, done(server_name="files"))
    read, of_files = (await service.summarize_tool_usage(user_id))["tools"]
    assert (read["calls"], read["unknown"], read["total_duration_ms"]) == (22, 1, 210.0)
    assert (read["p50_duration_ms"], read["p95_duration_ms"]) == (10.0, 19.0)
    assert (of_files["server_name"], of_files["calls"], of_files["p50_duration_ms"]) == ("files", 1, None)


async def test_more_models_than_fit_are_counted(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    await service.add_messages(user_id, session_id, [answer(number, 0, model=f"m-{number}") for number in range(402)])
    summary = await service.summarize_token_usage(user_id)
    assert (summary["messages"], len(summary["totals"]), summary["left_out"]) == (402, 400, 2)
    assert summary["totals"][0]["name"] == "m-401"
    assert summary["input_tokens"] == sum(range(402))


# What imports say


async def test_codex_tells_the_sum_so_far_and_each_answer_gets_what_it_added(
    service: ChatService, user_id: UserId
) -> None:
    again = counted(30, 5, says=False)
    text = codex(counted(10, 2), counted(30, 5), again, counted(31, 105))
    lines = text.splitlines(keepends=True)
    for end in range(1, len(lines) + 1):
        await take_in(service, user_id, "codex", "".join(lines[:end]))
    [session] = await sessions_of(service, user_id)
    usages = [entry["usage"] for entry in await history_of(service, user_id, session["id"])]
    added = [(10, 2), (20, 3), (1, 100)]
    assert usages == [{"input_tokens": more_in, "output_tokens": more_out} for more_in, more_out in added]
    summary = await service.summarize_token_usage(user_id, by="day")
    assert (summary["input_tokens"], summary["output_tokens"], summary["without_figures"]) == (31, 105, 0)
    assert [total["name"] for total in summary["totals"]] == ["2026-01-31"]


async def test_codex_tells_of_its_cache_and_of_reasoning_in_sums_as_well(service: ChatService, user_id: UserId) -> None:
    text = codex(
        counted(10, 2),
        counted(30, 50, cached_input_tokens=8, reasoning_output_tokens=40, cache_write_input_tokens=2),
        counted(70, 95, cached_input_tokens=28, reasoning_output_tokens=40, cache_write_input_tokens=1),
        counted(80, 96),
        counted(90, 97, cached_input_tokens=30, reasoning_output_tokens=41, cache_write_input_tokens=2),
        counted(5, 3, cached_input_tokens=4, reasoning_output_tokens=0, cache_write_input_tokens=0),
    )
    await take_in(service, user_id, "codex", text)
    [session] = await sessions_of(service, user_id)
    usages = [entry["usage"] for entry in await history_of(service, user_id, session["id"])]
    added: list[tuple[int, ...]] = [(10, 2), (20, 48, 8, 2, 40), (40, 45, 20, 0, 0), (10, 1), (10, 1, 2, 0, 1)]
    added.append((5, 3, 4, 0, 0))
    assert usages == [dict(zip(COUNTS, counts, strict=False)) for counts in added]


async def test_codex_gives_the_cost_of_an_answer_of_several_parts_to_the_last(
    service: ChatService, user_id: UserId
) -> None:
    first, count = counted(7, 9)
    await take_in(service, user_id, "codex", codex([first, first, count]))
    [session] = await sessions_of(service, user_id)
    usages = [entry["usage"] for entry in await history_of(service, user_id, session["id"])]
    assert usages == [{"input_tokens": 0, "output_tokens": 0}, {"input_tokens": 7, "output_tokens": 9}]


async def test_codex_without_counts_or_with_odd_ones_costs_what_nobody_knows(
    service: ChatService, user_id: UserId
) -> None:
    first, _ = counted(0, 0)
    odd: list[Any] = [None, [], {"total_token_usage": None}, {"total_token_usage": {"input_tokens": -1}}]
    counts = [{"type": "event_msg", "payload": {"type": "token_count", "info": info}} for info in odd]
    await take_in(service, user_id, "codex", codex([first, *counts]))
    await take_in(service, user_id, "codex", write_codex(SHORT))
    summary = await service.summarize_token_usage(user_id)
    assert summary["messages"] == summary["without_figures"] > 0


async def test_figures_outlive_the_database_they_were_noted_in(tmp_path: Path) -> None:
    async with Database(url_of(tmp_path / "one.db")) as database:
        service = ChatService(database)
        user_id = await new_user(service)
        await take_in(service, user_id, "codex", codex(counted(10, 2), counted(30, 5)))
    async with Database(url_of(tmp_path / "one.db")) as database:
        summary = await ChatService(database).summarize_token_usage(user_id)
        assert (summary["totals"][0]["name"], summary["input_tokens"]) == ("gpt", 30)
