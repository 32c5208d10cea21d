"""The file: made private, refused and left alone where it is not ours, and kept with the journal that is safe."""

import asyncio
import sqlite3
import stat
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import text

from chat_service.service import ChatService
from models.database import Database
from models.errors import Invalid, Unavailable
from models.sqlite import choose_library, is_safe_for_wal
from models.sqlite_file import path_from_url, refuse_network_file_system, switch_to_wal
from models.tables import APPLICATION_ID, SCHEMA_VERSION
from tests.conftest import url_of
from tests.support import finish, new_session, new_user, run_python, said, start_python

pytestmark = pytest.mark.anyio

LIBRARY = choose_library()
SAFE = is_safe_for_wal(LIBRARY.sqlite_version_info)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def refused(path: Path, library: ModuleType | None = None) -> str:
    """Open a file that has to be refused, and return what is said."""
    database = Database(url_of(path), library=library)
    with pytest.raises(Unavailable) as refusal:
        await database.open()
    await database.close()
    return str(refusal.value)


async def fill_file(path: Path) -> None:
    """Make a file of ours with something in it."""
    async with Database(url_of(path)) as database:
        service = ChatService(database)
        user_id = await new_user(service)
        await service.add_messages(user_id, await new_session(service, user_id), [said("x" * 1000)] * 50)


# Modes


async def test_the_file_and_all_beside_it_are_private_and_so_is_a_new_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "chat.db"
    async with Database(url_of(path)) as database:
        await database.write(lambda connection: connection.execute(text("CREATE TABLE more (a)")))
        files = sorted(path.parent.iterdir())
        assert {file.name for file in files} >= {"chat.db", "chat.db.lock"}
        assert {file.name: oct(mode_of(file)) for file in files} == {file.name: oct(0o600) for file in files}
        assert mode_of(path.parent) == 0o700


async def test_a_folder_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o755)
    await fill_file(folder / "chat.db")
    assert mode_of(folder) == 0o755


async def test_an_empty_file_becomes_a_database_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    path.touch(0o640)
    await fill_file(path)
    assert mode_of(path) == 0o600


# URLs


@pytest.mark.parametrize(
    "url",
    [
        "",
        "secret",
        "secret/chat.db",
        "/secret/chat.db",
        "://secret",
        "sqlite+aiosqlite",
        "sqlite+aiosqlite://",
        "sqlite+aiosqlite:///",
        "sqlite+aiosqlite:///secret.db",
        "sqlite+aiosqlite:///./secret.db",
        "sqlite+aiosqlite:///:memory:",
        "sqlite+aiosqlite:///file:secret?mode=memory&uri=true",
        "sqlite+aiosqlite:////tmp/secret.db?mode=ro",
        "sqlite+aiosqlite://localhost:secret/tmp/chat.db",
        "sqlite+aiosqlite:////tmp/secret%00.db",
        "sqlite:////tmp/secret.db",
        "sqlite+pysqlite:////tmp/secret.db",
        "postgresql+asyncpg://user:secret@localhost/chat",
        "postgresql+asyncpg://user:secret@localhost:port/chat",
        "mysql://secret",
    ],
)
def test_a_url_that_names_no_lasting_file_is_invalid_and_not_repeated(url: str) -> None:
    with pytest.raises(Invalid) as refusal:
        path_from_url(url)
    said = str(refusal.value)
    assert said.startswith("MCP_CHAT_DATABASE_URL ")
    assert "write sqlite+aiosqlite:////absolute/path/chat.db" in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite+aiosqlite:////data/chat.db", "/data/chat.db"),
        ("sqlite+aiosqlite:////data/with%20space/100%25.db", "/data/with space/100%.db"),
        ("sqlite+aiosqlite:////data/with space/é😀.db", "/data/with space/é😀.db"),
        ("sqlite+aiosqlite:////data/a%3Fb%23c.db", "/data/a?b#c.db"),
    ],
)
def test_a_url_names_a_file(url: str, path: str) -> None:
    assert path_from_url(url) == Path(path)


