"""The SQLite file: found or created, refused where it is not ours to keep, upgraded and switched to its journal.

Everything here runs once, before the first connection, on a thread of its own; creation and migration under a file
lock, so that any number of processes may open a fresh file at once. A file that is refused is left exactly as it is.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from typing_extensions import TypedDict

from models.errors import Invalid, Unavailable
from models.sqlite import SqliteEngine, is_safe_for_wal
from models.sqlite_errors import NOT_A_DATABASE, ODD, refusal
from models.tables import APPLICATION_ID, SCHEMA_VERSION

MOUNTS = Path("/proc/self/mounts")
_OPEN_BUSY_MILLISECONDS = 10_000
_SMALLEST = 512
_OCTAL = re.compile(r"\\([0-7]{3})")
_LOCK_SECONDS = 60
_NETWORK_FILE_SYSTEMS = frozenset(
    {"9p", "afs", "ceph", "cifs", "davfs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb2", "smb3", "smbfs"}
    | {"fuse.ceph", "fuse.davfs2", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"}
)


@dataclass(frozen=True, slots=True)
class Journal:
    """The journal that a file is kept with, and why where it is not WAL."""

    mode: str
    reason: str | None


def path_from_url(url: str) -> Path:
    """Return the file that a database URL names; raises Invalid where it names none that lasts."""
    example = "write sqlite+aiosqlite:////absolute/path/chat.db"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise Invalid(f"MCP_CHAT_DATABASE_URL is not a database URL: {example}.") from None
    if parsed.drivername != "sqlite+aiosqlite":
        raise Invalid(f"MCP_CHAT_DATABASE_URL names an engine that this version does not serve: {example}.")
    name = parsed.database or ""
    if not name or name == ":memory:" or name.startswith("file:") or "\0" in name or parsed.host or parsed.query:
        raise Invalid(f"MCP_CHAT_DATABASE_URL must name a file, since a record has to outlive its server: {example}.")
    path = Path(name)
    if not path.is_absolute():
        raise Invalid(f"MCP_CHAT_DATABASE_URL must name an absolute path (four slashes after the colon): {example}.")
    return path


def refuse_network_file_system(path: Path, mounts: Path = MOUNTS) -> None:
    """Raise Unavailable where the path lies on a network file system, whose locks SQLite cannot rely on.

    The rule is SQLite's own: sqlite.org/wal.html ("does not work over a network filesystem"), howtocorrupt.html.
    """
    kind = "network share" if str(path).startswith("\\\\") else _file_system(path, mounts)
    if kind in _NETWORK_FILE_SYSTEMS or kind == "network share":
        raise Unavailable(
            f"The database lies on a network file system ({kind}), where SQLite's locks do not hold: "
            "name a path on a local disk in MCP_CHAT_DATABASE_URL."
        )


def _file_system(path: Path, mounts: Path) -> str | None:
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    found, longest = None, -1
    resolved = path.resolve()
    for line in lines:
        fields = line.split()
        if len(fields) < 3:
            continue
        point = _OCTAL.sub(lambda escaped: chr(int(escaped[1], 8)), fields[1])
        # A later mount covers an earlier one at the same place.
        if resolved.is_relative_to(point) and len(point) >= longest:
            found, longest = fields[2], len(point)
    return found


def prepare(path: Path, library: ModuleType) -> Journal:
    """Create or check the file, bring it to the newest schema, and say with which journal it is kept.

    Raises Unavailable, and leaves the file alone, where it is damaged, not ours, newer than we are, on a network file
    system, or in a place that cannot be written.
    """
    engine = SqliteEngine(path, library)
    with refusals(library):
        refuse_network_file_system(path)
        if _is_fresh(path):
            make_folder(path.parent)
            with locked(path):
                # Another may have been first: a file that is in use is not opened beside SQLite.
                if _is_fresh(path):
                    create_private(path)
                return _upgrade(engine)
        with closing(engine.open_raw(_OPEN_BUSY_MILLISECONDS)) as raw:
            if _version_of(raw) == SCHEMA_VERSION:
                return _settle_journal(raw, library, may_choose_wal=False)
        with locked(path):
            return _upgrade(engine)


class FileReport(TypedDict):
    """What is known of a database file; sizes in bytes, `mode` as in `ls -l`, `integrity` is ok or SQLite's finding."""

    path: str
    exists: bool
    size: int
    mode: str
    schema_version: int
    newest_version: int
    journal_mode: str
    library: str
    library_version: str
    integrity: str


def examine(path: Path, library: ModuleType) -> FileReport:
    """Look at the file without changing it; raises Unavailable where it is not a database of ours, or newer."""
    with refusals(library):
        fresh = _is_fresh(path)
    report: FileReport = {
        "path": str(path),
        "exists": not fresh,
        "size": 0,
        "mode": "",
        "schema_version": 0,
        "newest_version": SCHEMA_VERSION,
        "journal_mode": "",
        "library": library.__name__,
        "library_version": library.sqlite_version,
        "integrity": "ok",
    }
    if not report["exists"]:
        return report
    with refusals(library), closing(SqliteEngine(path, library).open_raw(_OPEN_BUSY_MILLISECONDS)) as raw:
        report["size"], report["mode"] = path.stat().st_size, stat.filemode(path.stat().st_mode)
        report["schema_version"] = _version_of(raw)
        report["journal_mode"] = raw.execute("PRAGMA journal_mode").fetchone()[0]
        report["integrity"] = raw.execute("PRAGMA integrity_check(1)").fetchone()[0]
    return report


