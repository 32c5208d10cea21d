"""Context: the newest part of a session that fits a budget of tokens, always valid, with a manifest of what is missing.

Eight statements at most, whatever the length. Stored token counts say how far back to read; what is given in the end is
measured itself, as JSON, with the same counter (`chat_service.fitting`).
"""

from sqlalchemy import Connection

from chat_service import previews
from chat_service.fitting import Entries, Fitting, Measure
from chat_service.manifest import manifest_of
from chat_service.provider_shapes import RENDERERS
from chat_service.repair import kept_turn
from chat_service.sessions import Timeline, find_session
from chat_service.tokens import TokenCounter, estimate_tokens
from chat_service.turns import Turn
from models.errors import Invalid
from models.ids import SessionId, UserId
from models.inputs import ContextShape
from models.shapes import ContextDict

MIN_BUDGET = 16
MAX_BUDGET = 10_000_000
MAX_ENTRIES = 2_000
"""Entries that a window may hold at most, whatever the budget."""

MAX_PINS = 50
_LOOK_BACK = 500
"""So many entries before the window are searched for calls that were logged before the message that asked for them."""

_SMALLEST_ENTRY = 4
_CHARACTERS_PER_TOKEN = 8
_MOST_CHARACTERS = 1_100_000


def get_context(
    connection: Connection,
    user_id: UserId,
    session_id: SessionId,
    token_budget: int,
    shape: ContextShape = "own",
    count_tokens: TokenCounter = estimate_tokens,
) -> ContextDict:
    """Return the window; raises Invalid where the budget is none or there is no such shape.

    A budget that holds not even a part of the newest entry gives an empty window, and the manifest says what there is.
    """
    if not MIN_BUDGET <= token_budget <= MAX_BUDGET:
        raise Invalid(f"token_budget must be between {MIN_BUDGET} and {MAX_BUDGET}.")
    if shape not in RENDERERS:
        raise Invalid(f"shape must be one of {', '.join(RENDERERS)}.")
    session, timeline = find_session(connection, user_id, session_id)
    last = session["last_seq"]
    low, entries, kept = _read(connection, timeline, last, token_budget)
    measure = Measure(RENDERERS[shape], count_tokens)
    turns = Fitting(measure, token_budget, low, entries, kept).turns()
    window, tokens = measure.rendered(turns)
    return {
        "session_id": session_id,
        "shape": shape,
        "token_budget": token_budget,
        "token_count": tokens,
        "window": window,
        "manifest": manifest_of(session_id, last, turns, with_reasoning=shape == "own"),
    }


def _read(connection: Connection, timeline: Timeline, last: int, budget: int) -> tuple[int, Entries, list[Turn]]:
    """Return the entries that may fit and the seq before them, and the turns of the newest summary and of the pins."""
    characters = min(max(budget * _CHARACTERS_PER_TOKEN, 4_000), _MOST_CHARACTERS)
    most = min(MAX_ENTRIES, budget // _SMALLEST_ENTRY)
    low = previews.find_start(connection, timeline, last, budget, most)
    entries = previews.read_previews(connection, timeline, low, last, characters)
    earlier = previews.read_asked_later(connection, timeline, max(0, low - _LOOK_BACK), low, characters)
    kept = previews.read_kind(connection, timeline, "summary", 1, characters)
    kept += previews.read_kind(connection, timeline, "pin", MAX_PINS, characters)
    forms = previews.read_newest_forms(connection, timeline, [message["seq"] for message in kept], characters)
    turns = [kept_turn(message, forms.get(message["seq"], message)) for message in kept]
    return low, [*earlier, *entries], turns
