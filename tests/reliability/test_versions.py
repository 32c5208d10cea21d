"""An old server beside a newer one on one file: the old one stops writing, and never touches what it does not know.

The newer one is played by a process that raises the schema's number in the file, as a migration does.
"""

from contextlib import closing
from pathlib import Path

import pytest

from models.tables import SCHEMA_VERSION
from tests.conftest import url_of
from tests.reliability.processes import Appending, Refused, ServerWriter, check_acknowledged, new_record, stored_in
from tests.reliability.scale import JOURNALS, environment_for, library_for, make_ready, patient
from tests.server.support import WAIT_SECONDS

pytestmark = patient


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_server_whose_file_was_upgraded_asks_for_a_restart_and_writes_nothing_more(
    tmp_path: Path, journal: str
) -> None:
    path = tmp_path / "chat.db"
    url = url_of(path)
    make_ready(journal, path)
    (session_id,) = new_record(url, journal)
    with ServerWriter(url, environment_for(journal, tmp_path)) as server:
        appending = Appending(server, session_id, "old")
        appending.allow(300)
        appending.wait_for(20)
        # The upgrade comes while appends are in flight.
        count = _set_version(path, journal, SCHEMA_VERSION + 1)
        appending.allow(20)
        appending.wait_for_all()
        for name, arguments in (
            ("get_session_history", {"session_id": session_id}),
            ("start_session", {}),
            ("list_sessions", {}),
        ):
            with pytest.raises(Refused, match="restart"):
                server.answer(name, **arguments)
        server.end()
    assert appending.refused
    assert all("restart" in refusal for refusal in appending.refused.values())
    assert _set_version(path, journal, SCHEMA_VERSION) == count
    stored = stored_in(url, journal, session_id)
    assert len(stored) == count == sum(map(len, appending.acknowledged))
    check_acknowledged(stored, appending.acknowledged)


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_server_started_on_a_newer_file_refuses_and_leaves_it_byte_for_byte(tmp_path: Path, journal: str) -> None:
    path = tmp_path / "data" / "chat.db"
    url = url_of(path)
    path.parent.mkdir()
    make_ready(journal, path)
    (session_id,) = new_record(url, journal)
    _set_version(path, journal, SCHEMA_VERSION + 1)
    before = path.read_bytes()
    names = sorted(each.name for each in path.parent.iterdir())
    with ServerWriter(url, environment_for(journal, tmp_path)) as server:
        message = {"role": "user", "content": "not for you"}
        for _ in range(2):
            with pytest.raises(Refused, match=r"newer version.*upgrade mcp-chat-server"):
                server.answer("add_messages", session_id=session_id, messages=[message])
        server.end()
    assert path.read_bytes() == before
    assert sorted(each.name for each in path.parent.iterdir()) == names


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_server_goes_on_when_the_upgrade_beside_it_is_undone(tmp_path: Path, journal: str) -> None:
    path = tmp_path / "chat.db"
    url = url_of(path)
    make_ready(journal, path)
    (session_id,) = new_record(url, journal)
    with ServerWriter(url, environment_for(journal, tmp_path)) as server:
        assert server.append(session_id, ("first",)).result(WAIT_SECONDS) == [1]
        _set_version(path, journal, SCHEMA_VERSION + 1)
        with pytest.raises(Refused, match="restart"):
            server.append(session_id, ("second",)).result(WAIT_SECONDS)
        _set_version(path, journal, SCHEMA_VERSION)
        assert server.append(session_id, ("second",)).result(WAIT_SECONDS) == [2]
        server.end()
    assert stored_in(url, journal, session_id) == {"first": 1, "second": 2}


def _set_version(path: Path, journal: str, version: int) -> int:
    """Write the schema's number, as a migration does, and return how many messages there were at that moment."""
    library = library_for(journal)
    with closing(library.connect(path, isolation_level=None, timeout=WAIT_SECONDS)) as raw:
        raw.execute("BEGIN IMMEDIATE")
        raw.execute(f"PRAGMA user_version={version:d}")
        (count,) = raw.execute("SELECT count(*) FROM messages").fetchone()
        raw.execute("COMMIT")
    return int(count)
