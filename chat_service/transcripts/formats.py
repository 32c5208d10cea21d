"""The formats of other clients that can be imported, and where their files lie in a folder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chat_service.transcripts import anthropic, chatgpt, claude_ai, claude_code, codex, openai
from chat_service.transcripts.neutral import Read
from chat_service.transcripts.storable import short


@dataclass(frozen=True, slots=True)
class Format:
    """A format: how it is read, which files of a folder have it, and whether a file's name is a session's id."""

    read: Read
    patterns: Sequence[str]
    is_named_by_file: bool = False

    def name_of(self, path: Path) -> str:
        """Return what a conversation without an id of its own is known by."""
        return short(path.stem if self.is_named_by_file else path.resolve().as_posix())


FORMATS = {
    "claude-code": Format(claude_code.read_records, ["**/*.jsonl"], is_named_by_file=True),
    "codex": Format(codex.read_records, ["**/*.jsonl"], is_named_by_file=True),
    "chatgpt": Format(chatgpt.read_records, ["**/conversations*.json"]),
    "claude-ai": Format(claude_ai.read_records, ["**/conversations*.json"]),
    "openai": Format(openai.read_records, ["**/*.json", "**/*.jsonl"]),
    "anthropic": Format(anthropic.read_records, ["**/*.json", "**/*.jsonl"]),
}
"""By the name that the command line knows them by, which also is the `source` of their sessions."""


def files_in(path: Path, patterns: Sequence[str]) -> Iterator[Path]:
    """Return the files that a path names, in a folder those above before those below, and what is older first."""
    if not path.is_dir():
        yield path
        return
    found = {file for pattern in patterns for file in path.glob(pattern) if file.is_file()}
    yield from sorted(found, key=_place)


def _place(file: Path) -> tuple[int, bool, float, str]:
    # A session before its subagents, whose files lie below it, or beside it under this name. Then by age, so that the
    # newest session is the one that is listed first.
    try:
        changed = file.stat().st_mtime
    except OSError:
        # It has gone meanwhile, which whoever reads it tells.
        changed = 0.0
    return len(file.parts), file.name.startswith("agent-"), changed, file.as_posix()
