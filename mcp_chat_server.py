"""The command `mcp-chat-server`, under a module name that is ours alone.

Clients start us inside projects that may have a `server/` or a `models.py` of their own. This module puts the folder
it lives in first on the path before it imports anything of ours, so that theirs is never taken for ours.
"""

import gc
import os
import sys
from pathlib import Path


def main() -> None:
    """Serve over stdio where there are no arguments, relay for `record`, else run the command line."""
    _open_what_is_closed()
    try:
        _run()
    except KeyboardInterrupt:
        # Before anything was begun that would have heard it.
        raise SystemExit(130) from None


def _open_what_is_closed() -> None:
    # The next file that is opened would else take the number of a standard stream that is closed.
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, number)
            os.set_inheritable(number, True)
            if nothing != number:
                os.close(nothing)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for good


def _run() -> None:
    home = str(Path(__file__).resolve().parent)
    if sys.path[0] != home:
        sys.path.insert(0, home)
    # Importing makes objects by the ten thousands and hardly any garbage: looking for it each 700 objects costs a tenth
    # of the start (docs/decisions/imports.md).
    gc.set_threshold(50_000, 20, 50)
    if len(sys.argv) == 1:
        # The way that every client takes: nothing of the command line is imported.
        from server.transports.stdio import main as serve

        serve()
    elif sys.argv[1] == "record":
        # The server that is relayed waits for nothing: not for the rest of the command line either.
        from server.relay.relay import main as record

        record(sys.argv[2:])
    else:
        from server.command_line.main import main as command_line

        command_line()


if __name__ == "__main__":
    main()
