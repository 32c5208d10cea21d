"""Writers on one session that are killed with SIGKILL in mid-append, and what they had acknowledged.

Two or three writers append to one session, several calls in flight in each. In each round one or more of them are
killed, at a moment drawn at random; a new one takes each one's place, and first sends every call again whose outcome
nobody knows, under the same idempotency keys. Now and then the new one is killed while it starts or sends again.

The writers of the first test are real servers on pipes, those of the second are processes with a ChatService of their
own, which start fast enough for many more kills: 10 and 40 kills for each journal, half of them among two writers
and half among three.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import url_of
from tests.reliability.processes import (
    Appending,
    Batch,
    ServerWriter,
    ServiceWriter,
    Writer,
    check_acknowledged,
    check_batches,
    check_health,
    new_record,
    stored_in,
)
from tests.reliability.scale import (
    JOURNALS,
    dice,
    environment_for,
    figure,
    library_for,
    make_ready,
    patient,
    scale,
    seed,
)
from tests.reliability.writer import Place

pytestmark = patient

APPENDS_IN_A_ROUND = 40


class Killing:
    """A crowd of writers on one session, killed and replaced, and the book of all that any of them acknowledged."""

    def __init__(self, url: str, journal: str, start: Callable[[], Writer]) -> None:
        self._url, self._journal = url, journal
        seed()
        (self._session_id,) = new_record(url, journal)
        self._start = start
        self._random = dice("kill")
        self._started = 0
        self._running: list[Appending] = []
        self._gone: list[Appending] = []
        self._stored: dict[str, int] = {}
        self.kills = 0
        self.unknown = 0
        self.committed_unknown = 0

    def run(self, writers: int, kills: int) -> None:
        """Kill so many times among so many writers, and let the last ones finish what is left."""
        try:
            self._running = [self._new() for _ in range(writers)]
            while self.kills < kills:
                self._round(kills - self.kills)
            for appending in self._running:
                appending.allow(APPENDS_IN_A_ROUND)
            for appending in self._running:
                appending.wait_for_all()
                assert appending.unknown == []
                appending.writer.end()
        except BaseException:
            for appending in self._running:
                appending.writer.kill()
            raise

    def check(self) -> None:
        """Nothing acknowledged is lost, nothing is stored twice, seq is dense, and the file is sound."""
        stored = stored_in(self._url, self._journal, self._session_id)
        acknowledged: dict[Batch, list[int]] = {}
        for appending in [*self._gone, *self._running]:
            assert appending.refused == {}
            for batch, seqs in appending.acknowledged.items():
                assert acknowledged.setdefault(batch, seqs) == seqs
        check_acknowledged(stored, acknowledged)
        # All that was ever begun has been acknowledged in the end, and nothing else is there.
        assert sum(map(len, acknowledged)) == len(stored)
        check_health(self._url)
        assert self.unknown > 0
        for name in ("kills", "unknown", "committed_unknown"):
            figure(f"kill: {name.replace('_', ' ')}", getattr(self, name), self._journal)
        figure("kill: acknowledged messages", len(stored), self._journal)

    def _round(self, most: int) -> None:
        if self._random.random() < 0.8:
            # In the other rounds they are killed while they start, or send again what an earlier one had begun.
            for appending in self._running:
                appending.wait_for(1)
        victims = self._random.sample(self._running, min(self._random.randint(1, len(self._running)), most))
        moments = [(self._random.randrange(12), self._random.uniform(0, 0.02)) for _ in victims]
        with ThreadPoolExecutor(len(victims)) as killers:
            killed = [
                killers.submit(_kill, victim, len(victim.acknowledged) + acknowledged, seconds)
                for victim, (acknowledged, seconds) in zip(victims, moments, strict=True)
            ]
            for appending in self._running:
                appending.allow(APPENDS_IN_A_ROUND)
            for each in killed:
                each.result()
        self.kills += len(victims)
        self._stored = stored_in(self._url, self._journal, self._session_id, self._stored)
        for victim in victims:
            unknown = victim.unknown
            self.unknown += len(unknown)
            self.committed_unknown += check_batches(self._stored, unknown)
            self._gone.append(victim)
            self._running[self._running.index(victim)] = self._new(unknown)

    def _new(self, first: list[Batch] | None = None) -> Appending:
        self._started += 1
        name = f"w{self._started}"
        appending = Appending(self._start(), self._session_id, name, first=first or ())
        appending.allow(1)
        return appending


def _kill(victim: Appending, acknowledged: int, seconds: float) -> None:
    victim.wait_for(acknowledged)
    # A moment drawn at random, not a wait for something.
    threading.Event().wait(seconds)
    victim.writer.kill()


@pytest.mark.parametrize("writers", [2, 3])
@pytest.mark.parametrize("journal", JOURNALS)
def test_killed_servers_lose_nothing_acknowledged_and_retries_store_nothing_twice(
    tmp_path: Path, journal: str, writers: int
) -> None:
    url = url_of(tmp_path / "chat.db")
    make_ready(journal, tmp_path / "chat.db")
    environment = environment_for(journal, tmp_path)
    killing = Killing(url, journal, lambda: ServerWriter(url, environment))
    killing.run(writers, scale(5, 50))
    killing.check()


@pytest.mark.parametrize("writers", [2, 3])
@pytest.mark.parametrize("journal", JOURNALS)
def test_killed_services_lose_nothing_acknowledged_and_retries_store_nothing_twice(
    tmp_path: Path, journal: str, writers: int
) -> None:
    url = url_of(tmp_path / "chat.db")
    make_ready(journal, tmp_path / "chat.db")
    place = Place(url, library_for(journal).__name__)
    killing = Killing(url, journal, lambda: ServiceWriter(place))
    killing.run(writers, scale(20, 450))
    killing.check()
