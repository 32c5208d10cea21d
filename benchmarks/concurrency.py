"""Appending side by side: many tasks of one process, and several processes on one file."""

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from benchmarks.append import append_to, message_of
from benchmarks.databases import Databases, Place
from benchmarks.measure import Load, Timings, in_turn, rates_in_turn
from benchmarks.report import Column, Report, Table, timings_table
from benchmarks.scale import Scale
from benchmarks.ungrouped import Ungrouped
from benchmarks.wire import ROOT
from chat_service.service import ChatService
from models.database import Database
from models.ids import SessionId

_TASKS = (1, 16, 64)
_PROCESSES = 4


async def run(databases: Databases, scale: Scale) -> Report:
    """Measure all of it."""
    report = Report()
    for part in (_lone_caller, _side_by_side, _from_processes):
        await part(databases, scale, report)
    return report


async def _lone_caller(databases: Databases, scale: Scale, report: Report) -> None:
    async with AsyncExitStack() as stack:
        place, other = databases.large("service"), databases.large("ungrouped")
        grouped = ChatService(await stack.enter_async_context(Database(place.url)))
        alone = ChatService(await stack.enter_async_context(Ungrouped(other.url)))
        takes = {
            "a commit for each": append_to(alone, other, [other.long]),
            "group commit": append_to(grouped, place, [place.long]),
        }
        timings = await in_turn(takes, scale.rounds * 2, scale.calls)
    floors = dict.fromkeys(takes, "a commit for each")
    report.tables.append(timings_table("What a lone caller pays for group commit", timings, floors))
    report.figures["append.lone"] = timings["group commit"].over(timings["a commit for each"])


async def _side_by_side(databases: Databases, scale: Scale, report: Report) -> None:
    columns = (
        *(Column("appends/s"), Column("indexed too"), Column("ungrouped/s"), Column("× ungrouped", 2)),
        *(Column("p99 ms", 1), Column("ungrouped p99 ms", 1)),
    )
    table = Table("Concurrent tasks of one process, group commit against a commit for each", columns)
    async with AsyncExitStack() as stack:
        grouped_place, alone_place = databases.large("service"), databases.large("ungrouped")
        database = await stack.enter_async_context(Database(grouped_place.url))
        grouped = ChatService(database)
        alone = ChatService(await stack.enter_async_context(Ungrouped(alone_place.url)))

        async def index() -> None:
            while not await database.index():
                continue

        for tasks in _TASKS:
            for figure, what, sessions in (
                ("one", "one session", [grouped_place.others[-1]] * tasks),
                ("each", "a session each", grouped_place.others[:tasks]),
            ):
                loads: dict[str, Load] = {
                    "grouped": _load(grouped, grouped_place, sessions),
                    "alone": _load(alone, alone_place, sessions),
                }
                rates = await rates_in_turn(loads, scale.turns, scale.seconds, index)
                one, other = rates["grouped"], rates["alone"]
                ratio = one.over(other)
                report.figures[f"append.tasks.{tasks}.{figure}"] = ratio
                longest = [each.timings.percentile(99) * 1e3 for each in (one, other)]
                seen = (one.per_second, one.settled_per_second, other.per_second, ratio)
                table.rows.append([f"{tasks} tasks, {what}", *seen, *longest])
    report.tables.append(table)


async def _from_processes(databases: Databases, scale: Scale, report: Report) -> None:
    place = databases.small("processes")
    seen = await _contend(place, scale.process_seconds)
    counts = [len(each["seconds"]) for each in seen]
    errors = sum(each["errors"] for each in seen)
    timings = Timings([each["seconds"] for each in seen])
    fairness, longest = min(counts) / max(counts), timings.percentile(100)
    columns = (
        *(Column("appends/s"), Column("errors"), Column("slowest/fastest", 2)),
        *(Column("p99 ms", 1), Column("longest ms")),
    )
    table = Table(f"{_PROCESSES} processes on one file and one session, {scale.process_seconds:.0f} seconds", columns)
    rate = sum(counts) / scale.process_seconds
    table.rows.append(["ChatService", rate, errors, fairness, timings.percentile(99) * 1e3, longest * 1e3])
    report.tables.append(table)
    report.figures.update(
        {
            "append.processes.errors": errors,
            "append.processes.fairness": fairness,
            "append.processes.longest": longest,
        }
    )


async def _contend(place: Place, seconds: float) -> list[dict[str, Any]]:
    """Let processes append to one session at the same time, for so many seconds, and return what each saw."""
    order = json.dumps({"url": place.url, "user": place.user_id, "session": place.others[0], "seconds": seconds})
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.contender", order),
            cwd=ROOT,
            env=dict(os.environ),
            stdin=PIPE,
            stdout=PIPE,
            limit=2**26,
        )
        for _ in range(_PROCESSES)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
        answers = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return [json.loads(output) for output, _ in answers]


def _load(service: ChatService, place: Place, sessions: Sequence[SessionId]) -> Load:
    """Make the load of a task for each of the sessions named."""

    async def load(seconds: float) -> list[float]:
        end = time.perf_counter() + seconds
        taken: list[float] = []

        async def task(session: SessionId) -> None:
            number = 0
            while (began := time.perf_counter()) < end:
                await service.add_message(place.user_id, session, message_of(number))
                taken.append(time.perf_counter() - began)
                number += 1

        await asyncio.gather(*map(task, sessions))
        return taken

    return load
