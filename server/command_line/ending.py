"""How a command ends: by itself, with a refusal, by a signal, or because what it prints cannot be written."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from models.errors import ChatError
from server.command_line.terminal import complain
from server.errors import explain_arguments

_SIGNALLED = 128

_COMMANDS = {
    "start_session or list_sessions gave": "`mcp-chat-server sessions` lists",
    "list_sessions shows": "`mcp-chat-server sessions` lists",
    "list_sessions gives it": "`mcp-chat-server sessions` lists it",
    "call again with the same idempotency_key to go on": "`mcp-chat-server chat --session` goes on there, and the same "
    "--idempotency-key with this question, if it had one",
    "call again with the same idempotency_key in a moment": "ask again with the same --idempotency-key in a moment",
    "set its status to active with update_session": "open it with `mcp-chat-server sessions reopen`",
}
"""What the service says for those who have tools, and what it is for those who have commands."""


@contextmanager
def ending_as_it_should() -> Iterator[None]:
    """Let a refusal end a command with one sentence on stderr and exit code 1, and a signal end it as Ctrl-C does.

    So what a command has begun is cleaned up, however it ends.
    """
    heard = _heard_as_ctrl_c()
    try:
        with _refusals_told():
            yield
    except (KeyboardInterrupt, SystemExit):
        if heard:
            raise SystemExit(_SIGNALLED + heard[0]) from None
        raise


@contextmanager
def _refusals_told() -> Iterator[None]:
    try:
        try:
            yield
        finally:
            # What cannot be written is found out here, and not by the interpreter as it leaves.
            sys.stdout.flush()
    except ChatError as error:
        complain(_with_commands(str(error)))
        raise SystemExit(1) from None
    except ValidationError as error:
        complain(explain_arguments(error))
        raise SystemExit(1) from None
    except OSError as error:
        _let_go_of_stdout()
        # One who has read enough needs no word of it.
        if not isinstance(error, BrokenPipeError):
            complain(f"{error.strerror}: {error.filename}" if error.filename else f"{error.strerror}")
        raise SystemExit(1) from None


def _heard_as_ctrl_c() -> list[int]:
    """Return where the number of a signal will stand that has asked us to end."""
    heard: list[int] = []

    def hear(number: int, _: object) -> None:
        heard.append(number)
        signal.raise_signal(signal.SIGINT)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # One that is ignored is so on purpose.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, hear)
    return heard


def _let_go_of_stdout() -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


def _with_commands(refusal: str) -> str:
    for tools, commands in _COMMANDS.items():
        refusal = refusal.replace(tools, commands)
    return refusal
