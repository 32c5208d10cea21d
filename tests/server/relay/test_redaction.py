"""Redaction: no planted secret is left, what is harmless stays as it was, and what is kept can be stored."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_service.limits import Limits
from models.errors import Invalid
from models.text import check_json, to_json
from server.relay.calls import Call, Cut, Ending
from server.relay.entries import CUT, Entries
from server.relay.redaction import SECRET_NAMES, Redaction, read_patterns
from tests.support import JSON_VALUES

CANARY = "Zq7canaryX9"
PROPERTY = settings(deadline=None, max_examples=150, derandomize=True)
NAMES = st.sampled_from(SECRET_NAMES).flatmap(
    lambda name: st.sampled_from(
        [name, name.upper(), name.replace("_", "-"), name.replace("_", ""), f"db_{name}", f"X-{name}", f"my.{name}"]
    )
)
SECRETS = st.sampled_from(
    [
        f"sk-ant-{CANARY}abcdefgh",
        f"ghp_{CANARY}abcdefghijklm",
        f"Bearer {CANARY}abc.def",
        f"Authorization: Basic {CANARY}==",
        f"Cookie: a={CANARY}; b={CANARY}",
        f"postgres://user:{CANARY}@host/db",
        f"-----BEGIN RSA PRIVATE KEY-----\n{CANARY}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{CANARY}",
        f"eyJ{CANARY}.eyJ{CANARY}.{CANARY}",
    ]
)
WORDS = st.text(st.characters(codec="utf-8", exclude_characters='"'), max_size=20)


@PROPERTY
@given(NAMES, JSON_VALUES.filter(lambda value: not isinstance(value, bool)), st.lists(st.just("a"), max_size=3))
def test_what_stands_under_a_secrets_name_is_removed(name: str, value: Any, path: list[str]) -> None:
    inner: Any = {name: [CANARY, value, {"x": CANARY}]}
    for key in path:
        inner = [{key: inner}]
    assert CANARY not in to_json(Redaction().value(inner))
    assert "[redacted: " in to_json(Redaction().value({name: CANARY}))


@PROPERTY
@given(SECRETS, WORDS, WORDS)
def test_what_looks_like_a_secret_is_removed_wherever_it_stands(secret: str, before: str, after: str) -> None:
    redacted = Redaction().value({"content": [{"text": f"{before}\n{secret}\n{after}"}]})
    assert CANARY not in to_json(redacted)
    assert "[redacted: " in to_json(redacted)


@PROPERTY
@given(NAMES, st.text(st.characters(codec="utf-8"), max_size=10), st.integers(1, 2))
def test_secrets_in_json_in_text_are_removed(name: str, more: str, times: int) -> None:
    text: Any = {"a": 1, name: f'{more}"{CANARY}", {CANARY}', "b": "stays"}
    for _ in range(times):
        text = to_json(text)
    redacted = Redaction().text(text)
    assert CANARY not in redacted
    assert "stays" in redacted


@pytest.mark.parametrize("sign", ["=", ": ", ":", " = ", '="', "='"])
def test_secrets_in_assignments_are_removed(sign: str) -> None:
    for name in ("PASSWORD", "api-key", "OPENAI_API_KEY", "client_secret"):
        assert CANARY not in Redaction().text(f"export {name}{sign}{CANARY}")


@pytest.mark.parametrize(
    "harmless",
    [
        {"max_tokens": 100, "nextPageToken": "abc", "keyboard": "x", "author": "ada", "has_password": True},
        "A token is a thing, and basic understanding of passwords helps. The bearer of news: none.",
        "page_token=abc&limit=5 https://example.org:8080/a?b=c user@example.org",
        {"password": None, "token": "", "secrets": []},
    ],
)
def test_what_is_harmless_stays(harmless: Any) -> None:
    assert Redaction().value(harmless) == harmless


def test_the_mark_names_the_rule_and_the_structure_stays() -> None:
    redacted = Redaction().value({"api_key": "x", "n": [1, {"deep": f"sk-{CANARY}aaaaaaaa"}]})
    assert redacted == {"api_key": "[redacted: api_key]", "n": [1, {"deep": "[redacted: api key]"}]}


def test_rules_of_ones_own_come_on_top() -> None:
    redaction = Redaction(["patient name"], read_patterns([r"ticket=TCK-\d+"]))
    assert redaction.value({"patient_name": "x", "t": "see TCK-123", "password": "y"}) == {
        "patient_name": "[redacted: patient name]",
        "t": "see [redacted: ticket]",
        "password": "[redacted: password]",
    }


@pytest.mark.parametrize("pattern", ["x", "x=", "=x", "x=(", "x=(a)", "x=a*", "x=(?i)a"])
def test_a_pattern_that_cannot_be_one_is_refused(pattern: str) -> None:
    with pytest.raises(Invalid):
        read_patterns([pattern])


HOSTILE = [
    "a" * 200_000,
    "eyJ-" * 50_000,
    'password":"' * 20_000,
    'password="' + "\\" * 100_000,
    "-----BEGIN PRIVATE KEY-----" * 8_000,
    "://a:b" * 30_000,
    "bearer " * 30_000 + "basic " + "a" * 100_000,
    "token" + " " * 100_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_takes_the_patterns_long(text: str) -> None:
    # Where time grew with the square, each of these would take hours, and the time limit of tests would end it.
    assert Redaction().text(text)


def entry_of(arguments: Any, result: Any, limit: int = 4_096, error: str | None = None) -> Any:
    call = Call(1, 7, "tool", arguments, {}, "client", 0, 0).end(5_000_000, Ending("success", result, error))
    return Entries("run", Redaction(), limit).of(call)


ODD = st.recursive(
    JSON_VALUES | st.text(st.characters()) | st.just(float("inf")) | st.just(2**5_000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@PROPERTY
@given(ODD, ODD, st.text(), st.integers(0, 400))
def test_every_call_can_be_stored_and_none_is_larger_than_is_kept(
    arguments: Any, result: Any, error: str, depth: int
) -> None:
    for _ in range(depth):
        result = [result]
    entry = entry_of(arguments, [result, "é" * 3_000, '"' * 3_000], error=error * 1_000)
    Limits(content=4_096).check_tool_usage(entry)
    check_json(entry.arguments)
    check_json(entry.result)


def test_long_texts_are_cut_and_the_rest_stays() -> None:
    entry = entry_of({"path": "/x", "text": "a" * 10_000}, {"content": [{"type": "text", "text": "b" * 10_000}]})
    assert entry.arguments["path"] == "/x"
    assert entry.arguments["text"].startswith("aaa")
    assert entry.arguments["text"].endswith(f"{CUT}: 10000 bytes in all")
    assert entry.result["content"][0]["type"] == "text"


def test_what_has_too_many_parts_is_kept_as_its_beginning() -> None:
    entry = entry_of({}, list(range(10_000)))
    assert entry.result[CUT]["bytes"] > 40_000
    assert entry.result[CUT]["head"].startswith("[0,1,2,3")


@PROPERTY
@given(st.integers(0, 6_000), SECRETS)
def test_a_secret_at_the_cut_is_removed_too(position: int, secret: str) -> None:
    text = "a " * position + secret
    for value in (text, [text, *range(3_000)], Cut(text.encode(), 10**9)):
        assert CANARY[:6] not in to_json(entry_of({}, value).result)


def test_the_providers_id_of_a_call_is_taken_where_the_client_passes_it_on() -> None:
    call = Call(1, 7, "tool", {}, {"claudecode/toolUseId": "toolu_1"}, None, 0, 0).end(0, Ending("success"))
    entry = Entries("run", Redaction(), 4_096).of(call)
    assert (entry.tool_call_id, entry.idempotency_key) == ("toolu_1", "proxy:run:1")
    assert entry_of({}, 1).tool_call_id == "run:1:7"
