"""Remnants: what SQLite leaves of deleted rows in the file and its log, and how it is overwritten.

`secure_delete` overwrites a cell where it is freed. But when cells move to a neighbouring page (a page is split, or two
are joined), SQLite builds the page anew and leaves the old copies standing in its gap, the unused bytes between the
cell pointers and the cells (sqlite.org/fileformat2.html, "B-tree Pages"). A row that is deleted later is overwritten
where it stands then, and its copy in the gap stays. Any index and any table may have such gaps.

No statement reaches a gap, short of writing the whole file anew. So the gaps are overwritten beside SQLite, under its
write lock and with an empty log: nobody else writes to the file then, nothing reads a gap, and a gap that is half
overwritten when the machine fails is as good as before. A small commit follows, after which every connection reads
its pages again, so that none writes an old copy back.

This runs as a process of its own (`python remnants.py FILE LIBRARY`): to close a file lets go of all locks that a
process has on it, SQLite's too (sqlite.org/howtocorrupt.html, 2.2). It prints one line of JSON, a `Swept`.
"""

import asyncio
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

PAGES_PER_STEP = 500
"""So many pages are overwritten under one hold of the write lock at most."""

_READ_AT_ONCE = 4_194_304
_BREATH_SECONDS = 0.02
_TRIES = 10
_BUSY_MILLISECONDS = 100
_HEADER = 100
_INTERIOR, _BTREE = (2, 5), (2, 5, 10, 13)
# From here on the first byte of an overflow page, a part of a page number, may look like that of a page of cells.
_MOST_PAGES = 2**24
_LOCK_BYTE = 2**30


@dataclass(frozen=True, slots=True)
class Swept:
    """What became of a sweep: `problem` is None where nothing is left of what was deleted before it began."""

    pages: int = 0
    overwritten: int = 0
    problem: str | None = None


async def sweep_elsewhere(path: Path, library: str) -> Swept:
    """Sweep the file in a process of its own; that is ended where the caller is cancelled, which is always safe."""
    command = [sys.executable, "-I", __file__, str(path), library]
    nothing = subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=nothing, stdout=subprocess.PIPE, stderr=nothing)
        try:
            printed, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return Swept(**json.loads(printed))
    except (OSError, ValueError, TypeError):
        return Swept(problem="the process that overwrites it could not be run")


def sweep(path: Path, library: ModuleType) -> Swept:
    """Empty the log and overwrite the gaps of all pages, in short steps between which others write."""
    with path.open("r+b", buffering=0) as file:
        # Closed before the file is, which would let go of its locks.
        raw = library.connect(str(path), isolation_level=None)
        try:
            return _Sweep(path, file, raw, library).run()
        except library.Error as error:
            return Swept(problem=f"the database is in use or out of order ({type(error).__name__})")
        finally:
            raw.close()


