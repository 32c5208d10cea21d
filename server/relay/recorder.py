"""The process that records: reads copies of the traffic, finds the calls in them, and writes them down.

Nothing of the database is imported before the first call passes, so that a server that is only listed costs next to
nothing.
"""

import logging
import os
import pickle
import secrets
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from server.relay.calls import Call
from server.relay.copies import Copy, Kind, read_copies
from server.relay.notes import Notebook, Told
from server.relay.observer import Observer
from server.relay.options import Options

if TYPE_CHECKING:
    from server.relay.entries import Entries
    from server.relay.recording import Recording
    from server.relay.waiting import Chosen, Gap, Left, Settled

logger = logging.getLogger(__name__)

MAX_LINE_BYTES = 8_388_608
STATE_EVERY_BYTES = 1_048_576
"""After so much traffic, or as much as the last state had, the next state is left."""
MAX_STATE_BYTES = 16 * 1_048_576
"""A larger state is not left; the relay keeps the copies instead, as far as it does."""
_LAST_SECONDS = 10.0


def main(options: Options) -> NoReturn:
    """Record what comes on stdin until it ends; what is missing then is said on stderr."""
    # What anything may print goes elsewhere than the notes.
    notebook = Notebook(os.dup(1))
    os.dup2(2, 1)
    recorder = Recorder(options, notebook)
    for copy in read_copies(sys.stdin.buffer):
        recorder.take(copy)
        if copy.kind is Kind.END:
            break
    else:
        # The relay was killed: it hears nothing any more.
        leave_the_report()
        if options.server is not None:
            end_orphan(*options.server)
        recorder.end(time.time_ns(), time.monotonic_ns())
    report = recorder.finish(options.wait)
    with suppress(OSError):
        if report:
            sys.stderr.write(f"mcp-chat-server: {report}\n")
        sys.stderr.flush()
    leave_the_report()
    notebook.write(Told.FINISHED)
    notebook.close()
    recorder.finish(_LAST_SECONDS)
    os._exit(0)


def end_orphan(server: int, group: int) -> None:
    """Kill the server, whose relay was killed: that was meant for it, and not every server ends with its stdin."""
    with suppress(OSError, AttributeError):
        if os.getpgid(server) == group:
            os.kill(server, signal.SIGKILL)


def leave_the_report() -> None:
    """Let go of what the client may wait for; what is written after it goes nowhere."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(nothing, descriptor)


class Recorder:
    """Turns calls into entries; opened at the first call, and where that fails, it goes on counting.

    What it has not recorded another can: now and then it tells all that it knows, and in between what changes.
    """

    def __init__(self, options: Options, notebook: Notebook) -> None:
        self._options = options
        self._notebook = notebook
        self._run = options.run or secrets.token_hex(6)
        self._observer = Observer(MAX_LINE_BYTES)
        self._left: Left | None = None
        self._seen = 0
        self._untold_bytes = 0
        self._state_bytes = 0
        self._entries: Entries | None = None
        self._recording: Recording | None = None
        self._refusal = ""
        self._lost = 0

    def take(self, copy: Copy) -> None:
        """Take a copy, or what an earlier process has left."""
        if copy.kind in (Kind.STATE, Kind.NOTE, Kind.BEGIN):
            self._take_over(copy)
            return
        missed = self._observer.missed_bytes
        self._record(self._observer.see(copy))
        if self._observer.missed_bytes > missed:
            self._miss(self._observer.missed_bytes - missed)
        if copy.kind is Kind.END:
            self.end(copy.wall, copy.moment)
        elif self._observer.calls:
            self.open()
        self._seen += 1
        self._untold_bytes += len(copy.data)
        if self._untold_bytes >= max(STATE_EVERY_BYTES, self._state_bytes):
            self._leave_a_state()

    def end(self, wall: int, moment: int) -> None:
        """Take note that nothing more comes: what waits for its answer never gets it."""
        self._record(self._observer.end(wall, moment))

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
        destination = Destination(given.session, given.title, name_of(_workspace()) or "/", self._run)
        left, self._left = self._left, None
        self._recording = Recording(settings, destination, left=left, tell=self._tell)

    def _take_over(self, copy: Copy) -> None:
        from server.relay.waiting import Left

        # What is read here was written by a process like this one.
        if copy.kind is Kind.STATE:
            self._observer, self._lost, self._left = pickle.loads(copy.data)  # noqa: S301
        elif copy.kind is Kind.NOTE:
            self._left = self._left or Left()
            self._left.take(pickle.loads(copy.data))  # noqa: S301
        elif self._left is not None:
            self.open()

    def _tell(self, note: "Chosen | Settled | Gap") -> None:
        self._notebook.write(Told.NOTE, pickle.dumps(note))

    def _leave_a_state(self) -> None:
        """Leave all that another process needs in our place; it then needs none of the copies so far."""
        self._untold_bytes = 0
        if self._recording is None:
            self._leave(self._left)
        elif self._recording.held_bytes <= MAX_STATE_BYTES:
            self._recording.leave(self._leave)

    def _leave(self, left: "Left | None") -> None:
        try:
            state = pickle.dumps((self._observer, self._lost, left))
        except RecursionError:
            # A call that is too deeply nested is still open.
            return
        self._state_bytes = len(state)
        if len(state) <= MAX_STATE_BYTES:
            self._notebook.write(Told.STATE, state, self._seen)

    def _record(self, calls: Iterable[Call]) -> None:
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
            recording.add_gap(entries.key_of(call), calls=1)

    def _miss(self, missed_bytes: int) -> None:
        """Take note of bytes that passed unseen."""
        self.open()
        if self._recording is not None:
            self._recording.add_gap(f"{self._run}:{self._observer.missed_bytes}", missed_bytes=missed_bytes)

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


def _workspace() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        # It was removed since the client started us there.
        return "/"
