"""Context: the newest part of a session that fits a budget of tokens, always valid, with a manifest of what is missing.

Eight statements whatever the length. Stored token counts say how far back to read; what is given in the end is measured
itself, as JSON, with the same counter. Half of the budget at most goes to pins and the newest summary. An entry that
alone takes more than half of the budget is cut, so that it does not hide what came before it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sqlalchemy import Connection

from chat_service import history
from chat_service.manifest import manifest_of
from chat_service.provider_shapes import RENDERERS, Render
from chat_service.repair import Window, kept_turn
from chat_service.sessions import get_session
from chat_service.tokens import TokenCounter, estimate_tokens
from chat_service.turns import Excerpt, Turn, with_names
from models.errors import Invalid
from models.ids import SessionId, UserId
from models.inputs import ContextShape
from models.shapes import ContextDict, MessagePreviewDict, ToolUsagePreviewDict
from models.text import to_json

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
_ANCHOR = Turn(seq=0, role="user", text=Excerpt("x", 1))


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
    last = get_session(connection, user_id, session_id)["last_seq"]
    low, entries, kept = _read(connection, session_id, last, token_budget)
    measure = _Measure(RENDERERS[shape], count_tokens)
    turns = _Fitting(measure, token_budget, low, entries, kept).turns()
    window = measure.render(turns)
    return {
        "session_id": session_id,
        "shape": shape,
        "token_budget": token_budget,
        "token_count": count_tokens(to_json(window)),
        "window": window,
        "manifest": manifest_of(session_id, last, turns, with_reasoning=shape == "own"),
    }


Entries = list[MessagePreviewDict | ToolUsagePreviewDict]


def _read(connection: Connection, session_id: SessionId, last: int, budget: int) -> tuple[int, Entries, list[Turn]]:
    """Return the entries that may fit and the seq before them, and the turns of the newest summary and of the pins."""
    characters = min(max(budget * _CHARACTERS_PER_TOKEN, 4_000), _MOST_CHARACTERS)
    most = min(MAX_ENTRIES, budget // _SMALLEST_ENTRY)
    low = history.find_start(connection, session_id, last, budget, most)
    entries = history.read_previews(connection, session_id, low, last, characters)
    earlier = history.read_asked_later(connection, session_id, max(0, low - _LOOK_BACK), low, characters)
    kept = history.read_kind(connection, session_id, "summary", 1, characters)
    kept += history.read_kind(connection, session_id, "pin", MAX_PINS, characters)
    forms = history.read_newest_forms(connection, session_id, [message["seq"] for message in kept], characters)
    turns = [kept_turn(message, forms.get(message["seq"], message)) for message in kept]
    return low, [*earlier, *entries], turns


class _Measure:
    """Renders turns in one shape, and counts what that takes."""

    def __init__(self, render: Render, count_tokens: TokenCounter) -> None:
        self.render = render
        self._count_tokens = count_tokens
        self._anchor = self.of([_ANCHOR])

    def of(self, turns: Sequence[Turn]) -> int:
        return self._count_tokens(to_json(self.render(turns)))

    def more(self, turn: Turn) -> int:
        """Return what a turn adds to a window."""
        return max(0, self.of([_ANCHOR, turn]) - self._anchor)

    def shortened(self, turn: Turn, room: int) -> Turn | None:
        """Return the turn with texts as long as fit into so many tokens, or None where not even its frame does."""
        if self.more(turn) <= room:
            return turn
        low, high = 0, turn.longest
        fitting = None
        while low <= high:
            limit = (low + high) // 2
            shorter = turn.shortened(limit)
            if self.more(shorter) <= room:
                fitting, low = shorter, limit + 1
            else:
                high = limit - 1
        return fitting


@dataclass(slots=True)
class _Choice:
    """Where a window begins, which of its turns are cut, and which are kept from before it."""

    start: int
    cut: dict[int, Turn]
    kept: list[Turn]


class _Fitting:
    """Chooses turns, newest first, until the budget is spent."""

    def __init__(self, measure: _Measure, budget: int, low: int, entries: Entries, kept: list[Turn]) -> None:
        self._measure = measure
        self._budget = budget
        self._entries = entries
        self._kept = kept
        self._all = self._built(low + 1)

    def turns(self) -> list[Turn]:
        """Return the turns of the window, oldest first."""
        whole = self._with_kept(self._all, self._kept)
        if self._measure.of(whole) <= self._budget:
            return whole
        choice = self._chosen(self._paid(self._budget // 2))
        if choice.start == _NOWHERE and choice.kept:
            # What is newest comes before what was pinned.
            without = self._chosen([])
            choice = choice if without.start == _NOWHERE else without
        return self._trimmed(choice)

    def _built(self, start: int) -> list[Turn]:
        """Return the turns of the entries from a seq on, with the calls that were logged before they were asked for."""
        inside = [entry for entry in self._entries if entry["seq"] >= start or _asked(entry) >= start]
        return with_names([turn for turn in Window(inside).turns() if turn.seq >= start])

    def _with_kept(self, turns: list[Turn], kept: Iterable[Turn]) -> list[Turn]:
        there = {turn.seq for turn in turns}
        return sorted([*turns, *(turn for turn in kept if turn.seq not in there)], key=_seq)

    def _paid(self, room: int) -> list[Turn]:
        paid = []
        for turn in self._kept:
            shorter = self._measure.shortened(turn, room)
            if shorter is not None:
                paid.append(shorter)
                room -= self._measure.more(shorter)
        return paid

    def _chosen(self, kept: list[Turn]) -> _Choice:
        choice = _Choice(_NOWHERE, {}, kept)
        costs = {turn.seq: self._measure.more(turn) for turn in kept}
        rest = self._budget - self._measure.of([]) - sum(costs.values())
        for turn in reversed(self._all):
            room = rest + costs.get(turn.seq, 0)
            cost = self._measure.more(turn)
            if cost > room:
                is_newest = choice.start == _NOWHERE
                if not is_newest and cost * 2 <= self._budget:
                    break
                shorter = self._measure.shortened(turn, room // 2)
                if shorter is None and is_newest:
                    shorter = self._measure.shortened(turn, room)
                if shorter is None:
                    break
                choice.cut[turn.seq] = shorter
                cost = self._measure.more(shorter)
            choice.start, rest = turn.seq, room - cost
        for turn in reversed(self._all):
            if turn.seq in choice.cut:
                # What nothing older took is theirs, the newest first.
                cost = self._measure.more(choice.cut[turn.seq])
                longer = self._measure.shortened(turn, cost + rest) or choice.cut[turn.seq]
                rest -= self._measure.more(longer) - cost
                choice.cut[turn.seq] = longer
        return choice

    def _trimmed(self, choice: _Choice) -> list[Turn]:
        """Leave out from the oldest end what the sum of the parts did not foresee."""
        while True:
            turns = [_cut_alike(turn, choice.cut) for turn in self._built(choice.start)]
            window = self._with_kept(turns, choice.kept)
            excess = self._measure.of(window) - self._budget
            if excess <= 0:
                return window
            if (shorter := self._shorter(turns, choice, excess)) is not None:
                choice.cut[shorter.seq] = shorter
            elif len(turns) > 1:
                choice.start = self._later_start(turns, excess)
            elif choice.kept:
                choice.kept = choice.kept[:-1]
            elif turns:
                choice.start = _NOWHERE
            else:
                return []

    def _shorter(self, turns: list[Turn], choice: _Choice, excess: int) -> Turn | None:
        """Return the newest turn that is cut anyway, or the only one there is, cut shorter by the excess."""
        for turn in reversed(turns):
            if turn.seq in choice.cut or len(turns) == 1:
                return self._measure.shortened(turn, self._measure.more(turn) - excess)
        return None

    def _later_start(self, turns: list[Turn], excess: int) -> int:
        for turn, following in pairwise(turns):
            excess -= self._measure.more(turn)
            if excess <= 0:
                return following.seq
        return turns[-1].seq


_NOWHERE = 2**60
"""The start of a window without entries."""


def _cut_alike(turn: Turn, cut: dict[int, Turn]) -> Turn:
    if turn.seq not in cut:
        return turn
    return turn.shortened(cut[turn.seq].longest)


def _asked(entry: Any) -> int:
    asked: int = entry.get("message_seq") or 0
    return asked


def _seq(turn: Turn) -> int:
    return turn.seq
