"""Processes that open a fresh file at the same time: one creates it, all find it whole, nobody is refused.

Most are processes with a ChatService of their own, let loose together in waves of ten, each wave on a file of its own;
a last wave is of real servers, whose first call opens the record.
"""

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import select

from models.database import Database
from models.tables import SCHEMA_VERSION, users
from tests.conftest import url_of
from tests.reliability.processes import ServerWriter, Task, check_health
from tests.reliability.scale import FRESH_JOURNALS, environment_for, figure, library_for, patient, scale
from tests.reliability.writer import Opening, Place, open_once
from tests.server.support import WAIT_SECONDS

pytestmark = patient

TOGETHER = 10


@pytest.mark.parametrize("journal", FRESH_JOURNALS)
def test_processes_that_open_a_fresh_file_together_find_one_schema_and_one_user(tmp_path: Path, journal: str) -> None:
    waves = scale(5, 100)
    for wave in range(waves):
        url = url_of(tmp_path / f"wave {wave}" / "chat.db")
        place = Place(url, library_for(journal).__name__)
        with ExitStack() as ending:
            tasks = []
            for _ in range(TOGETHER):
                task = Task(open_once, place)
                ending.callback(task.close)
                tasks.append(task)
            for task in tasks:
                assert task.receive() == "ready"
            for task in tasks:
                task.order("open")
            found = [task.receive() for task in tasks]
        user_id = _only_user(url, journal)
        assert found == [Opening(user_id, journal, SCHEMA_VERSION)] * TOGETHER
        check_health(url)
    figure("first open: processes", waves * TOGETHER, journal)


@pytest.mark.parametrize("journal", FRESH_JOURNALS)
def test_servers_that_open_a_fresh_file_together_all_serve(tmp_path: Path, journal: str) -> None:
    environment = environment_for(journal, tmp_path)
    waves = scale(1, 10)
    for wave in range(waves):
        url = url_of(tmp_path / f"wave {wave}" / "chat.db")
        with ExitStack() as closing:
            servers = [closing.enter_context(ServerWriter(url, environment)) for _ in range(8)]
            started = [server.call("start_session") for server in servers]
            assert len({each.result(WAIT_SECONDS)["id"] for each in started}) == len(servers)
            for server in servers:
                server.end()
        _only_user(url, journal)
        check_health(url)
    figure("first open: servers", waves * 8, journal)


def _only_user(url: str, journal: str) -> str:
    """Return the id of the one user there is."""

    async def read() -> str:
        async with Database(url, library=library_for(journal)) as database:
            return await database.read(lambda connection: str(connection.execute(select(users.c.id)).scalar_one()))

    return asyncio.run(read())
