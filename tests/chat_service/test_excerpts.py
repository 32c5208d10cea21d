"""Excerpts: a term is shown where it stands as a word, and inside of words only where it stands nowhere else."""

import re

from hypothesis import given
from hypothesis import strategies as st

from chat_service.excerpts import Finder, fold
from models.full_text import Term
from tests.support import PROPERTY

PIECES = ("a", "b", "ab", "aba", "A", "é", "1", "_", "-", ".", "日", "²", "ß", " ", " ")
TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


@PROPERTY
@given(st.sampled_from(("a", "b", "ab", "aba", "aé", "1", "a1")), TEXTS)
def test_a_word_is_found_where_a_scan_of_the_words_finds_it(term: str, text: str) -> None:
    folded, wanted = fold(text), fold(term)
    words = [found.span() for found in re.finditer(r"[^\W_]+", folded) if found[0] == wanted]
    inside = [found.span() for found in re.finditer(wanted, folded)]
    assert Finder(Term(term)).find(folded) == (words or inside)


@PROPERTY
@given(TEXTS.filter(str.strip), TEXTS)
def test_a_term_is_counted_as_often_as_it_is_found(term: str, text: str) -> None:
    finder = Finder(Term(term))
    assert finder.count(fold(text)) == len(finder.find(fold(text)))


def test_a_term_of_several_words_is_found_across_what_stands_between() -> None:
    folded = fold("Session key, getsession-key: session_key; sessionkeys")
    assert [folded[low:high] for low, high in Finder(Term("session_key")).find(folded)] == [
        "session key",
        "session_key",
    ]
    assert [folded[low:high] for low, high in Finder(Term("ession")).find(folded)] == ["ession"] * 4
