"""Upkeep of the database file: looking at it, and bringing it to the newest schema."""

import asyncio

from models.sqlite import choose_library
from models.sqlite_file import FileReport, examine, path_from_url, prepare, switch_to_wal

__all__ = ["FileReport", "check", "upgrade"]


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