@pytest.mark.parametrize("name", ["with space.db", "é😀.db", "a%3Fb%23c.db", "100%25.db", "it's.db"])
async def test_a_file_of_any_name_is_opened_and_found_again(tmp_path: Path, name: str) -> None:
    await fill_file(tmp_path / name)
    async with Database(url_of(tmp_path / name)) as database:
        count = await database.read(
            lambda connection: connection.execute(text("SELECT count(*) FROM messages")).scalar()
        )
    assert count == 50


# Files that are not ours to keep


async def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "The database path is a folder" in await refused(tmp_path)


@pytest.mark.parametrize("content", [b"h", b"hello\n", b"some notes\n" * 1000, b"\0" * 5000, b"SQLite format 3\0"])
async def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    assert "left as it is" in await refused(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION, SCHEMA_VERSION + 1])
@pytest.mark.parametrize("journal", ["delete", "wal"])
async def test_the_database_of_another_program_is_refused_and_left_as_it_is(
    tmp_path: Path, version: int, journal: str
) -> None:
    path = tmp_path / "other.db"
    other = LIBRARY.connect(str(path))
    other.execute(f"PRAGMA journal_mode={journal}")
    other.execute("CREATE TABLE users (a)")
    other.execute(f"PRAGMA user_version={version}")
    other.commit()
    other.close()
    before = path.read_bytes()
    assert "the database of another program and was left as it is" in await refused(path)
    assert path.read_bytes() == before


async def test_a_file_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    await fill_file(path)
    newer = LIBRARY.connect(str(path))
    newer.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    newer.close()
    before = path.read_bytes()
    said = await refused(path)
    assert f"written by a newer version (schema {SCHEMA_VERSION + 1}, this one knows {SCHEMA_VERSION})" in said
    assert path.read_bytes() == before


@pytest.mark.parametrize("size", [60, 600, 5_000, -50_000, -4_096])
async def test_a_damaged_file_is_refused_at_the_latest_when_it_is_read_and_is_never_repaired_or_removed(
    tmp_path: Path, size: int
) -> None:
    path = tmp_path / "chat.db"
    await fill_file(path)
    damaged = path.read_bytes()[:size]
    path.write_bytes(damaged)

    async def open_and_read() -> None:
        async with Database(url_of(path)) as database:
            await database.read(
                lambda connection: connection.execute(text("SELECT sum(length(content)) FROM messages"))
            )

    with pytest.raises(Unavailable, match="left as it is"):
        await open_and_read()
    assert path.read_bytes() == damaged


async def test_a_server_whose_file_was_upgraded_by_a_newer_one_answers_unavailable(database: Database) -> None:
    service = ChatService(database)
    user_id = await new_user(service)
    newer = LIBRARY.connect(str(database.path))
    newer.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    newer.close()
    calls: list[Any] = [new_session(service, user_id), service.get_user(user_id), service.health()]
    for call in calls:
        with pytest.raises(Unavailable, match="newer version has upgraded the database"):
            await call


# Places that cannot be written


@pytest.mark.parametrize("below", ["chat.db", "folder/chat.db", "a/b/c/chat.db"])
async def test_a_path_below_a_file_is_refused(tmp_path: Path, below: str) -> None:
    file = tmp_path / "file"
    file.write_text("text")
    assert "The database's folder cannot be used" in await refused(file / below)
    assert file.read_text() == "text"


async def test_a_folder_that_takes_no_files_is_refused() -> None:
    assert "make it writable, or name another" in await refused(Path("/sys/chat.db"))


async def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    assert "MCP_CHAT_DATABASE_URL" in await refused(tmp_path / ("x" * 300))


# Network file systems


def mounts(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "mounts"
    path.write_text("".join(f"{line} rw,relatime 0 0\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse.s3fs", "glusterfs"])
def test_a_network_file_system_is_refused(tmp_path: Path, kind: str) -> None:
    table = mounts(tmp_path, "/dev/sda / ext4", f"server:/share /mnt/share {kind}")
    with pytest.raises(Unavailable, match=f"network file system \\({kind}\\)"):
        refuse_network_file_system(Path("/mnt/share/deep/chat.db"), table)
    refuse_network_file_system(Path("/mnt/shared/chat.db"), table)
    refuse_network_file_system(Path("/mnt/chat.db"), table)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "overlay", "tmpfs", "zfs", "fuse.encfs"])