class _Sweep:
    def __init__(self, path: Path, file: BinaryIO, raw: Any, library: ModuleType) -> None:
        self._path = path
        self._log = path.with_name(path.name + "-wal")
        self._file = file
        self._raw = raw
        self._busy = library.OperationalError
        raw.execute(f"PRAGMA busy_timeout={_BUSY_MILLISECONDS:d}")
        raw.execute("PRAGMA synchronous=FULL")
        self._page_size, self._usable, self._is_plain = self._read_header()
        self._zeros = bytes(self._page_size)

    def run(self) -> Swept:
        if not self._is_plain:
            return Swept(problem="the file keeps maps of its pages, which a sweep does not know")
        if not self._empty_log():
            return Swept(problem="another program reads or writes for so long that the log cannot be emptied")
        pages, dirty = self._size() // self._page_size, list(self._dirty_pages())
        if pages >= _MOST_PAGES:
            return Swept(pages, problem="the file is too large to tell its pages apart")
        for first in range(0, len(dirty), PAGES_PER_STEP):
            if not self._overwrite(dirty[first : first + PAGES_PER_STEP]) or not self._empty_log():
                return Swept(pages, first, "another program reads or writes for so long that the log cannot be emptied")
        return Swept(pages, len(dirty))

    def _read_header(self) -> tuple[int, int, bool]:
        self._file.seek(0)
        header = self._file.read(_HEADER)
        size = int.from_bytes(header[16:18], "big")
        size = 65_536 if size == 1 else size
        return size, size - header[20], not any(header[52:56])

    def _size(self) -> int:
        return self._file.seek(0, os.SEEK_END)

    def _empty_log(self) -> bool:
        for _ in range(_TRIES):
            # What can be written without keeping anybody waiting is written first.
            self._raw.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            try:
                ((busy, *_),) = self._raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            except self._busy:
                busy = True
            if not busy:
                return True
            time.sleep(_BREATH_SECONDS)
        return False

    def _dirty_pages(self) -> Iterator[int]:
        """Return the pages, counted from 0, with something in their gap; read while others may write."""
        at_once = max(1, _READ_AT_ONCE // self._page_size)
        for first in range(0, self._size() // self._page_size, at_once):
            some = self._read(first, at_once)
            for number in range(len(some) // self._page_size):
                if self._gap(first + number, some, number * self._page_size) is not None:
                    yield first + number

    def _read(self, first: int, count: int) -> bytes:
        self._file.seek(first * self._page_size)
        return self._file.read(count * self._page_size)

    def _gap(self, number: int, pages: bytes, offset: int = 0) -> tuple[int, int] | None:
        """Return where the gap of the page at an offset begins and ends, where there is something in it."""
        # The first page has nothing but the schema, and goes into the log with every sweep.
        if number in (0, _LOCK_BYTE // self._page_size) or pages[offset] not in _BTREE:
            return None
        pointers = offset + (12 if pages[offset] in _INTERIOR else 8)
        begin = pointers + 2 * _integer(pages, offset + 3)
        end = offset + (_integer(pages, offset + 5) or 65_536)
        usable = offset + self._usable
        if not begin < end <= usable or pages[begin:end] == self._zeros[: end - begin]:
            return None
        cells = (offset + _integer(pages, at) for at in range(pointers, begin, 2))
        return (begin - offset, end - offset) if all(end <= cell < usable for cell in cells) else None

    def _overwrite(self, dirty: list[int]) -> bool:
        """Overwrite the gaps of these pages, as they are by now; tells whether nobody was in the way."""
        for _ in range(_TRIES):
            try:
                self._raw.execute("BEGIN IMMEDIATE")
                # Another file may have been put in this one's place.
                if not os.path.samestat(self._path.stat(), os.fstat(self._file.fileno())):
                    return False
                if self._log_is_empty():
                    self._overwrite_locked(dirty)
                    self._raw.execute("COMMIT")
                    return True
            except self._busy:
                time.sleep(_BREATH_SECONDS)
            finally:
                if self._raw.in_transaction:
                    self._raw.execute("ROLLBACK")
            if not self._empty_log():
                return False
        return False

    def _log_is_empty(self) -> bool:
        try:
            return self._log.stat().st_size == 0
        except FileNotFoundError:
            return True

    def _overwrite_locked(self, dirty: list[int]) -> None:
        for number in dirty:
            page = self._read(number, 1)
            gap = self._gap(number, page) if len(page) == self._page_size else None
            if gap is not None:
                begin, end = gap
                self._file.seek(number * self._page_size + begin)
                self._file.write(self._zeros[: end - begin])
        os.fsync(self._file.fileno())
        # Written though it stays the same: whoever keeps pages in memory reads them again after this commit.
        ((version,),) = self._raw.execute("PRAGMA user_version").fetchall()
        self._raw.execute(f"PRAGMA user_version={version:d}")


def _integer(data: bytes, at: int) -> int:
    return data[at] << 8 | data[at + 1]


if __name__ == "__main__":
    print(json.dumps(asdict(sweep(Path(sys.argv[1]), importlib.import_module(sys.argv[2])))))
