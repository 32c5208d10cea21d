"""What the tests of the relay share: a client on raw pipes, with or without the relay in between, and the record."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chat_service.service import ChatService
from models.database import Database
from models.ids import UserId
from models.inputs import NewUser
from models.shapes import MessageDict, SessionDict, ToolUsageDict
from tests.server.support import COMMAND, WAIT_SECONDS, environment_of

SERVER = Path(__file__).with_name("scripted_server.py")
RECORD = [sys.executable, str(COMMAND), "record"]
HELLO = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"clientInfo": {"name": "tester"}}}


def scripted(log: Path) -> list[str]:
    """Return the command of the scripted server."""
    return [sys.executable, "-S", str(SERVER), str(log)]


def relayed(*command: str, options: Sequence[str] = ("--wait", "60")) -> list[str]:
    """Return the command with the relay before it."""
    return [*RECORD, *options, "--", *command]


class Pipes:
    """A program on raw pipes: what it is sent, what it wrote, and how it ended."""

    def __init__(self, command: Sequence[str], url: str, preexec_fn: Callable[[], None] | None = None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment_of(url),
            preexec_fn=preexec_fn,
            bufsize=0,
        )

    def send(self, *messages: Any) -> None:
        """Send messages as lines."""
        self.send_bytes(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are."""
        assert self.process.stdin is not None
        view = memoryview(data)
        while view:
            view = view[self.process.stdin.write(view) :]

    def read(self, size: int) -> bytes:
        """Read so many bytes, or until the end."""
        assert self.process.stdout is not None
        parts = []
        while size and (part := self.process.stdout.read(min(size, 65_536))):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def answer(self) -> dict[str, Any]:
        """Read one line."""
        assert self.process.stdout is not None
        line: dict[str, Any] = json.loads(self.process.stdout.readline())
        return line

    def call(self, number: Any, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool and wait for the answer."""
        self.send(call(number, tool, **arguments))
        answer = self.answer()
        assert answer["id"] == number
        return answer

    def end_input(self) -> None:
        """Close its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def rest(self) -> bytes:
        """Read until the end."""
        return self.read(1 << 40)

    def wait(self) -> int:
        """Wait until it ends, and return how."""
        return self.process.wait(WAIT_SECONDS)

    def errors(self) -> str:
        """Return what it wrote to stderr."""
        self._errors.seek(0)
        return self._errors.read().decode()

    def close(self) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self._errors):
            assert pipe is not None
            pipe.close()


@contextmanager
def piped(command: Sequence[str], url: str, preexec_fn: Callable[[], None] | None = None) -> Iterator[Pipes]:
    """Start a program on raw pipes, and end it at the end."""
    pipes = Pipes(command, url, preexec_fn)
    try:
        yield pipes
    finally:
        pipes.close()


def call(number: Any, tool: str, /, **arguments: Any) -> dict[str, Any]:
    """Make a call of a tool."""
    params = {"name": tool, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


class Recorded:
    """What is in a database."""

    def __init__(self, sessions: list[SessionDict], calls: list[ToolUsageDict], messages: list[MessageDict]) -> None:
        self.sessions, self.calls, self.messages = sessions, calls, messages

    def outcomes(self) -> list[tuple[str, str]]:
        """Return the tool and the status of each call."""
        return [(each["tool_name"], each["status"]) for each in self.calls]


async def recorded_in(url: str, user: str = "ada") -> Recorded:
    """Read a database: its sessions, and the entries of all of them in order."""
    async with Database(url) as database:
        service = ChatService(database)
        user_id = UserId((await service.get_or_create_user(NewUser(username=user)))["id"])
        sessions = (await service.get_user_sessions(user_id))["sessions"]
        calls: list[ToolUsageDict] = []
        messages: list[MessageDict] = []
        for session in sessions:
            history = await service.get_session_history(user_id, _id(session), 500)
            for entry in history["entries"]:
                if "tool_name" in entry:
                    calls.append(entry)
                else:
                    messages.append(entry)
        return Recorded(sessions, calls, messages)


def _id(session: SessionDict) -> Any:
    return session["id"]
