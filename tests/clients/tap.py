"""Stands before a program and keeps every byte of both directions: `python tap.py FOLDER NAME COMMAND…`.

It shares nothing with the relay, so that what it keeps tells whether the relay changed a byte.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path


def main() -> None:
    """Pass everything on until the program ends, and leave as it does."""
    folder, name, *command = sys.argv[1:]
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    # Some servers live on when their stdin ends, and their clients then send this.
    signal.signal(signal.SIGTERM, lambda *_: program.terminate())
    assert program.stdin is not None
    assert program.stdout is not None
    # A client may start one process after the other: each adds to the same files.
    sent, answered = (Path(folder) / f"{name}.{way}" for way in ("sent", "answered"))
    threading.Thread(target=_keep, args=(0, program.stdin.fileno(), sent), daemon=True).start()
    answers = threading.Thread(target=_keep, args=(program.stdout.fileno(), 1, answered))
    answers.start()
    code = program.wait()
    answers.join()
    os._exit(code)


def _keep(source: int, target: int, file: Path) -> None:
    with file.open("ab", buffering=0) as kept:
        while data := os.read(source, 65_536):
            kept.write(data)
            view = memoryview(data)
            while view:
                view = view[os.write(target, view) :]
    os.close(target)


if __name__ == "__main__":
    main()
