"""Processes that write to one file, killed and ended at any moment, and the book of what they acknowledged.

Two kinds of writers take the same calls: `ServerWriter` is a real server on raw pipes, `ServiceWriter` a ChatService in
a process of its own. Calls are sent without waiting, and an answer is noted when it arrives: what was read from the
pipe was acknowledged, also where the process is dead by then.

Each message carries an idempotency key, from which its content follows, so that the file can be compared with the book.
"""

import asyncio
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Self

from chat_service import doctor
from chat_service.service import ChatService
from models.database import Database
from models.ids import SessionId
from tests.reliability import writer
from tests.reliability.scale import dice, library_for
from tests.reliability.writer import Place, content_of, sign_in
from tests.server.support import COMMAND, WAIT_SECONDS, environment_of, frame_of, tool_call
from tests.support import new_session

Batch = tuple[str, ...]
"""The idempotency keys of the messages that are appended in one call."""

_RELAY = """
import os, subprocess, sys, threading

def copy(source, target):
    while chunk := os.read(source, 65536):
        while chunk:
            chunk = chunk[os.write(target, chunk):]

server = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
threading.Thread(target=copy, args=(0, server.stdin.fileno()), daemon=True).start()
copy(server.stdout.fileno(), 1)
"""
"""A parent between us and the server: it alone holds the server's pipes, and dies as a client may die."""

_forking = multiprocessing.get_context("forkserver")
_forking.set_forkserver_preload(["__main__", writer.__name__])


class Refused(Exception):
    """The call was answered with a refusal, which says that nothing was stored."""


class Gone(Exception):
    """The process ended, or told of an error of its own, before it answered: what became of the call is unknown."""


class Writer(ABC):
    """A process to which appends are sent without waiting."""

    def __init__(self) -> None:
        self._unanswered: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        self._last_number = 0
        self._is_gone = False

    @abstractmethod
    def append(self, session_id: str, batch: Batch) -> "Future[list[int]]":
        """Send an append; the seqs come when it is acknowledged, Refused or Gone where it is not."""

    @abstractmethod
    def kill(self) -> None:
        """Kill the process as the system kills it, and note what it had still answered."""

    @abstractmethod
    def end(self) -> None:
        """Let the process end by itself, and note its last answers; it must end well."""

    def _ask(self, send: Callable[[int], None]) -> "Future[Any]":
        future: Future[Any] = Future()
        with self._lock:
            self._last_number += 1
            number = self._last_number
            gone = self._is_gone
            if not gone:
                self._unanswered[number] = future
        if gone:
            future.set_exception(Gone())
            return future
        with suppress(OSError):
            # Where the pipe is broken, the end of the answers tells it.
            send(number)
        return future

    def _answered(self, number: int, result: Any, error: Exception | None = None) -> None:
        with self._lock:
            future = self._unanswered.pop(number)
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def _no_more_answers(self) -> None:
        with self._lock:
            self._is_gone = True
            lost, self._unanswered = self._unanswered, {}
        for future in lost.values():
            future.set_exception(Gone())


