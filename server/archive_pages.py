"""Pages of a session's archive, for clients that have no file to write to: as many lines as fit into one result."""

from functools import partial
from typing import Any

from models.ids import SessionId
from models.text import to_json
from server.record import Caller
from server.results import MAX_CHARACTERS, Reply

_LONGEST_LINE = MAX_CHARACTERS // 3
"""What is longer is named: the session and an entry fit into every page, so that each goes on."""


async def get_archive(caller: Caller, session_id: str, after_seq: int = 0) -> Reply[Any]:
    """Return the lines of a session and of its entries after a seq; the last line says how to read on, or the end.

    What does not fit by itself is named with its length. Blobs and raw records are in the exported file alone.
    """
    # The database layer is not loaded before the first call.
    from chat_service.archive import write
    from chat_service.paging import check_seq

    check_seq("after_seq", after_seq)
    lines, seq, last_seq = await caller.service.snapshot(
        partial(write.page, user_id=caller.user_id, session_id=SessionId(session_id), after_seq=after_seq)
    )
    texts: list[str] = []
    room = MAX_CHARACTERS - 500
    for line in lines:
        text = _named(line, to_json(line))
        if len(text) > room:
            break
        texts.append(text)
        room -= len(text) + 1
        seq = line.get("seq", seq)
    end = {"type": "page_end", "session_id": session_id, "after_seq": seq, "newer": max(last_seq - seq, 0)}
    return Reply({"lines": texts}, (*texts, to_json(end)))


def _named(line: dict[str, Any], text: str) -> str:
    if len(text) <= _LONGEST_LINE:
        return text
    names = ("session_id", "seq", "id")
    return to_json({"type": "left_out", "characters": len(text)} | {name: line[name] for name in names if name in line})
