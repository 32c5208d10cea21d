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
from subprocess import Popen
from typing import Any, NoReturn

from server.relay.copies import Copies, Kind
from server.relay.handover import Handover, Started
from server.relay.options import Options, read_options
from server.relay.pipes import Direction

_HOME = Path(__file__).resolve().parents[2]
_NOT_FOUND, _NOT_RUNNABLE, _SIGNALLED = 127, 126, 128
_LAST_WORDS_SECONDS = 2.0


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
    command = list(options.command) or ourselves("--bridge", *options.given)
    server = _start_server(command)
    _pass_signals_on(server.process)
    woken = _woken_by_signals_and_the_end_of(server.process)
    copies = Copies()
    handover = Handover(copies, partial(_start, _recorder(options, server.process.pid), start_new_session=True), _say)
    to_client = Direction(server.stdout, 1, partial(handover.add, Kind.TO_CLIENT))
    Direction(0, server.stdin, partial(handover.add, Kind.TO_SERVER))
    while (code := server.process.returncode) is None:
        os.read(woken, 64)
    # From here on a signal ends us.
    _on_signals(lambda number, _: os._exit(_SIGNALLED + number))
    to_client.finish()
    handover.end()
    _finish_record(handover, copies, options.wait)
    os._exit(code if code >= 0 else _SIGNALLED - code)


def ourselves(*words: str) -> list[str]:
    """Return the command that runs `record` with other words."""
    return [sys.executable, str(_HOME / "mcp_chat_server.py"), "record", *words]


def _start(command: Sequence[str], **more: Any) -> Started:
    its_stdin, stdin = os.pipe()
    try:
        stdout, its_stdout = os.pipe()
    except OSError:
        os.close(its_stdin)
        os.close(stdin)
        raise
    try:
        process = Popen(command, stdin=its_stdin, stdout=its_stdout, **more)  # noqa: S603 - what we were asked to run
    except OSError:
        os.close(stdin)
        os.close(stdout)
        raise
    finally:
        os.close(its_stdin)
        os.close(its_stdout)
    return Started(process, stdin, stdout)


def _start_server(command: Sequence[str]) -> Started:
    try:
        return _start(command)
    except OSError as error:
        _say(f"the server does not start: {error.strerror}: {command[0]}")
        os._exit(_NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_RUNNABLE)


def _recorder(options: Options, server: int) -> list[str]:
    # A signal to the group is for client and server; the record is finished all the same, in a session of its own. All
    # recorders of one relay share its run's name, so that a call has one key whoever of them records it.
    run = os.urandom(6).hex()
    return ourselves("--copies", "--run", run, "--server", str(server), str(_group()), *options.given)


def _pass_signals_on(server: "Popen[bytes]") -> None:
    def pass_on(number: int, _: object) -> None:
        # A terminal has sent it to the server as well.
        if not (number == signal.SIGINT and _is_in_terminal()):
            server.send_signal(number)

    _on_signals(pass_on)


def _woken_by_signals_and_the_end_of(server: "Popen[bytes]") -> int:
    # A signal that comes just before a system call does not interrupt it, and its handler would wait for the
    # server's end as well: so what is waited for is what each signal writes, and that end.
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def wait() -> None:
        server.wait()
        with suppress(BlockingIOError):
            os.write(wake, b"\0")

    threading.Thread(target=wait, daemon=True, name="waiting for the server").start()
    return woken


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


def _finish_record(handover: Handover, copies: Copies, wait: float) -> None:
    # It is finished when it has said what is missing, and goes on without us.
    if not handover.finish(wait + _LAST_WORDS_SECONDS):
        if handover.is_all_given:
            _say("the record is not finished yet and is left to be finished; --wait gives it more time")
        else:
            _say("the record is not finished, and the last tool calls are missing in it; --wait gives it more time")
    elif copies.is_given_up:
        seen, lost = copies.calls_seen, copies.calls_left_out
        _say(f"recording ended early: of {seen + lost} tool calls that passed, {lost} or more are not recorded")


def _say(sentence: str) -> None:
    try:
        os.write(2, f"mcp-chat-server: {sentence}\n".encode(errors="replace"))
    except OSError:
        return
