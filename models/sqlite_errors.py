"""SQLite's result codes, and what a caller is told of them: what is the matter, and what to do next."""

import logging

from sqlalchemy.exc import DBAPIError

from models.errors import DAMAGED, Unavailable

logger = logging.getLogger(__name__)

# Primary result codes (sqlite.org/rescode.html): the low byte of an extended code.
BUSY, _LOCKED, _READONLY, _INTERRUPT, _IOERR, _CORRUPT, _FULL, _CANTOPEN, _PROTOCOL, _NOTADB = (
    *(5, 6, 8, 9, 10),
    *(11, 13, 14, 15, 26),
)
NOT_A_DATABASE = "The file is not a database and was left as it is: name another file in MCP_CHAT_DATABASE_URL."
ODD = "The database did not answer as it should: `mcp-chat-server doctor` tells whether the file is damaged."
_REFUSALS = {
    BUSY: "Another program keeps the database locked, so nothing was stored: try again in a moment.",
    _LOCKED: "Another program keeps the database locked, so nothing was stored: try again in a moment.",
    _PROTOCOL: "Another program keeps the database locked, so nothing was stored: try again in a moment.",
    _READONLY: "The database is read-only here, so nothing was stored: make the file and its folder writable.",
    _INTERRUPT: "The database took too long, so nothing was stored: try again, with less in one call.",
    _IOERR: "The disk reported an error, so nothing was stored: check the disk and its free space, then try again.",
    _CORRUPT: DAMAGED,
    _FULL: "The disk is full, so nothing was stored: free some space, then try again.",
    _CANTOPEN: "The database file cannot be opened: check that its folder exists and may be written to.",
    _NOTADB: NOT_A_DATABASE,
}


def primary_code(error: BaseException) -> int | None:
    """Return SQLite's primary result code of a driver's error, also of one that SQLAlchemy has wrapped."""
    if isinstance(error, DBAPIError):
        error = error.orig or error
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else int(code) & 0xFF


def refusal(error: BaseException, driver_error: type[BaseException] = DBAPIError) -> Unavailable | None:
    """Return what to tell of a driver's error, or None where it is none of the environment's making."""
    code = primary_code(error)
    sentence = _REFUSALS.get(code or 0)
    if sentence is None and isinstance(error, (DBAPIError, driver_error, UnicodeDecodeError)):
        # What no code of the environment explains is a damaged row, or a fault of ours: the log has the code.
        logger.error("the database ended a statement with code %s (%s)", code, type(error).__name__)
        sentence = ODD
    return None if sentence is None else Unavailable(sentence)
