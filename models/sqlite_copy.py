"""Copies of the SQLite file: an online backup, and the way back.

Both use SQLite's own backup (sqlite.org/backup.html), page by page. The source is read on one snapshot, so other
processes go on writing meanwhile; a copy is written under another name, synced, checked, and only then given its own.
"""

import os
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from models.errors import Conflict, NotFound, Unavailable
from models.sqlite import SqliteEngine
from models.sqlite_errors import BUSY, primary_code
from models.sqlite_file import create_private, examine, locked, make_folder, refusals, settle_in_wal

Progress = Callable[[int, int], None]
"""Called with the pages that are done and the pages there are."""

_PAGES = 1_000
_BUSY_MILLISECONDS = 10_000


def backup(path: Path, target: Path, library: ModuleType, progress: Progress) -> None:
    """Write a copy of the database, readable by its owner alone, while others use it.

    Raises NotFound, Conflict where the target exists, and Unavailable, and then leaves no copy behind.
    """
    if not path.exists():
        raise NotFound("There is no database yet, so there is nothing to back up.")
    with refusals(library), closing(_open(path, library)) as source:
        # One snapshot for all pages: without it every foreign commit would begin the copy anew.
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()
        _write_copy(source, target, library, progress)


def restore(path: Path, source: Path, library: ModuleType, progress: Progress, *, replace: bool) -> Path | None:
    """Put a backup in the database's place, and return the file that keeps what was there before.

    A database that can be read is kept as a backup, and overwritten, both under one exclusive lock, so that nothing is
    appended in between; one that cannot be read is moved aside. Raises NotFound, Conflict where there is a database and
    `replace` is not given, and Unavailable where the backup is no good or another process uses the database; then
    nothing has changed.
    """
    if not source.exists():
        raise NotFound("There is no such backup: name the file that `db backup` wrote.")
    if source.is_dir():
        raise NotFound("The backup is a folder: name the file in it that `db backup` wrote.")
    _check(source, library)
    kept = _beside(path, f".before-restore-{datetime.now(UTC):%Y%m%dT%H%M%S}")
    with refusals(library):
        make_folder(path.parent)
        with locked(path):
            if path.exists() and not replace:
                raise Conflict("There is a database already: with --replace it is kept aside for the backup's.")
            if path.exists() and _is_sound(path, library):
                _exchange(path, source, kept, library, progress)
                return kept
            was_there = path.exists()
            for ending in ("", "-wal", "-shm", "-journal"):
                if _beside(path, ending).exists():
                    _beside(path, ending).rename(_beside(kept, ending))
            backup(source, path, library, progress)
            return kept if was_there else None


def _exchange(path: Path, source: Path, kept: Path, library: ModuleType, progress: Progress) -> None:
    with closing(_open(path, library)) as current, closing(_open(source, library)) as new:
        (mode,) = current.execute("PRAGMA journal_mode").fetchone()
        current.execute("PRAGMA busy_timeout=0")
        try:
            # In this locking mode a lock outlives its transaction, until the connection closes.
            current.execute("PRAGMA locking_mode=EXCLUSIVE")
            # Leaving WAL needs the file for oneself, also from connections that are idle.
            current.execute("PRAGMA journal_mode=DELETE")
            current.execute("BEGIN EXCLUSIVE")
            current.execute("ROLLBACK")
        except library.OperationalError as error:
            if primary_code(error) != BUSY:
                raise
            raise Unavailable("Another process uses the database: end the clients that have it open.") from None
        _write_copy(current, kept, library, _nothing)
        new.backup(current, pages=_PAGES, progress=lambda _, left, total: progress(total - left, total), sleep=0.01)
        # The lock goes with the next transaction that ends, and the journal with it.
        current.execute("PRAGMA locking_mode=NORMAL").fetchall()
        current.execute("BEGIN IMMEDIATE")
        current.execute("COMMIT")
        current.execute("PRAGMA journal_mode=DELETE").fetchall()
    if mode == "wal":
        settle_in_wal(path, library)


def _open(path: Path, library: ModuleType) -> Any:
    return SqliteEngine(path, library).open_raw(_BUSY_MILLISECONDS)


def _write_copy(source: Any, target: Path, library: ModuleType, progress: Progress) -> None:
    """Copy an open database to a file that must not exist: under a name of its own, synced, checked, then named."""
    make_folder(target.parent)
    if target.exists():
        raise Conflict("The backup's file exists already: name one that does not.")
    # In a folder of our own, so that no name in the target's folder is taken, followed or removed.
    with TemporaryDirectory(prefix=".backup-", dir=target.parent) as folder:
        unfinished = Path(folder) / target.name
        create_private(unfinished)
        with closing(_open(unfinished, library)) as copy:
            source.backup(copy, pages=_PAGES, progress=lambda _, left, total: progress(total - left, total), sleep=0.01)
        _check(unfinished, library)
        _sync(unfinished)
        try:
            # A link and not a rename: it fails where the name has been taken meanwhile.
            os.link(unfinished, target)
        except FileExistsError:
            raise Conflict("The backup's file exists already: name one that does not.") from None
        _sync(target.parent)


def _check(path: Path, library: ModuleType) -> None:
    report = examine(path, library)
    if report["integrity"] != "ok" or report["schema_version"] == 0:
        raise Unavailable("The backup is not whole, so it was not used: take another.")


def _is_sound(path: Path, library: ModuleType) -> bool:
    try:
        return examine(path, library)["integrity"] == "ok"
    except Unavailable:
        return False


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows keeps its folders by itself.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _nothing(_: int, __: Any) -> None:
    """Show no progress."""
