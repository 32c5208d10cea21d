"""A page of a session's history between two seqs: only its entries, so that it stays the same whatever comes after."""

from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from models.errors import Invalid
from models.ids import SessionId
from models.inputs import Seq
from models.shapes import MessagePreviewDict, ToolUsagePreviewDict
from server.record import Caller
from server.results import Reply, take_fitting
from server.tools.arguments import SessionIdArgument
from server.tools.history import SHORTEST, HistoryEntry, show_concise

MAX_ENTRIES = 500


class HistoryPage(TypedDict):
    """Entries from first_seq on, oldest first; next_seq where not all up to last_seq fitted, or are there yet."""

    session_id: str
    entries: list[HistoryEntry]
    next_seq: NotRequired[int]


async def get_history_page(
    caller: Caller,
    session_id: SessionIdArgument,
    first_seq: Annotated[Seq, Field(description="The first entry of the page.")],
    last_seq: Annotated[Seq, Field(description="The last entry of the page.")],
) -> Reply[HistoryPage]:
    """Read the entries between two seqs, both of them included."""
    count = last_seq - first_seq + 1
    if not 1 <= count <= MAX_ENTRIES:
        raise Invalid(f"last_seq must be first_seq or up to {MAX_ENTRIES - 1} more.")
    preview = await caller.service.get_session_preview(
        caller.user_id,
        SessionId(session_id),
        count,
        after_seq=first_seq - 1,
        content_limit=min(max(16_000 // count, 160), 2_000),
    )
    found = preview["entries"] if preview["older"] == first_seq - 1 else []
    fitting = take_fitting(map(show_concise, found)) or [show_concise(entry, SHORTEST) for entry in found[:1]]
    shown = [each.fields for each in fitting]
    page: dict[str, Any] = {"session_id": session_id, "entries": shown}
    next_seq = first_seq + len(shown)
    if next_seq <= last_seq:
        page["next_seq"] = next_seq
    is_final = len(found) == count and all(map(_is_settled, found))
    return Reply(page, ("\n".join(each.text for each in fitting),), is_final)


def _is_settled(entry: MessagePreviewDict | ToolUsagePreviewDict) -> bool:
    # The message that asked for a call may be recorded after it, and is then named in its entry.
    return "message_type" in entry or entry["message_seq"] is not None or entry["tool_call_id"] is None