def test_a_local_file_system_is_taken(tmp_path: Path, kind: str) -> None:
    refuse_network_file_system(Path("/data/chat.db"), mounts(tmp_path, "server:/ / nfs4", f"/dev/sda /data {kind}"))


def test_the_innermost_mount_decides(tmp_path: Path) -> None:
    table = mounts(
        tmp_path, "/dev/sdb /a/b/local ext4", "server:/ /a nfs4", "/dev/sda / ext4", "tmp /a/b/local/far cifs"
    )
    refuse_network_file_system(Path("/a/b/local/chat.db"), table)
    for inside in ("/a/chat.db", "/a/b/chat.db", "/a/b/local/far/chat.db"):
        with pytest.raises(Unavailable, match="network file system"):
            refuse_network_file_system(Path(inside), table)


def test_of_two_mounts_in_one_place_the_later_decides(tmp_path: Path) -> None:
    local, far = "/dev/sda /data ext4", "server:/ /data nfs"
    refuse_network_file_system(Path("/data/chat.db"), mounts(tmp_path, far, local))
    with pytest.raises(Unavailable):
        refuse_network_file_system(Path("/data/chat.db"), mounts(tmp_path, local, far))


@pytest.mark.parametrize(
    ("written", "name"),
    [(r"/mnt/my\040share", "/mnt/my share"), (r"/mnt/tab\011s", "/mnt/tab\ts"), (r"/mnt/back\134s", "/mnt/back\\s")],
)
def test_a_mount_whose_name_is_escaped_is_known(tmp_path: Path, written: str, name: str) -> None:
    with pytest.raises(Unavailable):
        refuse_network_file_system(Path(name) / "chat.db", mounts(tmp_path, f"server:/ {written} nfs4"))


def test_a_mount_whose_name_is_not_ascii_is_known(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        refuse_network_file_system(Path("/mnt/é😀/chat.db"), mounts(tmp_path, "server:/ /mnt/é😀 nfs4"))


def test_a_link_is_followed_to_where_the_file_lies(tmp_path: Path) -> None:
    target = tmp_path / "far"
    target.mkdir()
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(Unavailable):
        refuse_network_file_system(tmp_path / "link" / "chat.db", mounts(tmp_path, f"server:/ {target} nfs4"))


def test_a_system_without_a_table_of_mounts_is_taken_at_its_word(tmp_path: Path) -> None:
    refuse_network_file_system(tmp_path / "chat.db", tmp_path / "nothing here")
    refuse_network_file_system(tmp_path / "chat.db", mounts(tmp_path, "", "broken"))


# Libraries and journals


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 7, 0), False),
        ((3, 40, 1), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 50, 99), True),
        ((3, 51, 0), False),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 52, 0), True),
        ((4, 0, 0), True),
    ],
)
def test_wal_is_safe_on_versions_without_the_reset_bug(version: tuple[int, int, int], safe: bool) -> None:
    assert is_safe_for_wal(version) is safe


def test_a_safe_library_is_chosen_where_there_is_one() -> None:
    if is_safe_for_wal(sqlite3.sqlite_version_info):
        assert LIBRARY is sqlite3
    else:
        assert LIBRARY is sqlite3 or (SAFE and LIBRARY.__name__ == "pysqlite3")


async def test_a_fresh_file_is_kept_with_the_journal_that_its_library_keeps_safe(tmp_path: Path) -> None:
    for number, library in enumerate((LIBRARY, sqlite3)):
        path = tmp_path / f"{number}.db"
        async with Database(url_of(path), library=library) as database:
            service = ChatService(database)
            user_id = await new_user(service)
            await service.add_message(user_id, await new_session(service, user_id), said())
            health = await service.health()
        assert (health["library"], health["library_version"]) == (library.__name__, library.sqlite_version)
        assert health["synchronous"] == "FULL"
        if is_safe_for_wal(library.sqlite_version_info):
            assert (health["journal_mode"], health["reason"]) == ("wal", None)
        else:
            assert health["journal_mode"] == "delete"
            assert "WAL-reset bug, so the file is kept with a rollback journal" in str(health["reason"])
        assert journal_of(path) == health["journal_mode"]


