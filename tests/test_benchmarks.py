"""The benchmarks: what they compare is the same work, and what they tell follows from what was timed."""

import asyncio
import shutil
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from benchmarks.append import append_to
from benchmarks.by_hand import by_hand
from benchmarks.databases import LENGTH, SHORT, Databases, text_of
from benchmarks.measure import Call, Rate, Timings, in_turn
from benchmarks.peers.speed import index_size
from benchmarks.report import Column, Table
from benchmarks.scale import SMALL
from benchmarks.targets import TARGETS, held_against
from benchmarks.ungrouped import Ungrouped
from chat_service.service import ChatService
from models.database import Database
from models.shapes import HistoryDict
from models.sqlite import choose_library
from models.sqlite_file import examine
from tests.support import last_seq, watch_commits

pytestmark = pytest.mark.anyio


def test_a_ratio_is_the_median_of_the_ratios_of_the_rounds() -> None:
    floor, other = Timings([[1.0], [10.0], [1.0]]), Timings([[2.0], [20.0], [9.0]])
    assert other.over(floor) == 2.0
    assert Rate([10.0, 1.0, 10.0], other).over(Rate([5.0, 0.5, 1.0], floor)) == 2.0


async def test_alternatives_are_called_by_turns() -> None:
    called = ""

    def named(name: str) -> Call:
        async def call() -> None:
            nonlocal called
            called += name

        return call

    timings = await in_turn({"a": named("a"), "b": named("b")}, rounds=3, calls=2)
    assert called.endswith("aabb" + "bbaa" + "aabb")
    assert [len(each) for each in timings["a"].rounds] == [2, 2, 2]


def test_what_must_be_reached_is_told_beside_what_was_seen() -> None:
    seen = {target.figure: target.bound for target in TARGETS}
    verdicts = {str(row[0]): row[3] for row in held_against(seen).rows}
    assert len(verdicts) == len(TARGETS) == len(seen)
    for target in TARGETS:
        assert verdicts[target.what] == ("NOT reached" if target.strictly else "reached")
        beyond = target.bound + (-0.001 if target.at_least else 0.001)
        assert held_against({target.figure: beyond}).rows[0][3] == "NOT reached"


def test_tables_are_the_same_for_a_terminal_and_a_page() -> None:
    table = Table("Appends", (Column("µs"), Column("×", 2)), [["by hand", 1234.5, 1.0], ["none", None, "–"]])
    assert [line.split() for line in table.to_text().splitlines()[2:]] == [
        ["by", "hand", "1,234", "1.00"],
        ["none", "–", "–"],
    ]
    assert table.to_markdown().splitlines()[-2:] == ["| by hand | 1,234 | 1.00 |", "| none | – | – |"]


async def test_the_index_is_weighed_whatever_the_name_of_the_file(tmp_path: Path) -> None:
    place = Databases(tmp_path, SMALL).small("tests")
    async with Database(place.url) as database:
        assert await database.index()
    store = tmp_path / "store"
    shutil.copyfile(place.path, store)
    assert 0 < index_size(store) == index_size(place.path) < store.stat().st_size // 2
    store.write_text("{}\n")
    assert index_size(store) == 0


async def test_the_databases_of_benchmarks_are_what_the_service_itself_would_have_written(tmp_path: Path) -> None:
    place = Databases(tmp_path, SMALL).small("tests")
    assert examine(place.path, choose_library())["integrity"] == "ok"
    assert len(text_of(0).encode()) == len(text_of(10**6).encode()) == LENGTH
    async with Database(place.url) as database:
        service = ChatService(database)
        total = 0
        for session_id in (place.long, place.short, *place.others):
            window = await service.get_session_history(place.user_id, session_id, 500)
            TypeAdapter(HistoryDict).validate_python(window, strict=True)
            assert [entry["seq"] for entry in window["entries"]] == list(range(1, window["session"]["last_seq"] + 1))
            total += len(window["entries"])
        assert total == 1_000
        assert await last_seq(service, place.user_id, place.short) == SHORT


async def test_the_floor_does_the_work_of_the_service(tmp_path: Path) -> None:
    databases = Databases(tmp_path, SMALL)
    mine, place = databases.small("hand"), databases.small("service")
    async with Database(place.url) as database:
        service = ChatService(database)
        with by_hand(mine.path) as hand:
            await hand.append(mine.short, [text_of(0)])
            await hand.append(mine.short, [text_of(number) for number in (0, 1)])
            floor = await hand.last(mine.short, 50)
            assert floor == await hand.all(mine.short)
        await append_to(service, place, [place.short])()
        await append_to(service, place, [place.short], 2)()
        window = await service.get_session_history(place.user_id, place.short)
    ours = [{name: dict(entry)[name] for name in ("seq", "kind", "content", "author")} for entry in window["entries"]]
    assert ours == [{name: row[name] for name in ("seq", "kind", "content", "author")} for row in floor]


async def test_ungrouped_means_a_commit_for_each(tmp_path: Path) -> None:
    place = Databases(tmp_path, SMALL).small("tests")
    async with Ungrouped(place.url) as database:
        append = append_to(ChatService(database), place, [place.short])
        commits = await watch_commits(database)
        await asyncio.gather(*(append() for _ in range(8)))
    assert len(commits) == 8
