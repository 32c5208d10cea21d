"""Fitting: which turns of a session go into a budget of tokens, measured as they will be given.

Newest first, until the budget is spent; pins and the newest summary may take half of it before. A turn that alone takes
more than half of the budget is cut, so that it does not hide what came before it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from chat_service.provider_shapes import Render
from chat_service.repair import Window
from chat_service.tokens import TokenCounter
from chat_service.turns import Excerpt, Turn, with_names
from models.shapes import MessagePreviewDict, ToolUsagePreviewDict
from models.text import to_json

Entries = list[MessagePreviewDict | ToolUsagePreviewDict]

_ANCHOR = Turn(seq=0, role="user", text=Excerpt("x", 1))
_NOWHERE = 2**60
"""The start of a window without entries."""


class Rendered(NamedTuple):
    """A window as it is given, and its tokens."""

    window: dict[str, Any]
    tokens: int


class Measure:
    """Renders turns in one shape, and counts what that takes."""

    def __init__(self, render: Render, count_tokens: TokenCounter) -> None:
        self._render = render
        self._count_tokens = count_tokens
        self._last: tuple[Sequence[Turn], Rendered] | None = None
        self._anchor = self.of([_ANCHOR])

    def rendered(self, turns: Sequence[Turn]) -> Rendered:
        """Return the window of these turns; what was measured last, once more, costs nothing."""
        if self._last is None or self._last[0] is not turns:
            window = self._render(turns)
            self._last = turns, Rendered(window, self._count_tokens(to_json(window)))
        return self._last[1]

    def of(self, turns: Sequence[Turn]) -> int:
        """Return the tokens of a window."""
        return self.rendered(turns).tokens

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


class Fitting:
    """Chooses turns, newest first, until the budget is spent."""

    def __init__(self, measure: Measure, budget: int, low: int, entries: Entries, kept: list[Turn]) -> None:
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
        return choice

    def _trimmed(self, choice: _Choice) -> list[Turn]:
        """Leave out from the oldest end what the sum of the parts did not foresee."""
        while True:
            turns, window, excess = self._judged(choice)
            if excess <= 0:
                return self._grown(choice, window, -excess)
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

    def _judged(self, choice: _Choice) -> tuple[list[Turn], list[Turn], int]:
        """Return the newest turns of a choice, all that it shows, and by how many tokens that exceeds the budget."""
        turns = [_cut_alike(turn, choice.cut) for turn in self._built(choice.start)]
        window = self._with_kept(turns, choice.kept)
        return turns, window, self._measure.of(window) - self._budget

    def _grown(self, choice: _Choice, window: list[Turn], room: int) -> list[Turn]:
        """Return the window with the newest turn that is cut grown into the room that is left, where that fits."""
        cut = [turn for turn in self._built(choice.start) if turn.seq in choice.cut] if choice.cut else []
        while cut and room > 0:
            turn = cut[-1]
            longer = self._measure.shortened(turn, self._measure.more(choice.cut[turn.seq]) + room)
            if longer is None:
                break
            _, grown, excess = self._judged(_Choice(choice.start, choice.cut | {turn.seq: longer}, choice.kept))
            if excess <= 0:
                return grown
            room -= excess
        return window

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


def _cut_alike(turn: Turn, cut: dict[int, Turn]) -> Turn:
    if turn.seq not in cut:
        return turn
    return turn.shortened(cut[turn.seq].longest)


def _asked(entry: Any) -> int:
    asked: int = entry.get("message_seq") or 0
    return asked


def _seq(turn: Turn) -> int:
    return turn.seq
