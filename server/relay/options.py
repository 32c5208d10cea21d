"""The options of `record`, read without anything that takes long to import: the server must not wait for it."""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

DESCRIPTION = (
    "Run an MCP server behind a relay that passes every byte on unchanged and records each tool call. The calls go "
    "into the session that is named, else into the active session of this client and folder, else into a new one."
)

_LONGEST_WAIT = 86_400


class Options(NamedTuple):
    """What `record` was asked for; `given` is the words before the command.

    `copies`, with the server's process and its group in `server` and the name of the relay's run in `run`, and `bridge`
    are for the processes that we start.
    """

    session: str | None
    title: str | None
    url: str | None
    redact_fields: tuple[str, ...]
    redact_patterns: tuple[str, ...]
    max_bytes: int | None
    wait: float
    copies: bool
    server: tuple[int, int] | None
    run: str | None
    bridge: bool
    command: tuple[str, ...]
    given: tuple[str, ...]


def read_options(words: Sequence[str]) -> Options:
    """Read the words after `record`; a wrong one ends the process with a sentence and exit code 2, as --help does."""
    parser = _parser()
    end = list(words).index("--") if "--" in words else len(words)
    found = parser.parse_args(words[:end])
    command = tuple(words[end + 1 :])
    if not (found.copies or found.bridge) and bool(command) == bool(found.url):
        parser.error("give either the server's command after --, or --url")
    if found.session is not None and found.title is not None:
        parser.error("give --session or --title, not both")
    if found.session == "":
        parser.error("--session is empty: give the id of a session")
    if found.title is not None and not _is_text(found.title):
        parser.error("--title is a text of at least 1 character, in UTF-8")
    if not 0 <= found.wait <= _LONGEST_WAIT:
        parser.error(f"--wait is a number of seconds, 0 to {_LONGEST_WAIT}")
    return Options(
        session=found.session,
        title=found.title,
        url=found.url,
        redact_fields=tuple(found.redact_field),
        redact_patterns=tuple(found.redact_pattern),
        max_bytes=found.max_bytes,
        wait=found.wait,
        copies=found.copies,
        server=found.server and tuple(found.server),
        run=found.run,
        bridge=found.bridge,
        command=command,
        given=tuple(words[:end]),
    )


def _is_text(text: str) -> bool:
    # What a shell in another encoding hands over is none.
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mcp-chat-server record",
        usage="mcp-chat-server record [OPTIONS] -- COMMAND …\n       mcp-chat-server record [OPTIONS] --url URL",
        description=DESCRIPTION,
        allow_abbrev=False,
    )
    parser.add_argument("--session", metavar="ID", help="record into this session of yours")
    parser.add_argument("--title", help="record into a new session of this title")
    parser.add_argument("--url", help="the server speaks Streamable HTTP at this address, the client stdio to us")
    parser.add_argument(
        "--redact-field", metavar="NAME", action="append", default=[], help="remove what stands under this name too"
    )
    parser.add_argument(
        "--redact-pattern", metavar="NAME=REGEX", action="append", default=[], help="remove what this matches too"
    )
    parser.add_argument(
        "--max-bytes", metavar="N", type=int, help="keep so much of the arguments and of the result of a call"
    )
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=float,
        default=1.0,
        help="wait at the end for the record, so long at most (default: 1)",
    )
    # The two processes that we start ourselves: the one that records, and the one that speaks HTTP.
    parser.add_argument("--copies", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--server", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--bridge", action="store_true", help=argparse.SUPPRESS)
    return parser
