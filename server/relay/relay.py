"""The relay's own process: starts the server, then the process that records, and stands between client and server.

It is kept so small that it starts at once and never has anything else to do: parsing, redaction and the database are in
another process (`server.relay.recorder`), whose slowness, failure or death cannot reach the traffic.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from subprocess import STDOUT, Popen, TimeoutExpired
from typing import Any, NamedTuple, NoReturn

from server.relay.copies import Copies, Kind
from server.relay.options import Options, read_options
from server.relay.pipes import Direction

_HOME = Path(__file__).resolve().parents[2]
_NOT_FOUND, _NOT_RUNNABLE, _SIGNALLED = 127, 126, 128
_LAST_WORDS_SECONDS, _MOMENT = 2.0, 0.1


def main(words: Sequence[str]) -> NoReturn:
    """Run what the words after `record` ask for, and leave as the server left: with its code, or 128 and its signal."""
    options = read_options(words)
    if options.copies:
        from server.relay.recorder import main as record_copies

        record_copies(options)
    elif options.bridge:
        from server.relay.bridge import main as bridge

        bridge(options)
    relay(options)


def relay(options: Options) -> NoReturn:
    """Stand between the client on our stdin and stdout and the server that we start."""
    with suppress(OSError):
        for descriptor in (0, 1):
            # A client may hand over pipes that do not block; the threads that use them may.
            os.set_blocking(descriptor, True)
    command = list(options.command) or ourselves("--bridge", *options.given)
    server = _start_server(command)
    _pass_signals_on(server.process)
    recorder = _start_recorder(options, server.process.pid)
    copies = Copies(recorder.stdin) if recorder else None
    to_client = Direction(server.stdout, 1, _copier(copies, Kind.TO_CLIENT))
    Direction(0, server.stdin, _copier(copies, Kind.TO_SERVER))
    code = server.process.wait()
    # From here on a signal ends us.
    _on_signals(lambda number, _: os._exit(_SIGNALLED + number))
    to_client.finish()
    if recorder is not None and copies is not None:
        copies.end()
        _finish_record(recorder, copies, options.wait)
    os._exit(code if code >= 0 else _SIGNALLED - code)


def ourselves(*words: str) -> list[str]:
    """Return the command that runs `record` with other words."""
    return [sys.executable, str(_HOME / "mcp_chat_server.py"), "record", *words]


class _Started(NamedTuple):
    process: "Popen[bytes]"
    stdin: int
    stdout: int


def _start(command: Sequence[str], **more: Any) -> _Started:
    its_stdin, stdin = os.pipe()
    stdout, its_stdout = os.pipe()
    try:
        process = Popen(command, stdin=its_stdin, stdout=its_stdout, **more)  # noqa: S603 - what we were asked to run
    except OSError:
        os.close(stdin)
        os.close(stdout)
        raise
    finally:
        os.close(its_stdin)
        os.close(its_stdout)
    return _Started(process, stdin, stdout)


def _start_server(command: Sequence[str]) -> _Started:
    try:
        return _start(command)
    except OSError as error:
        _say(f"the server does not start: {error.strerror}: {command[0]}")
        os._exit(_NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_RUNNABLE)


def _start_recorder(options: Options, server: int) -> _Started | None:
    words = ["--copies", "--server", str(server), str(_group()), *options.given]
    try:
        # A signal to the group is for client and server; the record is finished all the same.
        return _start(ourselves(*words), stderr=STDOUT, start_new_session=True)
    except OSError as error:
        _say(f"nothing is recorded: {error.strerror}")
        return None


def _copier(copies: Copies | None, kind: Kind) -> Callable[[bytes], None]:
    return partial(copies.add, kind) if copies is not None else _forget


def _forget(_: bytes) -> None:
    """Take no copy where there is no process to record it."""


def _pass_signals_on(server: "Popen[bytes]") -> None:
    def pass_on(number: int, _: object) -> None:
        # A terminal has sent it to the server as well.
        if not (number == signal.SIGINT and _is_in_terminal()):
            server.send_signal(number)

    _on_signals(pass_on)


def _on_signals(handler: Callable[[int, object], object]) -> None:
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"):
        number = getattr(signal, name, None)
        if number is not None:
            signal.signal(number, handler)


def _group() -> int:
    # Windows has no groups.
    return os.getpgrp() if hasattr(os, "getpgrp") else 0


def _is_in_terminal() -> bool:
    for descriptor in (0, 2):
        try:
            if os.tcgetpgrp(descriptor) == os.getpgrp():
                return True
        except (OSError, AttributeError):
            continue
    return False


def _finish_record(recorder: _Started, copies: Copies, wait: float) -> None:
    # It ends its report when it has finished, or when it has said what is missing and goes on without us.
    report = threading.Thread(target=_pass_report_on, args=(recorder.stdout,), daemon=True, name="report")
    report.start()
    report.join(wait + _LAST_WORDS_SECONDS)
    try:
        code: int | None = recorder.process.wait(_MOMENT)
    except TimeoutExpired:
        code = None
    if report.is_alive():
        _say("the record is not finished yet and is left to be finished; --wait gives it more time")
    elif code or copies.is_broken:
        seen, lost = copies.calls_seen, copies.calls_left_out
        _say(f"recording ended early: of {seen + lost} tool calls that passed, {lost} or more are not recorded")


def _pass_report_on(pipe: int) -> None:
    while data := os.read(pipe, 65_536):
        try:
            os.write(2, data)
        except OSError:
            return


def _say(sentence: str) -> None:
    try:
        os.write(2, f"mcp-chat-server: {sentence}\n".encode(errors="replace"))
    except OSError:
        return
