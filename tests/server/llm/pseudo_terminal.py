"""A person at a terminal: a real pseudo-terminal with a real process on it, which is typed at and read."""

import codecs
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from tests.server.support import COMMAND, WAIT_SECONDS

CTRL_C, CTRL_D = "\x03", "\x04"
PROMPT = "\n> "
_BEGIN = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class PseudoTerminal:
    """What a process shows, and what is typed."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self.shown = ""
        self._descriptor = descriptor
        self._seen = 0
        # A read may end within a character.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def type(self, text: str) -> None:
        """Type a text; keys like Ctrl-C are typed as what they send."""
        os.write(self._descriptor, text.encode())

    def enter(self, line: str) -> None:
        """Type a line."""
        self.type(f"{line}\r")

    def interrupt(self) -> None:
        """Type Ctrl-C, and once more where nothing comes of it.

        Python's `readline` does not hear a signal between what it has shown and its next wait, until something else is
        typed; nobody types so fast.
        """
        self.type(CTRL_C)
        if not select.select([self._descriptor], [], [], WAIT_SECONDS / 6)[0]:
            self.type(CTRL_C)

    def until(self, text: str) -> str:
        """Wait until a text is shown, and return what is shown up to there since the last time."""
        while (place := self._plain().find(text, self._seen)) < 0:
            assert self._read(), f"{text!r} was never shown, but {self._plain()[self._seen :]!r}"
        since, self._seen = self._plain()[self._seen : place + len(text)], place + len(text)
        return since

    def hang_up(self) -> None:
        """Close the terminal, as a window is closed."""
        os.close(self._descriptor)

    def wait(self) -> int:
        """Read until the process has ended, and return its exit code."""
        while self._read():
            pass
        return self.process.wait(WAIT_SECONDS)

    def since(self) -> str:
        """Return what is shown after what was waited for."""
        return self._plain()[self._seen :]

    def _plain(self) -> str:
        # What the line editing itself sends: where a paste may begin, and moves to the start of a line.
        return self.shown.replace("\x1b[?2004h", "").replace("\x1b[?2004l", "").replace("\r", "")

    def _read(self) -> bool:
        ready, _, _ = select.select([self._descriptor], [], [], WAIT_SECONDS)
        assert ready, f"nothing more is shown after {self._plain()[self._seen :]!r}"
        try:
            read = os.read(self._descriptor, 65_536)
        except OSError:
            # Nobody has the other end any more.
            return False
        self.shown += self._decoder.decode(read)
        return bool(read)


@contextmanager
def terminal(environment: Mapping[str, str], *arguments: str) -> Iterator[PseudoTerminal]:
    """Start the command in a terminal, and end it at the end."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 500, 0, 0))
    command = [sys.executable, "-c", _BEGIN, str(COMMAND), *arguments]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, **environment}, start_new_session=True
    ) as process:
        os.close(theirs)
        try:
            yield PseudoTerminal(process, ours)
        finally:
            with suppress(OSError):
                os.close(ours)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
