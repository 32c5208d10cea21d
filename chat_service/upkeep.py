"""Upkeep of the database file: looking at it, bringing it to the newest schema, backing it up and restoring it."""

import asyncio
from pathlib import Path

from models import sqlite_copy
from models.sqlite import choose_library
from models.sqlite_copy import Progress
from models.sqlite_file import FileReport, examine, path_from_url, prepare, switch_to_wal

__all__ = ["FileReport", "Progress", "backup", "check", "restore", "upgrade"]


async def check(url: str) -> FileReport:
    """Look at the file without changing it; raises Invalid or Unavailable."""
    return await asyncio.to_thread(examine, path_from_url(url), choose_library())


async def upgrade(url: str) -> FileReport:
    """Create the file or bring it to the newest schema, switch it to WAL where that is safe, and look at it."""
    path, library = path_from_url(url), choose_library()
    journal = await asyncio.to_thread(prepare, path, library)
    if journal.mode != "wal":
        await asyncio.to_thread(switch_to_wal, path, library)
    return await check(url)


async def backup(url: str, target: Path, progress: Progress) -> None:
    """Write a copy of the database while others use it; raises NotFound, Conflict or Unavailable."""
    await asyncio.to_thread(sqlite_copy.backup, path_from_url(url), target, choose_library(), progress)


async def restore(url: str, source: Path, progress: Progress, *, replace: bool) -> Path | None:
    """Put a backup in the database's place, and return the file that keeps what was there before, if anything was."""
    path, library = path_from_url(url), choose_library()
    return await asyncio.to_thread(sqlite_copy.restore, path, source, library, progress, replace=replace)
