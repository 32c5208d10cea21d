"""What all totals share: whose entries are counted, and of which time.

Each entry is counted once: in totals over all sessions what a fork inherits belongs to its parent, and in those of one
session the whole timeline counts, inherited entries too.
"""

from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, select

from chat_service.lineage import LINEAGE, inherited, within
from chat_service.paging import END
from chat_service.sessions import get_timeline
from chat_service.users import USER_KEY, check_user_id
from models.ids import SessionId, UserId, to_microseconds, to_timestamp
from models.inputs import TimeRange
from models.tables import chat_sessions


def entries_of(
    connection: Connection, entries: Table, user_id: UserId, session_id: SessionId | None
) -> tuple[Select[Any], ColumnElement[Any], dict[str, Any]]:
    """Return the choice of entries of a session or of all the user's, the column of their session, and parameters.

    Raises Invalid where an id cannot be one, and NotFound where there is no such session.
    """
    found = select().select_from(entries)
    if session_id is None:
        check_user_id(user_id)
        found = found.join(chat_sessions, chat_sessions.c.key == entries.c.session_key)
        return found.where(chat_sessions.c.user_key == USER_KEY), chat_sessions.c.id, {"user_id": user_id}
    timeline = get_timeline(connection, user_id, session_id)
    window = {"user_id": user_id, "session_key": timeline.session_key, "low": 0, "high": END}
    if timeline.inherited:
        return select().select_from(inherited(entries)), LINEAGE.c.session_id, window
    found = found.join(chat_sessions, chat_sessions.c.key == entries.c.session_key)
    return found.where(within(entries)), chat_sessions.c.id, window


def in_time(moment: ColumnElement[int], times: TimeRange | None) -> list[ColumnElement[bool]]:
    """Return the conditions that a moment lies in a range, its beginning included and its end not."""
    conditions: list[ColumnElement[bool]] = []
    if times is not None and times.since is not None:
        conditions.append(moment >= to_microseconds(to_timestamp(times.since)))
    if times is not None and times.until is not None:
        conditions.append(moment < to_microseconds(to_timestamp(times.until)))
    return conditions
