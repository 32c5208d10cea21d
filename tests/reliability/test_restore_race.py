"""A restore that is tried again and again while servers append: it is refused, or keeps what it takes the place of."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest

from chat_service import upkeep
from models.errors import ChatError
from tests.conftest import url_of
from tests.reliability.processes import Appending, ServerWriter, check_health, new_record, stored_in
from tests.reliability.scale import JOURNALS, environment_for, figure, make_ready, patient, scale, seed
from tests.reliability.test_backup import nothing

pytestmark = patient

SERVERS = 2


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_restore_that_races_with_servers_loses_nothing_that_was_acknowledged(tmp_path: Path, journal: str) -> None:
    seed()
    path = tmp_path / "chat.db"
    url = url_of(path)
    make_ready(journal, path)
    (session_id,) = new_record(url, journal)
    copy = tmp_path / "copy.db"
    asyncio.run(upkeep.backup(url, copy, nothing))
    environment = environment_for(journal, tmp_path)
    kept: list[Path] = []
    refusals: list[str] = []
    with ExitStack() as stack:
        servers = [stack.enter_context(ServerWriter(url, environment)) for _ in range(SERVERS)]
        appendings = [Appending(server, session_id, f"s{number}") for number, server in enumerate(servers)]
        for appending in appendings:
            appending.allow(1_000_000)
        for _ in range(scale(10, 100)):
            before = [len(appending.acknowledged) for appending in appendings]
            # Each server is in the middle of its work, before the restore and after it.
            for appending, acknowledged in zip(appendings, before, strict=True):
                appending.wait_for(acknowledged + 3)
            try:
                replaced = asyncio.run(upkeep.restore(url, copy, nothing, replace=True))
            except ChatError as error:
                refusals.append(str(error))
            else:
                assert replaced is not None
                kept.append(replaced)
        for appending in appendings:
            appending.stop()
            appending.wait_for_all()
            assert appending.refused == {}
            assert appending.unknown == []
        for server in servers:
            server.end()
    check_health(url)
    # In WAL a server that holds the file is always seen; with a rollback journal a restore is one transaction of many.
    assert journal != "wal" or not kept
    files = [stored_in(url_of(file), journal, session_id) for file in (path, *kept)]
    for appending in appendings:
        for batch, seqs in appending.acknowledged.items():
            assert any([file.get(key) for key in batch] == seqs for file in files), f"{batch} was lost"
    assert all("nother process" in refusal or "exists already" in refusal for refusal in refusals), refusals
    acknowledged = sum(len(appending.acknowledged) for appending in appendings)
    seen = {"restores": len(kept), "refused": len(refusals), "appends acknowledged": acknowledged, "lost": 0}
    figure("restores that race with two servers", seen, journal)
