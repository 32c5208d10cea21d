"""Messages: read back in pages, as `appends` has stored them."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select, update
from typing_extensions import TypedDict

from chat_service.events import Event
from chat_service.lineage import (
    GIVEN,
    GIVEN_TO_INHERITED,
    LINEAGE,
    Statements,
    inherited,
    last_inherited,
    name_entries,
    naming,
    read_entries,
    within,
)
from chat_service.paging import END, check_limit, check_seq
from chat_service.sessions import OWNED, check_ids, get_timeline
from chat_service.work import Work
from models.errors import Invalid
from models.ids import SessionId, UserId
from models.inputs import Usage
from models.prepared import Prepared
from models.rows import PAGE_SIZE, all_rows, columns
from models.shapes import MessageDict, MessagePageDict
from models.tables import chat_sessions, messages


class _Seq(TypedDict):
    seq: int


MESSAGE_COLUMNS = columns(
    MessageDict,
    messages,
    GIVEN,
    message_type=messages.c.role,
)
INHERITED_MESSAGE_COLUMNS = columns(
    MessageDict,
    messages,
    GIVEN_TO_INHERITED,
    session_id=LINEAGE.c.session_id,
    message_type=messages.c.role,
)
_BY_SEQ = (
    select(*MESSAGE_COLUMNS)
    .join(chat_sessions, chat_sessions.c.key == messages.c.session_key)
    .where(OWNED, messages.c.seq.in_(bindparam("seqs", expanding=True)))
)
_SEQS = Statements(
    select(*columns(_Seq, messages)).where(within(messages)),
    select(*columns(_Seq, messages)).select_from(inherited(messages)),
)
_LAST = Statements(
    select(*MESSAGE_COLUMNS).where(within(messages)).order_by(messages.c.seq.desc()).limit(PAGE_SIZE),
    select(*INHERITED_MESSAGE_COLUMNS)
    .select_from(last_inherited(messages))
    .order_by(messages.c.seq.desc())
    .limit(PAGE_SIZE),
)
_FIRST = Statements(
    select(*MESSAGE_COLUMNS).where(within(messages)).order_by(messages.c.seq).limit(PAGE_SIZE),
    select(*INHERITED_MESSAGE_COLUMNS)
    .select_from(last_inherited(messages, forward=True))
    .order_by(messages.c.seq)
    .limit(PAGE_SIZE),
)
_NOTE_COST = Prepared(
    update(messages)
    .where(
        messages.c.session_key == bindparam("of_session"),
        messages.c.idempotency_key == bindparam("of_key"),
        messages.c.author == "import",
        messages.c.usage.is_(None),
    )
    .values(usage=bindparam("cost"))
)


def note_costs(work: Work, user_id: UserId, session_id: SessionId, costs: Mapping[str, Usage]) -> None:
    """Write what imported messages cost into them, by their idempotency keys, where that is not known yet.

    Some sources say it after the message, perhaps when that has been imported already.
    """
    of_session = get_timeline(work.connection, user_id, session_id).session_key
    rows = [
        {"of_session": of_session, "of_key": key, "cost": usage.model_dump(exclude_none=True)}
        for key, usage in costs.items()
    ]
    _NOTE_COST.run(work.connection, *rows)
    work.tell(Event(user_id, session_id, "updated"))


def get_page(
    connection: Connection,
    user_id: UserId,
    session_id: SessionId,
    limit: int = 50,
    before_seq: int | None = None,
    after_seq: int | None = None,
) -> MessagePageDict:
    """Return the last messages before `before_seq`, or the first after `after_seq`, oldest first.

    Passed back, the page's `before_seq` and `after_seq` read on to either side; None where the page itself shows that
    nothing follows there now, and both on an empty page.
    """
    check_limit(limit)
    check_one_edge(before_seq, after_seq)
    parameters: dict[str, Any] = check_ids(user_id, session_id)
    timeline = get_timeline(connection, user_id, session_id)
    forward = after_seq is not None
    parameters |= {"page_size": limit + 1, "low": after_seq or 0, "high": (before_seq or END) - 1}
    found = read_entries(connection, MessageDict, _FIRST if forward else _LAST, timeline, parameters)
    more = len(found) > limit
    page = found[:limit] if forward else found[:limit][::-1]
    first, last = (page[0]["seq"], page[-1]["seq"]) if page else (None, None)
    return {
        "messages": page,
        "before_seq": first if more or forward else None,
        "after_seq": last if more or not forward else None,
    }


def get_by_seqs(
    connection: Connection, user_id: UserId, session_id: SessionId, seqs: Sequence[int]
) -> list[MessageDict]:
    """Return the messages of these seqs that were appended to the session itself, in this order."""
    parameters = check_ids(user_id, session_id) | {"seqs": seqs}
    found = all_rows(connection, MessageDict, _BY_SEQ, parameters, naming(user_id, session_id))
    name_entries(found)
    by_seq = {message["seq"]: message for message in found}
    return [by_seq[seq] for seq in seqs]


def is_message(connection: Connection, user_id: UserId, session_id: SessionId, seq: int) -> bool:
    """Tell whether the session has a message of this seq; raises NotFound where there is no such session."""
    timeline = get_timeline(connection, user_id, session_id)
    return bool(read_entries(connection, _Seq, _SEQS, timeline, {"low": seq - 1, "high": seq}))


def check_one_edge(before_seq: int | None, after_seq: int | None) -> None:
    """Raise Invalid where both edges of a window are given, or one of them is negative."""
    if before_seq is not None and after_seq is not None:
        raise Invalid("before_seq and after_seq exclude each other: give one of them.")
    check_seq("before_seq", before_seq, lowest=1)
    check_seq("after_seq", after_seq)
