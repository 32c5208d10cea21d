"""The process that records: reads copies of the traffic, finds the calls in them, and writes them down.

Nothing of the database is imported before the first call passes, so that a server that is only listed costs next to
nothing.
"""

import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from server.relay.calls import Call
from server.relay.copies import Kind, read_copies
from server.relay.observer import Observer
from server.relay.options import Options

if TYPE_CHECKING:
    from server.relay.entries import Entries
    from server.relay.recording import Recording

logger = logging.getLogger(__name__)

MAX_LINE_BYTES = 8_388_608
_LAST_SECONDS = 10.0


def main(options: Options) -> NoReturn:
    """Record what comes on stdin until it ends; what is missing then is said on stderr."""
    recorder = Recorder(options)
    observer = Observer(MAX_LINE_BYTES)
    ended = False
    for copy in read_copies(sys.stdin.buffer):
        ended = copy.kind is Kind.END
        missed = observer.missed_bytes
        recorder.record(observer.see(copy))
        if observer.missed_bytes > missed:
            recorder.miss(observer.missed_bytes - missed)
        if observer.calls:
            recorder.open()
    if not ended and options.server is not None:
        end_orphan(*options.server)
    recorder.record(observer.end(time.time_ns(), time.monotonic_ns()))
    report = recorder.finish(options.wait)
    # A relay that was killed hears nothing any more.
    with suppress(OSError):
        if report:
            sys.stderr.write(f"mcp-chat-server: {report}\n")
        sys.stderr.flush()
    leave_the_report()
    recorder.finish(_LAST_SECONDS)
    os._exit(0)


def end_orphan(server: int, group: int) -> None:
    """Kill the server, whose relay was killed: that was meant for it, and not every server ends with its stdin."""
    with suppress(OSError, AttributeError):
        if os.getpgid(server) == group:
            os.kill(server, signal.SIGKILL)


def leave_the_report() -> None:
    """Close what the relay waits for; what is written after it goes nowhere."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(nothing, descriptor)


class Recorder:
    """Turns calls into entries; opened at the first call, and where that fails, it goes on counting."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._run = secrets.token_hex(6)
        self._entries: Entries | None = None
        self._recording: Recording | None = None
        self._refusal = ""
        self._lost = 0

    def open(self) -> None:
        """Read the settings and begin to open the record, where that has not begun."""
        if self._recording is not None or self._refusal:
            return
        from models.errors import ChatError
        from server.logs import set_up_logging
        from server.relay.destination import Destination
        from server.relay.entries import Entries, name_of
        from server.relay.recording import Recording
        from server.relay.redaction import Redaction, read_patterns
        from server.settings import read_settings

        try:
            settings = read_settings()
            set_up_logging(settings.log_level)
            given = self._options
            redaction = Redaction(
                [*settings.record_redact_fields, *given.redact_fields],
                {**settings.record_redact_patterns, **read_patterns(given.redact_patterns)},
            )
        except ChatError as error:
            self._refusal = str(error)
            return
        limit = min(given.max_bytes or settings.record_max_bytes, settings.max_content_bytes)
        self._entries = Entries(self._run, redaction, max(limit, 1_024))
        workspace = name_of(str(Path.cwd())) or "/"
        destination = Destination(given.session, given.title, workspace, self._run)
        self._recording = Recording(settings, destination)

    def record(self, calls: Iterable[Call]) -> None:
        """Write calls down that have ended."""
        for call in calls:
            self.open()
            if self._entries is None or self._recording is None:
                self._lost += 1
            else:
                self._add(self._entries, self._recording, call)

    def _add(self, entries: "Entries", recording: "Recording", call: Call) -> None:
        from server.relay.entries import name_of

        try:
            recording.add(entries.of(call), name_of(call.client))
        except Exception as error:
            # One call that cannot be understood does not stop the record of the others.
            logger.error("a call could not be recorded", exc_info=error)
            recording.add_gap(calls=1)

    def miss(self, missed_bytes: int) -> None:
        """Take note of bytes that passed unseen."""
        self.open()
        if self._recording is not None:
            self._recording.add_gap(missed_bytes=missed_bytes)

    def finish(self, seconds: float) -> str:
        """Write what waits, for so long at most; return what is to be said of what is missing then."""
        if self._recording is None:
            return f"nothing was recorded, {self._lost} tool calls passed: {self._refusal}" if self._refusal else ""
        from server.relay.recording import tell_gap

        recording = self._recording
        waiting = recording.finish(seconds)
        lost = recording.lost_calls + waiting
        if not (lost or recording.lost_bytes):
            return ""
        trying = f", of which {waiting} are tried for {_LAST_SECONDS:.0f} seconds more" if waiting else ""
        return f"{tell_gap(lost, recording.lost_bytes)}{trying}. {recording.reason}".rstrip()
