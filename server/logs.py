"""Logs: on stderr, ids and sizes only, never what people said.

An exception's own text may hold what was stored or sent, so a logged traceback shows where it happened and its type.
"""

import logging
import sys
import traceback
from types import TracebackType


class QuietFormatter(logging.Formatter):
    """Formats a record with the places and the type of its exception, without the exception's text."""

    def formatException(  # noqa: N802 - the name is logging's
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """Return one line a frame, and the type."""
        places = [f"  {frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(ei[2])]
        return "\n".join([*places, ei[0].__name__ if ei[0] else ""])


def set_up_logging(level: str) -> None:
    """Send logs to stderr, in this form and from this level on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(QuietFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    if level != "DEBUG":
        # Alembic tells of its plug-ins at INFO.
        logging.getLogger("alembic").setLevel(logging.WARNING)