async def test_an_affected_library_takes_a_wal_file_that_nobody_holds_out_of_wal(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    await fill_file(path)
    before = journal_of(path)
    async with Database(url_of(path), library=sqlite3) as database:
        health = await database.health()
    if is_safe_for_wal(sqlite3.sqlite_version_info):
        assert health["journal_mode"] == before == "wal"
    else:
        assert health["journal_mode"] == journal_of(path) == "delete"
        assert health["reason"] is not None


HOLD = """
import asyncio, sys
from models.database import Database

async def main():
    async with Database(sys.argv[1]):
        print("held", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


async def test_an_affected_library_refuses_a_wal_file_that_another_server_holds(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    holder = start_python(HOLD, url_of(path))
    assert holder.stdout is not None
    assert await asyncio.to_thread(holder.stdout.readline) == "held\n"
    # In a process of its own: two libraries in one process undo each other's locks.
    code = (
        "import asyncio, sqlite3, sys\n"
        "from models.database import Database\n"
        "from models.errors import Unavailable\n"
        "async def main():\n"
        "    async with Database(sys.argv[1], library=sqlite3) as database:\n"
        "        return (await database.health())['journal_mode']\n"
        "try:\n"
        "    print(asyncio.run(main()))\n"
        "except Unavailable as refusal:\n"
        "    print(refusal)\n"
    )
    answer = await asyncio.to_thread(run_python, code, url_of(path))
    await asyncio.to_thread(finish, [holder])
    if is_safe_for_wal(sqlite3.sqlite_version_info):
        assert answer == "wal"
    elif SAFE:
        assert "kept in WAL mode by another server" in answer
        assert journal_of(path) == "wal"
    else:
        assert answer == "delete"


async def test_a_file_with_a_rollback_journal_stays_so_until_it_is_switched(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    await fill_file(path)
    connection = LIBRARY.connect(str(path))
    connection.execute("PRAGMA journal_mode=delete")
    connection.close()
    async with Database(url_of(path)) as database:
        health = await database.health()
    assert health["journal_mode"] == "delete"
    assert health["reason"] is not None
    assert ("db upgrade" in health["reason"]) is SAFE
    journal = switch_to_wal(path, LIBRARY)
    assert (journal.mode, journal.reason is None) == (("wal", True) if SAFE else ("delete", False))
    async with Database(url_of(path)) as database:
        assert (await database.health())["journal_mode"] == journal.mode


async def test_a_server_with_an_affected_library_stops_once_its_file_is_switched_to_wal(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    switch = (
        "import sys\n"
        "from pathlib import Path\n"
        "from models.sqlite import choose_library\n"
        "from models.sqlite_file import switch_to_wal\n"
        "print(switch_to_wal(Path(sys.argv[1]), choose_library()).mode)"
    )
    async with Database(url_of(path), library=sqlite3) as database:
        service = ChatService(database)
        user_id = await new_user(service)
        switched = await asyncio.to_thread(run_python, switch, path)
        assert switched == ("wal" if SAFE else "delete")
        if SAFE and not is_safe_for_wal(sqlite3.sqlite_version_info):
            calls: list[Any] = [service.get_user(user_id), new_session(service, user_id)]
            for call in calls:
                with pytest.raises(Unavailable, match="switched to WAL, which this SQLite cannot keep safe"):
                    await call
        else:
            assert (await service.get_user(user_id))["id"] == user_id


def journal_of(path: Path) -> str:
    """Read the journal from the file's header (sqlite.org/fileformat.html): its bytes 18 and 19 are 2 for WAL."""
    return {b"\x01\x01": "delete", b"\x02\x02": "wal"}[path.read_bytes()[18:20]]


# Many at once


async def test_many_databases_of_one_process_open_one_fresh_file_at_once(tmp_path: Path) -> None:
    databases = [Database(url_of(tmp_path / "chat.db")) for _ in range(8)]
    await asyncio.gather(*(database.open() for database in databases))
    services = [ChatService(database) for database in databases]
    assert len(set(await asyncio.gather(*(new_user(service) for service in services)))) == 1
    for database in databases:
        await database.close()


async def test_a_file_is_marked_as_ours(tmp_path: Path) -> None:
    await fill_file(tmp_path / "chat.db")
    header = (tmp_path / "chat.db").read_bytes()
    assert int.from_bytes(header[68:72]) == APPLICATION_ID
    assert int.from_bytes(header[60:64]) == SCHEMA_VERSION