class ServerWriter(Writer):
    """A real server on raw pipes; with `through_parent`, its pipes are held by a process between it and us."""

    def __init__(self, url: str, environment: Mapping[str, str], *, through_parent: bool = False) -> None:
        super().__init__()
        command = [sys.executable, str(COMMAND)]
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", _RELAY, *command] if through_parent else command,
            env=environment_of(url, environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A group of its own, which can be ended as a whole where a test fails.
            start_new_session=True,
        )
        self._errors: list[bytes] = []
        self._sending = threading.Lock()
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read, self._read_errors)]
        for reader in self._readers:
            reader.start()

    def call(self, name: str, **arguments: Any) -> "Future[dict[str, Any]]":
        """Call a tool without waiting; its structured result comes later, Refused or Gone where it does not."""
        return self._ask(lambda number: self._send(frame_of(tool_call(number, name, **arguments))))

    def answer(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool and wait for its result; raises Refused or Gone."""
        return self.call(name, **arguments).result(WAIT_SECONDS)

    def append(self, session_id: str, batch: Batch) -> "Future[list[int]]":
        """Send an append."""
        messages = [{"role": "user", "content": content_of(key), "idempotency_key": key} for key in batch]
        return _seqs_of(self.call("add_messages", session_id=session_id, messages=messages))

    def kill(self) -> None:
        """Kill the server."""
        self.process.kill()
        assert self.wait_until_gone(WAIT_SECONDS)
        self.close()

    def end(self) -> None:
        """Close the server's stdin and wait until it has ended."""
        self.end_input()
        assert self.wait_until_gone(WAIT_SECONDS), "the server does not end"
        assert self.process.returncode == 0, self.errors()
        self.close()

    def end_input(self) -> None:
        """Close the server's stdin."""
        assert self.process.stdin is not None
        with self._sending, suppress(OSError):
            self.process.stdin.close()

    def wait_until_gone(self, seconds: float) -> bool:
        """Tell whether every process that holds the server's stderr has gone, and all was read that they had written.

        This holds for a server that is not our child as well, and says nothing before the server itself is gone.
        """
        for reader in self._readers[::-1]:
            reader.join(seconds)
        if any(reader.is_alive() for reader in self._readers):
            return False
        self.process.wait(seconds)
        return True

    def errors(self) -> str:
        """Return what was written to stderr until now."""
        return b"".join(self._errors).decode(errors="replace")

    def close(self) -> None:
        """End whatever is still there."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for reader in self._readers:
            reader.join()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, frame: bytes) -> None:
        assert self.process.stdin is not None
        with self._sending:
            if self.process.stdin.closed:
                return
            self.process.stdin.write(frame)
            self.process.stdin.flush()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.endswith(b"\n"):
                # The last line of a process that was killed while it wrote.
                break
            frame = json.loads(line)
            result = frame.get("result")
            if result is None:
                self._answered(frame["id"], None, Gone(frame["error"]["message"]))
            elif result["isError"]:
                self._answered(frame["id"], None, Refused(result["content"][0]["text"]))
            else:
                self._answered(frame["id"], result["structuredContent"])
        self._no_more_answers()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        while chunk := os.read(self.process.stderr.fileno(), 65_536):
            self._errors.append(chunk)


class Task:
    """A function of `tests.reliability.writer` in a process of its own, with a pipe in and a pipe out."""

    def __init__(self, function: Callable[..., None], *arguments: Any) -> None:
        orders, self._orders = _forking.Pipe(duplex=False)
        self._answers, answers = _forking.Pipe(duplex=False)
        self.process = _forking.Process(target=function, args=(orders, answers, *arguments), daemon=True)
        self.process.start()
        # Only the process itself holds them now, so that its end is the end of the pipe.
        orders.close()
        answers.close()

    def order(self, order: Any) -> None:
        """Send an order; raises OSError where the process is gone."""
        self._orders.send(order)

    def receive(self) -> Any:
        """Wait for an answer; raises Gone where the process has ended without one."""
        try:
            return self._answers.recv()
        except (EOFError, OSError):
            raise Gone from None

    def end_orders(self) -> None:
        """Say that there are no more orders."""
        self._orders.close()

    def close(self) -> None:
        """End the process, if it has not ended, and let go of the pipes."""
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self._answers.close()
        self._orders.close()


class ServiceWriter(Writer):
    """A ChatService in a process of its own."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._task = Task(writer.serve, place)
        self._sending = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def append(self, session_id: str, batch: Batch) -> "Future[list[int]]":
        """Send an append."""
        return self._ask(lambda number: self._send((number, session_id, batch)))

    def kill(self) -> None:
        """Kill the process."""
        self._task.process.kill()
        self._finish()

    def end(self) -> None:
        """Tell the process that there is no more to do, and wait until it has ended."""
        with self._sending:
            self._task.end_orders()
        self._finish()
        assert self._task.process.exitcode == 0

    def _finish(self) -> None:
        self._task.process.join(WAIT_SECONDS)
        self._reader.join(WAIT_SECONDS)
        self._task.close()

    def _send(self, order: Any) -> None:
        with self._sending:
            self._task.order(order)

    def _read(self) -> None:
        with suppress(Gone):
            while True:
                number, seqs, refusal = self._task.receive()
                self._answered(number, seqs, None if refusal is None else Refused(refusal))
        self._no_more_answers()


class Appending:
    """Keeps several appends in flight on one writer, as far as it is allowed to, and notes what becomes of each.

    `first` are batches whose outcome is unknown from an earlier writer: they are sent again, with the same keys.
    """

    def __init__(
        self,
        writer: Writer,
        session_id: str,
        name: str,
        *,
        first: Iterable[Batch] = (),
        in_flight: int = 6,
        most_messages: int = 4,
    ) -> None:
        self.writer = writer
        self.acknowledged: dict[Batch, list[int]] = {}
        self.refused: dict[Batch, str] = {}
        self._session_id = session_id
        self._name = name
        self._random = dice(name)
        self._most_messages = most_messages
        self._room = in_flight
        self._begun: dict[Batch, None] = {}
        self._retries = deque(first)
        self._allowed = 0
        self._ended = False
        self._changed = threading.Condition()
        self._send_what_fits()

    @property
    def unknown(self) -> list[Batch]:
        """The batches of which nobody knows whether they were stored."""
        with self._changed:
            begun = [batch for batch in self._begun if batch not in self.acknowledged and batch not in self.refused]
            return [*begun, *self._retries]

    @property
    def begun_keys(self) -> set[str]:
        """The keys of all messages that were ever sent."""
        with self._changed:
            return {key for batch in self._begun for key in batch}

    def allow(self, batches: int) -> None:
        """Let so many further batches begin."""
        with self._changed:
            self._allowed += batches
        self._send_what_fits()

    def stop(self) -> list[Batch]:
        """Begin nothing more, and return what is in flight."""
        with self._changed:
            self._allowed = 0
            return self.unknown

    def wait_for(self, acknowledged: int) -> None:
        """Wait until so many batches have been acknowledged, or the process is gone."""
        with self._changed:
            arrived = self._changed.wait_for(
                lambda: self._ended or len(self.acknowledged) >= acknowledged, WAIT_SECONDS
            )
            assert arrived, f"{self._name}: {len(self.acknowledged)} of {acknowledged} acknowledged"

    def wait_for_all(self) -> None:
        """Wait until everything that was allowed has been answered."""
        with self._changed:
            arrived = self._changed.wait_for(self._is_idle, WAIT_SECONDS)
            assert arrived, f"{self._name}: {len(self._begun)} begun, {len(self.acknowledged)} acknowledged"

    def _is_idle(self) -> bool:
        return self._ended or (
            not self._allowed and not self._retries and len(self._begun) == len(self.acknowledged) + len(self.refused)
        )

    def _send_what_fits(self) -> None:
        while True:
            with self._changed:
                if self._ended or not self._room or not (self._retries or self._allowed):
                    return
                if self._retries:
                    batch = self._retries.popleft()
                else:
                    self._allowed -= 1
                    size = self._random.randint(1, self._most_messages)
                    batch = tuple(f"{self._name}-{len(self._begun)}.{number}" for number in range(size))
                self._room -= 1
                self._begun[batch] = None
            self.writer.append(self._session_id, batch).add_done_callback(self._noting(batch))

    def _noting(self, batch: Batch) -> "Callable[[Future[list[int]]], None]":
        def note(future: "Future[list[int]]") -> None:
            error = future.exception()
            with self._changed:
                self._room += 1
                if error is None:
                    self.acknowledged[batch] = future.result()
                elif isinstance(error, Refused):
                    self.refused[batch] = str(error)
                else:
                    self._ended = True
                self._changed.notify_all()
            self._send_what_fits()

        return note


def new_record(url: str, journal: str, sessions: int = 1) -> list[str]:
    """Create the record with the user of the writers and some sessions, and return their ids."""

    async def create() -> list[str]:
        async with Database(url, library=library_for(journal)) as database:
            service = ChatService(database)
            user_id = await sign_in(service)
            return [await new_session(service, user_id) for _ in range(sessions)]

    return asyncio.run(create())


def contents_of(url: str, journal: str, session_id: str, after_seq: int = 0) -> list[str]:
    """Return the contents of a session's messages after a seq, which must stand under the next one, and so on."""

    async def read() -> list[str]:
        contents: list[str] = []
        async with Database(url, library=library_for(journal)) as database:
            service = ChatService(database)
            user_id = await sign_in(service)
            after: int | None = after_seq
            while after is not None:
                page = await service.get_session_messages(user_id, SessionId(session_id), 500, after_seq=after)
                for message in page["messages"]:
                    contents.append(message["content"])
                    assert message["seq"] == after_seq + len(contents), "seq has a gap"
                after = page["after_seq"]
        return contents

    return asyncio.run(read())


def stored_in(url: str, journal: str, session_id: str, known: Mapping[str, int] | None = None) -> dict[str, int]:
    """Return the seq of each key in a session; every message must stand there once and whole.

    What is `known` from an earlier call is taken as it was and not read again.
    """
    stored = dict(known or {})
    for seq, content in enumerate(contents_of(url, journal, session_id, len(stored)), start=len(stored) + 1):
        key = content.partition(" ")[0]
        assert content == content_of(key)
        assert key not in stored, f"{key} was stored twice"
        stored[key] = seq
    return stored


def check_acknowledged(stored: Mapping[str, int], acknowledged: Mapping[Batch, Sequence[int]]) -> None:
    """Every acknowledged message is stored under the number that was told."""
    for batch, seqs in acknowledged.items():
        assert [stored.get(key) for key in batch] == list(seqs)


def check_batches(stored: Collection[str], batches: Iterable[Batch]) -> int:
    """Every batch is stored whole or not at all; returns how many are stored."""
    found = 0
    for batch in batches:
        there = [key in stored for key in batch]
        assert len(set(there)) == 1, f"a part of {batch} was stored"
        found += all(there)
    return found


def check_health(url: str) -> None:
    """The doctor finds nothing wrong; that a file has a rollback journal is no harm to it."""
    findings = asyncio.run(doctor.examine(url, lambda done, total: None))
    assert [each for each in findings if each["is_problem"] and each["check"] not in ("journal", "free space")] == []


def _seqs_of(answer: "Future[dict[str, Any]]") -> "Future[list[int]]":
    seqs: Future[list[int]] = Future()

    def hand_on(done: "Future[dict[str, Any]]") -> None:
        error = done.exception()
        if error is None:
            seqs.set_result([message["seq"] for message in done.result()["messages"]])
        else:
            seqs.set_exception(error)

    answer.add_done_callback(hand_on)
    return seqs
