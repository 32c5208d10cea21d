"""Importing what lies at paths, files and folders; once, or for as long as one likes, as the files grow."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from chat_service.archive.read import restore_file
from chat_service.import_sessions import Origin
from chat_service.imports import Report, import_file
from chat_service.service import ChatService
from chat_service.transcripts.formats import FORMATS, files_in
from models.errors import Invalid, Unavailable
from models.ids import SessionId, UserId

ARCHIVE = "jsonl"
"""The name of our own format, which is restored rather than imported."""

FORMAT_NAMES = (*FORMATS, ARCHIVE)

Progress = Callable[[int, int], None]


def _no_progress(done: int, total: int) -> None:
    """Tell nobody."""


def _advance(progress: Progress, done: int, total: int, read: int) -> None:
    progress(done + read, total)


class Importer:
    """Imports the files of one format at some paths, as often as it is asked to; raises Invalid."""

    def __init__(
        self,
        service: ChatService,
        user_id: UserId,
        format_name: str,
        paths: Sequence[Path],
        into: SessionId | None = None,
        *,
        brings_back: bool = False,
    ) -> None:
        if format_name not in FORMAT_NAMES:
            raise Invalid(f"format is one of {', '.join(FORMAT_NAMES)}.")
        if into is not None and format_name == ARCHIVE:
            raise Invalid("into is for transcripts of other clients: an archive restores its own sessions.")
        self._service = service
        self._user_id = user_id
        self._format_name = format_name
        self._paths = paths
        self._into = into
        self._brings_back = brings_back
        self._seen: dict[Path, tuple[int, int]] = {}

    async def import_all(self, progress: Progress = _no_progress) -> Report:
        """Import and index every file, and say what became of them; `progress` hears bytes done and in all."""
        report = await self._import(self._files(), progress)
        # Where that cannot be, a search does it, and says how far it came.
        with suppress(Unavailable):
            await self._service.finish_indexing()
        return report

    async def import_changed(self) -> Report | None:
        """Import the files that are new or have changed since the last time, and say what became of them."""
        now = self._files()
        changed = {path: state for path, state in now.items() if self._seen.get(path) != state}
        self._seen = now
        return await self._import(changed, _no_progress) if changed else None

    async def watch(self, told: Callable[[Report], None], stop: asyncio.Event, interval: float) -> None:
        """Import what changes, looking every so many seconds, until `stop` is set; a file once begun is finished."""
        while not stop.is_set():
            report = await self.import_changed()
            if report is not None:
                told(report)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), interval)

    def _files(self) -> dict[Path, tuple[int, int]]:
        """Return the files there are, with what changes when they do; one that is not there is told of on import."""
        patterns = ["**/*.jsonl"] if self._format_name == ARCHIVE else FORMATS[self._format_name].patterns
        found: dict[Path, tuple[int, int]] = {}
        for path in self._paths:
            for file in files_in(path, patterns):
                try:
                    state = file.stat()
                    found[file] = (state.st_size, state.st_mtime_ns)
                except OSError:
                    found[file] = (0, 0)
        return found

    async def _import(self, files: dict[Path, tuple[int, int]], progress: Progress) -> Report:
        report = Report()
        total, done = sum(size for size, _ in files.values()), 0
        progress(0, total)
        for path, (size, _) in files.items():
            await self._import_file(path, report, partial(_advance, progress, done, total))
            done += size
            progress(done, total)
        return report

    async def _import_file(self, path: Path, report: Report, progress: Callable[[int], None]) -> None:
        service, user_id, name = self._service, self._user_id, self._format_name
        if name == ARCHIVE:
            await restore_file(service, user_id, path, report, brings_back=self._brings_back, progress=progress)
            return
        origin = Origin(name, self._into, self._brings_back)
        await import_file(service, user_id, origin, FORMATS[name], path, report, progress=progress)