def switch_to_wal(path: Path, library: ModuleType) -> Journal:
    """Put an existing file into WAL mode where the library is safe for it and no other process holds the file."""
    with refusals(library), locked(path):
        return settle_in_wal(path, library)


def settle_in_wal(path: Path, library: ModuleType) -> Journal:
    """Do so where the lock is held already."""
    with closing(SqliteEngine(path, library).open_raw(_OPEN_BUSY_MILLISECONDS)) as raw:
        _version_of(raw)
        return _settle_journal(raw, library, may_choose_wal=True)


def _is_fresh(path: Path) -> bool:
    """Tell whether there is no database yet; raises Unavailable where there is something else."""
    if path.is_dir():
        raise Unavailable("The database path is a folder: name a file in it in MCP_CHAT_DATABASE_URL.")
    if not path.exists() or path.stat().st_size == 0:
        return True
    # SQLite takes a file of a few bytes for an empty database, and would write over it. It is not opened here: closing
    # it would let go of every lock that this process has on it (sqlite.org/howtocorrupt.html, 2.2).
    if path.stat().st_size < _SMALLEST:
        raise Unavailable(NOT_A_DATABASE)
    return False


@contextmanager
def refusals(library: ModuleType) -> Iterator[None]:
    """Turn what the system and the driver raise into Unavailable."""
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"The database's folder cannot be used ({error.strerror}): "
            "make it writable, or name another in MCP_CHAT_DATABASE_URL."
        ) from None
    except (library.Error, UnicodeDecodeError) as error:
        raise refusal(error) or Unavailable(ODD) from None


def make_folder(folder: Path) -> None:
    """Create the folder for its owner alone, where it is new."""
    if not folder.exists():
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)


def create_private(path: Path) -> None:
    """Create an empty file for its owner alone; one that is there and empty becomes its owner's alone."""
    # SQLite gives the journal and the shared memory the mode of the file.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        path.chmod(0o600)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock under which a database is created, migrated and restored; raises Unavailable after a minute."""
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(path.name + ".lock"), timeout=_LOCK_SECONDS, mode=0o600)
    try:
        with lock:
            yield
    except Timeout:
        raise Unavailable(
            "Another process has been preparing the database for a minute: end it, then try again."
        ) from None


def _version_of(raw: Any) -> int:
    # On one snapshot: another process may be creating the schema.
    raw.execute("BEGIN")
    try:
        (version,) = raw.execute("PRAGMA user_version").fetchone()
        (application,) = raw.execute("PRAGMA application_id").fetchone()
        (tables,) = raw.execute("SELECT count(*) FROM sqlite_master").fetchone()
    finally:
        raw.execute("ROLLBACK")
    if application != APPLICATION_ID and (tables or version):
        raise Unavailable(
            "The file is the database of another program and was left as it is: "
            "name another file in MCP_CHAT_DATABASE_URL."
        )
    if version > SCHEMA_VERSION:
        raise Unavailable(
            f"The database was written by a newer version (schema {version}, this one knows {SCHEMA_VERSION}) "
            "and was left as it is: upgrade mcp-chat-server."
        )
    return int(version)


def _upgrade(engine: SqliteEngine) -> Journal:
    with closing(engine.open_raw(_OPEN_BUSY_MILLISECONDS)) as raw:
        # Another process may have been first, while this one waited for the lock.
        version = _version_of(raw)
        journal = _settle_journal(raw, engine.library, may_choose_wal=version == 0)
        if version < SCHEMA_VERSION:
            # Alembic costs a tenth of a second: imported only where there is something to migrate.
            from models import migrate

            connection = engine.over(raw)
            try:
                # The driver's transaction first, so that SQLAlchemy's, which commits it, finds the write lock taken.
                raw.execute("BEGIN IMMEDIATE")
                with connection.begin():
                    migrate.upgrade(connection)
                    raw.execute(f"PRAGMA application_id={APPLICATION_ID:d}")
                    raw.execute(f"PRAGMA user_version={SCHEMA_VERSION:d}")
            finally:
                connection.detach()
        return journal


def _settle_journal(raw: Any, library: ModuleType, *, may_choose_wal: bool) -> Journal:
    """Choose the journal of a fresh file; leave that of an existing one, unless this library cannot keep it safe."""
    safe = is_safe_for_wal(library.sqlite_version_info)
    (mode,) = raw.execute("PRAGMA journal_mode").fetchone()
    wanted = "wal" if safe and may_choose_wal else "delete" if not safe else mode
    if mode != wanted:
        try:
            (mode,) = raw.execute(f"PRAGMA journal_mode={wanted}").fetchone()
        except library.OperationalError:
            (mode,) = raw.execute("PRAGMA journal_mode").fetchone()
    version = library.sqlite_version
    if mode == "wal" and not safe:
        raise Unavailable(
            f"The database is kept in WAL mode by another server, and this SQLite ({version}) may damage such a file "
            "(the WAL-reset bug): end the other servers, or install pysqlite3 for this Python."
        )
    if mode == "wal":
        return Journal(mode, None)
    if not safe:
        return Journal(mode, f"SQLite {version} has the WAL-reset bug, so the file is kept with a rollback journal")
    return Journal(mode, "the file was made with a rollback journal: `mcp-chat-server db upgrade` switches it to WAL")
