"""Frames: whatever bytes come, they are a message or a refusal, and a refusal finds the id of what it refuses."""

import json
from typing import Any

import mcp_types as types
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.message import SessionMessage

from server.transports.frames import Refusal, parse, refuse_oversized, to_frame
from server.transports.lines import Oversized, find_id
from tests.support import JSON_VALUES, PROPERTY

IDS = st.integers(-(10**19), 10**19) | st.text(max_size=30).filter(lambda text: text.isprintable() or text.isascii())
"""Ids as clients make them: text of moderate length, or an integer."""

UNPARSEABLE = st.sampled_from([float("nan"), float("inf"), "\ud800", ["\udfff"], {"\ud800": 1}])
ANYTHING = st.recursive(
    JSON_VALUES | UNPARSEABLE,
    lambda inner: st.dictionaries(st.sampled_from(["id", "params", "a"]), inner),
    max_leaves=5,
)
JSON_LIKE = st.lists(
    st.sampled_from([b'"id"', b":", b"7", b'"x"', b",", b"{", b"}", b"[", b"]", b'"', b"\\", b"NaN", b" ", b"\xff"]),
    max_size=40,
).map(b"".join)


@PROPERTY
@given(st.binary(max_size=200) | JSON_LIKE)
def test_any_bytes_are_a_message_or_a_refusal(frame: bytes) -> None:
    assert_proper(parse(frame))


@PROPERTY
@given(ANYTHING)
def test_any_json_is_a_message_or_a_refusal(value: Any) -> None:
    assert_proper(parse(json.dumps(value).encode()))


@PROPERTY
@given(IDS, st.dictionaries(st.sampled_from(["jsonrpc", "method", "params", "result", "x", "i"]), ANYTHING), st.data())
def test_a_refused_object_with_an_id_is_answered_under_it(
    request_id: Any, fields: dict[str, Any], data: st.DataObject
) -> None:
    names = data.draw(st.permutations(["id", *fields]))
    value = {name: request_id if name == "id" else fields[name] for name in names}
    # Written as it would be by a client that escapes, and by one that does not.
    escaped = data.draw(st.booleans())
    frame = json.dumps(value, ensure_ascii=escaped).encode(errors="surrogatepass")
    parsed = parse(frame)
    if isinstance(parsed, Refusal):
        assert_proper(parsed)
        assert [json.loads(answer)["id"] for answer in parsed.answers] == [request_id]


@PROPERTY
@given(IDS, JSON_VALUES.map(lambda value: {"a": value, "id": "an id within"}))
def test_a_request_is_handed_on_as_it_was(request_id: Any, params: dict[str, Any]) -> None:
    message = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}
    parsed = parse(json.dumps(message, ensure_ascii=False).encode())
    assert isinstance(parsed, SessionMessage)
    request = parsed.message
    assert isinstance(request, types.JSONRPCRequest)
    assert (request.id, type(request.id)) == (request_id, type(request_id))
    assert request.params == params


@PROPERTY
@given(IDS, JSON_VALUES)
def test_a_message_is_written_on_one_line_and_parses_again(request_id: Any, result: Any) -> None:
    answer = types.JSONRPCResponse(jsonrpc="2.0", id=request_id, result={"a": result})
    frame = to_frame(SessionMessage(answer))
    assert frame.endswith(b"\n")
    assert frame.count(b"\n") == 1
    parsed = parse(frame)
    assert isinstance(parsed, SessionMessage)
    assert parsed.message == answer


@PROPERTY
@given(IDS, st.text(min_size=1), st.integers(0, 400), st.booleans(), st.booleans())
def test_a_frame_too_large_is_answered_under_its_id_at_either_end(
    request_id: Any, filler: str, kept: int, at_the_end: bool, escaped: bool
) -> None:
    rest = {"jsonrpc": "2.0", "method": "tools/call", "params": {"id": 99, "text": filler * 2_000}}
    message = rest | {"id": request_id} if at_the_end else {"id": request_id, **rest}
    frame = json.dumps(message, ensure_ascii=escaped).encode(errors="surrogatepass")
    # The head is cut anywhere behind an id that is at the beginning, so within a text, an escape, a character.
    head = frame[: 400 + kept]
    refused = refuse_oversized(Oversized(head, frame[-4_096:], len(frame)), 1_000)
    assert_proper(refused)
    (answer,) = refused.answers
    assert json.loads(answer)["id"] == request_id
    assert "1000" in json.loads(answer)["error"]["message"]


