"""The ways in which a server's life ends while calls are in flight, each with a real server on pipes.

The client closes stdin (EOF), the system sends SIGTERM or SIGINT, or the process that holds the pipes is killed. The
server is gone soon after, cleanly; everything that it had acknowledged is stored, what it refused is not, and each
batch is stored whole or not at all. Several servers on one file end at the same time. How long an end took is written
down; that it came at all is all that is asked here.
"""

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import pytest

from tests.conftest import url_of
from tests.reliability.processes import (
    Appending,
    ServerWriter,
    check_acknowledged,
    check_batches,
    check_health,
    new_record,
    stored_in,
)
from tests.reliability.scale import JOURNALS, dice, environment_for, figure, make_ready, patient, scale, seed

pytestmark = patient

TOGETHER = 4
GONE_WITHIN_SECONDS = 20
PARENT_DEATH = "parent death"
ENDINGS: dict[str, Callable[[ServerWriter], None]] = {
    "EOF": ServerWriter.end_input,
    "SIGTERM": lambda server: server.process.send_signal(signal.SIGTERM),
    "SIGINT": lambda server: server.process.send_signal(signal.SIGINT),
    # The process that we started is the parent here, not the server.
    PARENT_DEATH: lambda server: server.process.kill(),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("journal", JOURNALS)
def test_a_server_that_ends_in_mid_append_keeps_what_it_acknowledged(tmp_path: Path, journal: str, ending: str) -> None:
    seed()
    random = dice(f"{journal} {ending}")
    path = tmp_path / "chat.db"
    url = url_of(path)
    make_ready(journal, path)
    environment = environment_for(journal, tmp_path)
    acknowledged = in_flight = unanswered = stored_unanswered = 0
    seconds: list[float] = []
    for turn in range(scale(2, 16)):
        session_ids = new_record(url, journal, TOGETHER)
        with ExitStack() as closing:
            servers = []
            appendings = []
            for number, session_id in enumerate(session_ids):
                server = closing.enter_context(ServerWriter(url, environment, through_parent=ending == PARENT_DEATH))
                servers.append(server)
                appendings.append(Appending(server, session_id, f"t{turn}s{number}", most_messages=20))
            moments = [(random.randint(1, 30), random.uniform(0, 0.03)) for _ in appendings]
            with ThreadPoolExecutor(TOGETHER) as enders:
                ended = [
                    enders.submit(_end, appending, server, ending, *moment)
                    for appending, server, moment in zip(appendings, servers, moments, strict=True)
                ]
                for each in ended:
                    took, were_in_flight = each.result()
                    seconds.append(took)
                    in_flight += were_in_flight
        for appending, session_id in zip(appendings, session_ids, strict=True):
            stored = stored_in(url, journal, session_id)
            check_acknowledged(stored, appending.acknowledged)
            assert check_batches(stored, appending.refused) == 0
            stored_unanswered += check_batches(stored, appending.unknown)
            unanswered += len(appending.unknown)
            acknowledged += len(appending.acknowledged)
            assert set(stored) <= appending.begun_keys
        check_health(url)
    assert acknowledged > 0
    assert in_flight > 0
    figure(f"ending by {ending}: endings", len(seconds), journal)
    figure(f"ending by {ending}: longest seconds until gone", max(seconds), journal)
    figure(f"ending by {ending}: appends in flight", in_flight, journal)
    figure(f"ending by {ending}: unanswered appends", unanswered, journal)
    figure(f"ending by {ending}: unanswered appends that were stored", stored_unanswered, journal)


def _end(
    appending: Appending, server: ServerWriter, ending: str, acknowledged: int, seconds: float
) -> tuple[float, int]:
    """End the server at a moment drawn at random; return how many seconds it was still there, and calls in flight."""
    appending.allow(10_000)
    appending.wait_for(acknowledged)
    Event().wait(seconds)
    in_flight = len(appending.stop())
    began = time.perf_counter()
    ENDINGS[ending](server)
    assert server.wait_until_gone(GONE_WITHIN_SECONDS), f"still there after {GONE_WITHIN_SECONDS} s"
    took = time.perf_counter() - began
    if ending != PARENT_DEATH:
        assert server.process.returncode == 0, server.errors()
    assert "Traceback" not in server.errors(), server.errors()
    return took, in_flight
