"""The doctor: finds nothing in a sound record, and each kind of damage that it claims to find."""

import asyncio
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from chat_service import doctor
from chat_service.service import ChatService
from models import full_text
from models.database import Database
from models.errors import Unavailable
from models.ids import SessionId
from models.sqlite import choose_library
from tests.conftest import url_of
from tests.reliability.scale import JOURNALS, library_for, make_ready
from tests.support import asking, done, fill, new_session, new_user, said

CHECKS = [
    "integrity",
    "file mode",
    "free space",
    "SQLite",
    "schema",
    "journal",
    "references",
    "numbering",
    "tool calls",
    "audit log",
]


def make(path: Path, journal: str = JOURNALS[0], sessions: int = 3) -> list[SessionId]:
    """Make a sound record, and return its sessions."""

    async def main() -> list[SessionId]:
        async with Database(url_of(path), library=library_for(journal)) as database:
            service = ChatService(database)
            user_id = await new_user(service)
            session_ids = [await new_session(service, user_id) for _ in range(sessions)]
            for session_id in session_ids[:3]:
                await fill(service, user_id, session_id, 20)
            await service.add_messages(user_id, session_ids[0], [asking("ended"), asking("running"), said()])
            await service.add_tool_usage(user_id, session_ids[0], done(tool_call_id="ended"))
            return session_ids

    make_ready(journal, path)
    return asyncio.run(main())


def change(path: Path, *statements: str) -> None:
    """Change the file behind the server's back, references unchecked."""
    with closing(choose_library().connect(path, isolation_level=None)) as raw:
        full_text.register(raw)
        raw.execute("PRAGMA foreign_keys=OFF")
        for statement in statements:
            assert raw.execute(statement).rowcount != 0, f"changed nothing: {statement}"


