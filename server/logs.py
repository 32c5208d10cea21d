"""Logs: on stderr, ids and sizes only, never what people said.

An exception's own text may hold what was stored or sent, so a logged traceback shows where it happened and its type.
"""

import logging
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType


class QuietFormatter(logging.Formatter):
    """Formats a record with the places and the type of its exception, without the exception's text."""

    def formatException(  # noqa: N802 - the name is logging's
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """Return one line a frame, and the type."""
        return "\n".join(_places_of(ei[1])) if ei[1] else ""


def _places_of(error: BaseException) -> Iterator[str]:
    for frame in traceback.extract_tb(error.__traceback__):
        yield f"  {frame.filename}:{frame.lineno} {frame.name}"
    yield type(error).__name__
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _places_of(inner)


def set_up_logging(level: str) -> None:
    """Send logs to stderr, in this form and from this level on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(QuietFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # At DEBUG the SDK and aiosqlite write messages and statements with their values; Alembic tells of its plug-ins.
    for name in ("mcp", "aiosqlite", "alembic", "asyncio", "httpx2", "httpcore2", "openai", "anthropic"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
