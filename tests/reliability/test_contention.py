"""Eight and sixteen processes that append to one file at the same time, one append after the other in each.

Nobody is told that the file is locked, numbers are dense, and each process finds its own entries in its own order. How
long an append waited is written down and not judged. A process that opens the file meanwhile is not refused either.
"""

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import url_of
from tests.reliability.processes import (
    Appending,
    ServiceWriter,
    Task,
    check_acknowledged,
    check_health,
    contents_of,
    new_record,
    stored_in,
)
from tests.reliability.scale import JOURNALS, figure, library_for, make_ready, patient, scale
from tests.reliability.writer import Contention, Opening, Place, contend, open_once

pytestmark = patient


@pytest.mark.parametrize("journal", JOURNALS)
def test_eight_processes_append_to_one_session_without_a_refusal(tmp_path: Path, journal: str) -> None:
    _append_together(tmp_path / "chat.db", journal, processes=8, sessions=1, appends=_appends(journal))


@pytest.mark.parametrize("journal", JOURNALS)
def test_eight_processes_append_to_a_session_each_without_a_refusal(tmp_path: Path, journal: str) -> None:
    _append_together(tmp_path / "chat.db", journal, processes=8, sessions=8, appends=_appends(journal))


@pytest.mark.parametrize("journal", JOURNALS)
def test_sixteen_processes_append_to_one_session_without_a_refusal(tmp_path: Path, journal: str) -> None:
    _append_together(tmp_path / "chat.db", journal, processes=16, sessions=1, appends=_appends(journal) // 4)


@pytest.mark.parametrize("journal", JOURNALS)
def test_processes_open_a_file_that_others_write_to_without_a_refusal(tmp_path: Path, journal: str) -> None:
    path = tmp_path / "chat.db"
    url = url_of(path)
    make_ready(journal, path)
    session_ids = new_record(url, journal, 3)
    place = Place(url, library_for(journal).__name__)
    with ExitStack() as ending:
        appendings = []
        for number, session_id in enumerate(session_ids):
            writer = ServiceWriter(place)
            ending.callback(writer.kill)
            appendings.append(Appending(writer, session_id, f"w{number}"))
        for appending in appendings:
            appending.allow(1_000_000)
        for appending in appendings:
            appending.wait_for(1)
        for _ in range(scale(10, 100)):
            openings = []
            for _ in range(4):
                opening = Task(open_once, place)
                ending.callback(opening.close)
                openings.append(opening)
            for opening in openings:
                assert opening.receive() == "ready"
                opening.order("open")
            found = [opening.receive() for opening in openings]
            assert [each for each in found if not isinstance(each, Opening)] == []
        for appending in appendings:
            appending.stop()
            appending.wait_for_all()
            assert appending.refused == {}
            assert appending.unknown == []
    for appending, session_id in zip(appendings, session_ids, strict=True):
        check_acknowledged(stored_in(url, journal, session_id), appending.acknowledged)
    check_health(url)


def _appends(journal: str) -> int:
    # A rollback journal is synced three times for each commit, so fewer of them are made in the same time.
    return scale(500, 10_000) if journal == "wal" else scale(100, 10_000)


def _append_together(path: Path, journal: str, processes: int, sessions: int, appends: int) -> None:
    url = url_of(path)
    make_ready(journal, path)
    session_ids = new_record(url, journal, sessions)
    chosen = [session_ids[number % sessions] for number in range(processes)]
    place = Place(url, library_for(journal).__name__)
    with ExitStack() as ending:
        tasks = []
        for number, session_id in enumerate(chosen):
            task = Task(contend, place, session_id, f"p{number}", appends)
            ending.callback(task.close)
            tasks.append(task)
        for task in tasks:
            assert task.receive() == "ready"
        for task in tasks:
            task.order("begin")
        results: list[Contention] = [task.receive() for task in tasks]
    assert [result.refusals for result in results] == [[] for _ in results]
    for session_id in session_ids:
        contents = contents_of(url, journal, session_id)
        writers = [number for number, its in enumerate(chosen) if its == session_id]
        assert len(contents) == len(writers) * appends
        for number in writers:
            seqs = results[number].seqs
            assert seqs == sorted(seqs)
            assert [contents[seq - 1] for seq in seqs] == [f"p{number} {append}" for append in range(appends)]
    check_health(url)
    waits = sorted(seconds for result in results for seconds in result.seconds)
    name = f"contention: {processes} processes, {sessions} sessions, {appends} appends each"
    figure(f"{name}: median seconds", waits[len(waits) // 2], journal)
    figure(f"{name}: p99 seconds", waits[len(waits) * 99 // 100], journal)
    figure(f"{name}: longest seconds", waits[-1], journal)