def examine(path: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> dict[str, doctor.Finding]:
    findings = asyncio.run(doctor.examine(url_of(path), progress))
    assert len({finding["check"] for finding in findings}) == len(findings)
    return {finding["check"]: finding for finding in findings}


def problems(path: Path) -> dict[str, str]:
    """Return what is wrong, by check."""
    return {check: finding["what"] for check, finding in examine(path).items() if finding["is_problem"]}


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_sound_record_has_no_problem(tmp_path: Path, journal: str) -> None:
    path = tmp_path / "chat.db"
    make(path, journal)
    findings = examine(path)
    assert list(findings) == CHECKS
    assert findings["numbering"]["what"] == "3 sessions, each numbered from 1 without a gap"
    assert "1 that messages asked for have no record yet" in findings["tool calls"]["what"]
    # A rollback journal under a library that is safe for WAL is sound, and slower than need be: that is said.
    expected = {"journal"} if journal == "delete" else set()
    assert set(problems(path)) - {"free space"} == expected


def test_a_file_that_is_not_there_is_no_problem(tmp_path: Path) -> None:
    assert problems(tmp_path / "none.db") == {}
    assert list(tmp_path.iterdir()) == []


def test_the_progress_counts_every_session(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    make(path, sessions=450)
    shown: list[tuple[int, int]] = []
    findings = examine(path, lambda done, total: shown.append((done, total)))
    assert shown[-1] == (450, 450)
    assert [done for done, _ in shown] == sorted(done for done, _ in shown)
    assert findings["numbering"]["what"].startswith("450 sessions")


DAMAGES: dict[str, tuple[str, ...]] = {
    "a message is missing": ("DELETE FROM messages WHERE session_key = 2 AND seq = 7",),
    "a tool usage is missing": ("DELETE FROM tool_usages WHERE session_key = 2 AND seq = 8",),
    "the first is missing": ("DELETE FROM messages WHERE session_key = 2 AND seq = 1",),
    "the last is missing": ("DELETE FROM tool_usages WHERE session_key = 2 AND seq = 20",),
    "all are missing": ("DELETE FROM tool_usages WHERE session_key = 2", "DELETE FROM messages WHERE session_key = 2"),
    "a seq stands in both tables": ("UPDATE tool_usages SET seq = 7 WHERE session_key = 2 AND seq = 8",),
    "a seq is moved past the end": ("UPDATE messages SET seq = 99 WHERE session_key = 2 AND seq = 7",),
    "a seq is zero": ("UPDATE messages SET seq = 0 WHERE session_key = 2 AND seq = 1",),
    "a seq is below one in place of another": ("UPDATE messages SET seq = -5 WHERE session_key = 2 AND seq = 7",),
    "last_seq is too small": ("UPDATE chat_sessions SET last_seq = 19 WHERE key = 2",),
    "last_seq is too large": ("UPDATE chat_sessions SET last_seq = 21 WHERE key = 2",),
    "message_count is wrong": ("UPDATE chat_sessions SET message_count = 9 WHERE key = 2",),
    "tool_usage_count is wrong": ("UPDATE chat_sessions SET tool_usage_count = 11 WHERE key = 2",),
    "both counts are wrong and their sum is right": (
        "UPDATE chat_sessions SET message_count = 9, tool_usage_count = 11 WHERE key = 2",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_broken_numbering_is_found_and_the_session_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "chat.db"
    session_ids = make(path)
    change(path, *DAMAGES[damage])
    found = problems(path)
    assert set(found) - {"free space"} == {"numbering"}
    assert found["numbering"].startswith("1 sessions have gaps or doubles")
    assert session_ids[1] in found["numbering"]


def test_broken_numbering_is_found_in_every_chunk_of_sessions(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    make(path, sessions=450)
    change(path, "UPDATE chat_sessions SET last_seq = 1 WHERE key IN (4, 200, 201, 400, 401, 450)")
    found = problems(path)["numbering"]
    assert found.startswith("6 sessions have gaps or doubles")


REFERENCES: dict[str, tuple[str, ...]] = {
    "messages": ("UPDATE messages SET session_key = 999 WHERE session_key = 2",),
    "tool_usages": ("UPDATE tool_usages SET session_key = 999 WHERE session_key = 2",),
    "tool_call_references": ("INSERT INTO tool_call_references VALUES (999, 'call', 1)",),
    "chat_sessions": ("UPDATE chat_sessions SET user_key = 999 WHERE key = 2",),
}


@pytest.mark.parametrize("table", REFERENCES)
def test_a_row_that_refers_to_none_is_found_and_its_table_named(tmp_path: Path, table: str) -> None:
    path = tmp_path / "chat.db"
    make(path)
    change(path, *REFERENCES[table])
    assert f"rows of {table} refer to none" in problems(path)["references"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_file_that_others_may_use_is_found(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "chat.db"
    make(path)
    path.chmod(mode)
    assert "chmod 600" in problems(path)["file mode"]
    path.chmod(0o600)
    assert "file mode" not in problems(path)


def root_page(path: Path, name: str) -> int:
    with closing(choose_library().connect(path)) as raw:
        (page,) = raw.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    return int(page)


def page_size(path: Path) -> int:
    with closing(choose_library().connect(path)) as raw:
        return int(raw.execute("PRAGMA page_size").fetchone()[0])


@pytest.mark.parametrize("table", ["messages", "tool_usages", "chat_sessions", "users"])
def test_a_damaged_page_is_found_or_the_file_refused(tmp_path: Path, table: str) -> None:
    path = tmp_path / "chat.db"
    make(path)
    size = page_size(path)
    start = (root_page(path, table) - 1) * size
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * size)
    before = path.read_bytes()
    try:
        told = problems(path)["integrity"]
    except Unavailable as refused:
        told = str(refused)
    assert "restore" in told
    assert path.read_bytes() == before


def test_an_index_that_lost_an_entry_is_found(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    make(path)
    page = root_page(path, "ix_chat_sessions_user_key")
    size = page_size(path)
    with path.open("r+b") as file:
        # The count of cells of a leaf page, two bytes at its third: one less.
        file.seek((page - 1) * size + 3)
        count = int.from_bytes(file.read(2), "big")
        file.seek((page - 1) * size + 3)
        file.write((count - 1).to_bytes(2, "big"))
    assert count == 3
    assert "integrity" in problems(path)


def test_a_schema_that_is_behind_is_found_and_nothing_more_is_asked_of_it(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    make(path)
    with closing(choose_library().connect(path, isolation_level=None)) as raw:
        raw.execute("PRAGMA user_version=0")
    findings = examine(path)
    assert "db upgrade" in findings["schema"]["what"]
    assert findings["schema"]["is_problem"]
    assert "numbering" not in findings


def test_another_programs_database_and_a_newer_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    make(path)
    for statement, sentence in (
        ("PRAGMA user_version=99", "newer version"),
        ("PRAGMA application_id=7", "another program"),
    ):
        with closing(choose_library().connect(path, isolation_level=None)) as raw:
            raw.execute(statement)
        with pytest.raises(Unavailable, match=sentence):
            examine(path)
