"""Excerpts: how well a text fits what was searched, and the piece of it that shows why.

Only for what the index has found, and only to order and show it; what is found is decided by the index alone.
"""

import re
import unicodedata
from collections.abc import Sequence
from math import log

from models.full_text import STANDS_ALONE, Term

MARK = "**"
LONGEST = 240
"""Characters of stored text in an excerpt."""

_BEFORE = 60
_MOST_MARKS = 8
_MOST_RUNS = 8
_RUN = re.compile(r"[^\W_]+")
_FREQUENCY, _LENGTH = 1.2, 0.75


class _Folding(dict[int, int]):
    """Maps characters to lower case without accents, one to one, so that places in the text stay what they are."""

    def __missing__(self, point: int) -> int:
        folded = ord(unicodedata.normalize("NFD", chr(point))[0].lower()[0])
        self[point] = folded
        return folded


_FOLDING = _Folding()


def fold(text: str) -> str:
    """Return the text in lower case and without accents, character by character."""
    return text.lower() if text.isascii() else text.translate(_FOLDING)


class Finder:
    """Finds one term in folded texts: as whole words where there are any, else anywhere."""

    def __init__(self, term: Term) -> None:
        runs = [re.escape(run) for run in _RUN.findall(STANDS_ALONE.sub(r" \g<0> ", fold(term.text)))][:_MOST_RUNS]
        first, *others = runs or [re.escape(fold(term.text))]
        self._anywhere = re.compile(r"[\W_]*".join([first, *others]))
        # What stands before a word is looked at after it: a pattern that begins with its letters is found much faster.
        begins = rf"{first}(?<![^\W_]{first})"
        self._whole = re.compile(r"[\W_]*".join([begins, *others]) + r"(?![^\W_])")

    def find(self, folded: str) -> list[tuple[int, int]]:
        """Return where the term stands."""
        whole = [found.span() for found in self._whole.finditer(folded)]
        return whole or [found.span() for found in self._anywhere.finditer(folded)]

    def count(self, folded: str) -> int:
        """Return how often it stands there."""
        return len(self._whole.findall(folded)) or len(self._anywhere.findall(folded))


def rank(finders: Sequence[Finder], texts: Sequence[str]) -> list[float]:
    """Return how well each text fits, as Okapi BM25 over these texts alone, so that the cost is that of the texts."""
    counts = [[finder.count(folded) for finder in finders] for folded in map(fold, texts)]
    mean = sum(map(len, texts)) / len(texts) if texts else 1
    weights = []
    for index in range(len(finders)):
        holding = sum(1 for each in counts if each[index])
        weights.append(log(1 + (len(texts) - holding + 0.5) / (holding + 0.5)))
    scores = []
    for text, found in zip(texts, counts, strict=True):
        shape = _FREQUENCY * (1 - _LENGTH + _LENGTH * len(text) / max(mean, 1))
        scores.append(sum(w * n * (_FREQUENCY + 1) / (n + shape) for w, n in zip(weights, found, strict=True)))
    return scores


def excerpt(finders: Sequence[Finder], text: str) -> str:
    """Return one line of the text around the first place that fits, with what fits marked."""
    folded = fold(text)
    spans = sorted(span for finder in finders for span in finder.find(folded) if span[1] > span[0])
    start = max(0, spans[0][0] - _BEFORE) if spans else 0
    end = min(len(text), start + LONGEST)
    pieces, place = ["…" if start else ""], start
    for low, high in [span for span in spans if start <= span[0] and span[1] <= end][:_MOST_MARKS]:
        if low >= place:
            pieces += [text[place:low], MARK, text[low:high], MARK]
            place = high
    pieces += [text[place:end], "…" if end < len(text) else ""]
    return " ".join("".join(pieces).split())
