"""The language of searches: what people type is taken apart, and what nobody can mean is refused in a sentence."""

import pytest
from hypothesis import given

from chat_service.query_language import MAX_CHARACTERS, MAX_TERMS, SearchQuery, parse
from models.errors import Invalid
from models.full_text import Term
from models.ids import SessionId, new_id
from tests.support import PROPERTY, TEXTS


def test_words_phrases_and_what_to_leave_out_are_told_apart() -> None:
    assert parse('disk "out of space" -warning -"not this"') == SearchQuery(
        terms=[Term("disk"), Term("out of space", is_phrase=True)],
        excluded=[Term("warning"), Term("not this", is_phrase=True)],
    )


def test_filters_take_values_with_and_without_quotes_in_any_case() -> None:
    session_id = SessionId(new_id())
    parsed = parse(f'role:user ROLE:"ai" tool:"read file" tool:bash session:{session_id}')
    assert parsed == SearchQuery(roles=["user", "assistant"], tools=["read file", "bash"], sessions=[session_id])


@pytest.mark.parametrize(
    ("typed", "moment"),
    [
        ("2026-01-31", "2026-01-31T00:00:00.000000Z"),
        ('"2026-01-31T12:30:00"', "2026-01-31T12:30:00.000000Z"),
        ("2026-01-31T12:30:00+02:00", "2026-01-31T10:30:00.000000Z"),
        ("2026-01-31T12:30:00.5Z", "2026-01-31T12:30:00.500000Z"),
    ],
)
def test_times_are_days_or_moments_in_utc_unless_they_say_otherwise(typed: str, moment: str) -> None:
    assert parse(f"after:{typed}").after == moment
    assert parse(f"before:{typed}").before == moment


def test_of_several_times_the_narrowest_counts() -> None:
    parsed = parse("after:2026-01-01 after:2026-02-01 before:2026-04-01 before:2026-03-01")
    assert (parsed.after, parsed.before) == ("2026-02-01T00:00:00.000000Z", "2026-03-01T00:00:00.000000Z")


@pytest.mark.parametrize(
    "typed", ["http://x.org", "std::vector", "a:b", "C++", "NEAR(a", "a*", "^a", "{a}", "OR", "AND"]
)
def test_what_is_no_filter_of_ours_is_a_word(typed: str) -> None:
    assert parse(typed) == SearchQuery(terms=[Term(typed)])


def test_a_quote_that_is_not_closed_ends_with_the_query() -> None:
    assert parse('"out of') == SearchQuery(terms=[Term("out of", is_phrase=True)])


def test_punctuation_alone_is_passed_over_beside_words() -> None:
    assert parse('- *** "" word ""') == SearchQuery(terms=[Term("word")])


REFUSED = {
    "": "no word to find",
    "***": "no word to find",
    '""': "no word to find",
    "-a": "only says what to leave out",
    '-a -"b c"': "only says what to leave out",
    "role:": "role: has no value",
    "a tool: b": "tool: has no value",
    "role:nobody": "role: is one of",
    'role:""': "role: is one of",
    "tool:...": "tool: needs the name",
    "session:7": "session: needs a session's id",
    "before:soon": "before: needs a day or a time",
    "after:2026-13-01": "after: needs a day or a time",
    "after:0001-01-01T00:00:00+23:00": "after: needs a day or a time",
    "-role:user": "-role: cannot be left out",
    "a\0b": "holds a NUL character",
    "a\ud800b": "half of a surrogate pair",
    "a " * (MAX_TERMS + 1): f"more than {MAX_TERMS}",
    "a " * 10_000: f"longer than {MAX_CHARACTERS}",
}


@pytest.mark.parametrize("query", REFUSED, ids=lambda query: repr(query[:20]))
def test_what_nobody_can_mean_is_refused_with_the_next_step(query: str) -> None:
    with pytest.raises(Invalid, match=REFUSED[query]) as refused:
        parse(query)
    sentence = str(refused.value)
    assert sentence.startswith("query")
    assert sentence.endswith(".")
    assert ": " in sentence


@PROPERTY
@given(TEXTS)
def test_any_text_is_a_query_or_invalid(text: str) -> None:
    try:
        parsed = parse(text)
    except Invalid as error:
        refused = str(error)
    else:
        refused = "query" if parsed != SearchQuery() else "nothing"
    assert refused.startswith("query")
