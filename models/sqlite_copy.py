"""Copies of the SQLite file: an online backup, and the way back.

Both use SQLite's own backup (sqlite.org/backup.html), page by page. The source is read on one snapshot, so other
processes go on writing meanwhile; a copy is written under another name, synced, checked, and only then given its own.
"""

import os
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from models.errors import Conflict, NotFound, Unavailable
from models.sqlite import SqliteEngine, primary_code
from models.sqlite_file import create_private, examine, locked, make_folder, refusals

Progress = Callable[[int, int], None]
"""Called with the pages that are done and the pages there are."""

_PAGES = 1_000
_BUSY_MILLISECONDS = 10_000
_BUSY = 5


def backup(path: Path, target: Path, library: ModuleType, progress: Progress) -> None:
    """Write a copy of the database, readable by its owner alone, while others use it.

    Raises NotFound, Conflict where the target exists, and Unavailable, and then leaves no copy behind.
    """
    if not path.exists():
        raise NotFound("There is no database yet, so there is nothing to back up.")
    if target.exists():
        raise Conflict("The backup's file exists already: name one that does not.")
    unfinished = target.with_name(f"{target.name}.unfinished")
    try:
        with refusals(library):
            make_folder(target.parent)
            create_private(unfinished)
            _copy(path, unfinished, library, progress)
            _sync(unfinished)
        _check(unfinished, library)
        unfinished.rename(target)
        _sync(target.parent)
    finally:
        for leftover in (unfinished, _beside(unfinished, "-journal"), _beside(unfinished, "-wal")):
            leftover.unlink(missing_ok=True)


def restore(path: Path, source: Path, library: ModuleType, progress: Progress, *, replace: bool) -> Path | None:
    """Put a backup in the database's place, and return the file that keeps what was there before.

    A database that can be read is kept as a backup, and overwritten in one transaction; one that cannot is moved aside.
    Raises NotFound, Conflict where there is a database and `replace` is not given, and Unavailable where the backup is
    no good or another process holds the database; then nothing has changed.
    """
    if not source.exists():
        raise NotFound("There is no such backup: name the file that `db backup` wrote.")
    _check(source, library)
    if not path.exists():
        backup(source, path, library, progress)
        return None
    if not replace:
        raise Conflict("There is a database already: with --replace it is kept aside and the backup takes its place.")
    kept = _beside(path, f".before-restore-{datetime.now(UTC):%Y%m%dT%H%M%S}")
    with refusals(library), locked(path):
        if _is_sound(path, library):
            _refuse_while_held(path, library)
            backup(path, kept, library, _nothing)
            _copy(source, path, library, progress)
            return kept
        path.rename(kept)
        for ending in ("-wal", "-shm", "-journal"):
            if _beside(path, ending).exists():
                _beside(path, ending).rename(_beside(kept, ending))
    backup(source, path, library, progress)
    return kept


def _copy(source: Path, target: Path, library: ModuleType, progress: Progress) -> None:
    reading, writing = SqliteEngine(source, library), SqliteEngine(target, library)
    with closing(reading.open_raw(_BUSY_MILLISECONDS)) as old, closing(writing.open_raw(_BUSY_MILLISECONDS)) as new:
        # One snapshot for all pages: without it every foreign commit would begin the copy anew.
        old.execute("BEGIN")
        old.execute("SELECT count(*) FROM sqlite_master").fetchone()
        old.backup(new, pages=_PAGES, progress=lambda _, left, total: progress(total - left, total), sleep=0.01)
        old.execute("ROLLBACK")


def _check(path: Path, library: ModuleType) -> None:
    report = examine(path, library)
    if report["integrity"] != "ok" or report["schema_version"] == 0:
        raise Unavailable("The backup is not whole, so it was not used: take another.")


def _is_sound(path: Path, library: ModuleType) -> bool:
    try:
        return examine(path, library)["integrity"] == "ok"
    except Unavailable:
        return False


def _refuse_while_held(path: Path, library: ModuleType) -> None:
    # Leaving WAL needs the file for oneself, also from connections that are idle; with a rollback journal an idle one
    # holds nothing, and sees the restore as any other transaction.
    with closing(SqliteEngine(path, library).open_raw(0)) as raw:
        (mode,) = raw.execute("PRAGMA journal_mode").fetchone()
        try:
            raw.execute("BEGIN EXCLUSIVE")
            raw.execute("ROLLBACK")
            if mode == "wal":
                raw.execute("PRAGMA journal_mode=DELETE")
                raw.execute("PRAGMA journal_mode=WAL")
        except library.OperationalError as error:
            if primary_code(error) != _BUSY:
                raise
            raise Unavailable("Another process uses the database: end the clients that have it open.") from None


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _nothing(_: int, __: Any) -> None:
    """Show no progress."""
