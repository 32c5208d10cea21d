"""A whole session in the shape in which a model provider takes it, for those who take it elsewhere.

The shapes of `chat_service.context`, and as valid, without a budget: nothing is cut or left out.
"""

from typing import Any

from sqlalchemy import Connection

from chat_service.previews import read_previews
from chat_service.provider_shapes import RENDERERS
from chat_service.repair import Window
from chat_service.sessions import find_session
from chat_service.tool_payloads import REFERENCE, put_back_in_texts
from chat_service.turns import with_names
from models.ids import SessionId, UserId
from models.inputs import ContextShape

_ALL = 2**31 - 1
"""More characters than any text has that SQLite can hold."""

_PAGE = 500


def render_whole(connection: Connection, user_id: UserId, session_id: SessionId, shape: ContextShape) -> dict[str, Any]:
    """Return the arguments of one call to the provider that hold the whole session; raises NotFound."""
    session, timeline = find_session(connection, user_id, session_id)
    last = session["last_seq"]
    entries = [
        entry
        for low in range(0, last, _PAGE)
        for entry in read_previews(connection, timeline, low, min(low + _PAGE, last), _ALL)
    ]
    put_back_in_texts(connection, timeline, [entry for entry in entries if REFERENCE in str(entry.get("result"))])
    return RENDERERS[shape](with_names(Window(entries).turns()))