@PROPERTY
@given(st.binary(max_size=300) | JSON_LIKE, st.binary(max_size=300) | JSON_LIKE)
def test_any_bytes_too_large_are_refused(head: bytes, tail: bytes) -> None:
    assert_proper(refuse_oversized(Oversized(head, tail, 10**9), 10**6))


@PROPERTY
@given(st.binary(max_size=300) | JSON_LIKE)
def test_an_id_that_is_found_can_be_written(frame: bytes) -> None:
    found = find_id(frame)
    assert found is None or type(found) in (str, int)
    json.dumps(found, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("frame", "found"),
    [
        (b'{"id":7,"x":NaN}', 7),
        (b'{"x":NaN,"id":7}', 7),
        (b'{ "x" : NaN , "id" : "a b" }', "a b"),
        (b'{"x":NaN,"id":"\\u00e9\\n\\""}', 'é\n"'),
        ('{"x":NaN,"id":"é"}'.encode(), "é"),
        (b'{"method":"id","x":NaN,"id":7}', 7),
        (b'{"method":"id\\":5","x":NaN,"id":7}', 7),
        (b'{"params":{"id":5},"x":NaN,"id":7}', 7),
        (b'{"params":[{"id":5}],"x":NaN}', None),
        (b'{"params":{"id":5},"x":NaN}', None),
        (b'{"x":"\\"id\\":5","y":NaN}', None),
        (b'[{"id":5,"x":NaN}]', None),
        (b'{"id":null,"x":NaN}', None),
        (b'{"id":true,"x":NaN}', None),
        (b'{"id":"\\ud800"}', None),
        (b'{"id":"unfinished', None),
        (b'{"params":{"id":5}', None),
        (b'{"params":{"a":{"id":5}', None),
        (b'{"id":1.5,"x":NaN}', None),
        (b'{"id":15e3,"x":NaN}', None),
        (b"", None),
        (b"id", None),
    ],
)
def test_the_id_is_that_of_the_frame_and_of_nothing_within(frame: bytes, found: Any) -> None:
    assert find_id(frame) == found


@pytest.mark.timeout(15)
@pytest.mark.parametrize("repeated", [b'\\"', b'"', b'"id":"', b'{"a":', b"\\", b'{"id":', b" ", b'"id"'], ids=repr)
@pytest.mark.parametrize("beginning", [b'"', b'{"a":"', b""], ids=repr)
def test_a_torn_frame_does_not_hold_up_the_others(beginning: bytes, repeated: bytes) -> None:
    # The search runs on the loop: quadratic work on these is hours, linear work is over at once.
    frame = beginning + repeated * (2 * 1_048_576 // len(repeated))
    assert find_id(frame) in (None, "")
    assert find_id(frame, frame[-4_096:]) in (None, "")


def test_an_answer_from_a_client_is_handed_on_and_a_bad_notification_passed_over() -> None:
    assert isinstance(parse(b'{"jsonrpc":"2.0","id":1,"result":{}}'), SessionMessage)
    assert isinstance(parse(b'{"jsonrpc":"2.0","method":"notifications/initialized"}'), SessionMessage)
    bad = parse(b'{"jsonrpc":"2.0","method":5}')
    assert isinstance(bad, Refusal)
    assert bad.answers == (), "a notification is never answered"


def assert_proper(parsed: SessionMessage | Refusal) -> None:
    if isinstance(parsed, SessionMessage):
        return
    assert parsed.reason
    for answer in parsed.answers:
        assert answer.endswith(b"\n")
        assert answer.count(b"\n") == 1
        value = json.loads(answer)
        assert value.keys() == {"jsonrpc", "id", "error"}
        assert value["error"]["code"] in (types.PARSE_ERROR, types.INVALID_REQUEST)
        assert 20 < len(value["error"]["message"]) < 300
