"""The observer: every call is found once, with its own answer, whatever else passes and however it is cut up."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from server.relay.calls import Call, Cut
from server.relay.copies import Copy, Kind
from server.relay.observer import MAX_OPEN, Observer
from tests.server.relay.support import call
from tests.server.support import MODERN

TO_SERVER, TO_CLIENT = Kind.TO_SERVER, Kind.TO_CLIENT
Passed = tuple[Kind, Any]


def watch(*passed: Passed, limit: int = 100_000) -> list[Call]:
    """Let messages pass, a millisecond each, and then the end; return the calls in the order in which they ended."""
    observer = Observer(limit)
    calls = [
        ended
        for index, (kind, message) in enumerate(passed)
        for ended in observer.see(Copy(kind, 0, index * 1_000_000, as_bytes(message)))
    ]
    return calls + list(observer.end(0, len(passed) * 1_000_000))


def as_bytes(message: Any) -> bytes:
    return message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"


def answer(number: Any, **result: Any) -> dict[str, Any]:
    return {"result": result, "jsonrpc": "2.0", "id": number}


def told(calls: list[Call]) -> list[tuple[Any, Any, Any]]:
    """Return each call's id and tool, and how it ended."""
    return [(each.request_id, each.tool_name, each.ending and each.ending.status) for each in calls]


def test_a_call_has_its_arguments_result_and_duration() -> None:
    (done,) = watch((TO_SERVER, call(1, "read", path="/x")), (TO_CLIENT, answer(1, content=[])))
    assert (done.arguments, done.duration_ms) == ({"path": "/x"}, 1.0)
    assert done.ending is not None
    assert done.ending.result == {"content": []}


def test_answers_in_any_order_find_their_calls() -> None:
    asked = [(TO_SERVER, call(number, f"tool{number}")) for number in (1, "1", 2, 3)]
    answered = [(TO_CLIENT, answer(number, of=number)) for number in (3, "1", 1, 2)]
    calls = watch(*asked, *answered)
    assert [(each.request_id, each.tool_name) for each in calls] == [
        (3, "tool3"),
        ("1", "tool1"),
        (1, "tool1"),
        (2, "tool2"),
    ]
    assert [each.ending.result["of"] for each in calls if each.ending] == [3, "1", 1, 2]


def test_an_id_that_comes_back_as_text_is_known() -> None:
    assert told(watch((TO_SERVER, call(1, "a")), (TO_CLIENT, answer("1")))) == [(1, "a", "success")]
    assert told(watch((TO_SERVER, call("7", "a")), (TO_CLIENT, answer(7)))) == [("7", "a", "success")]


def test_ids_that_are_used_again_are_calls_of_their_own() -> None:
    calls = watch(
        (TO_SERVER, call(1, "first")),
        (TO_SERVER, call(1, "second")),
        (TO_CLIENT, answer(1, of="first")),
        (TO_CLIENT, answer(1, of="second")),
        (TO_SERVER, call(1, "third")),
        (TO_CLIENT, answer(1, of="third")),
    )
    assert [(each.tool_name, each.ending and each.ending.result["of"]) for each in calls] == [
        (name, name) for name in ("first", "second", "third")
    ]
    assert len({each.number for each in calls}) == 3


def test_errors_of_both_kinds_are_errors() -> None:
    calls = watch(
        (TO_SERVER, call(1, "a")),
        (TO_SERVER, call(2, "b")),
        (TO_CLIENT, {"jsonrpc": "2.0", "id": 1, "error": {"code": 5, "message": "no"}}),
        (TO_CLIENT, answer(2, isError=True, content=[{"type": "text", "text": "broken"}])),
    )
    assert told(calls) == [(1, "a", "error"), (2, "b", "error")]
    assert [each.ending.error for each in calls if each.ending] == ["no", "broken"]


def cancel(number: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number, "reason": "late"}}


def test_a_cancelled_call_is_cancelled_even_where_its_answer_comes_late() -> None:
    calls = watch((TO_SERVER, call(1, "a")), (TO_SERVER, cancel(1)), (TO_CLIENT, answer(1)))
    assert told(calls) == [(1, "a", "cancelled")]


def test_an_id_that_is_used_again_after_a_cancellation_belongs_to_the_new_call() -> None:
    calls = watch((TO_SERVER, call(1, "a")), (TO_SERVER, cancel(1)), (TO_SERVER, call(1, "b")), (TO_CLIENT, answer(1)))
    assert told(calls) == [(1, "a", "cancelled"), (1, "b", "success")]


def test_a_call_without_an_answer_at_the_end_is_unknown() -> None:
    assert told(watch((TO_SERVER, call(1, "a")))) == [(1, "a", "unknown")]


def test_the_last_line_counts_without_its_end() -> None:
    calls = watch((TO_SERVER, call(1, "a")), (TO_CLIENT, as_bytes(answer(1)).rstrip()))
    assert told(calls) == [(1, "a", "success")]


def test_names_come_from_the_handshake() -> None:
    (done,) = watch(
        (TO_SERVER, {"id": 1, "method": "initialize", "params": {"clientInfo": {"name": "cursor"}}}),
        (TO_CLIENT, answer(1, serverInfo={"name": "files"})),
        (TO_SERVER, call(1, "a")),
        (TO_CLIENT, answer(1)),
    )
    assert (done.client, done.server) == ("cursor", "files")


def test_names_come_from_each_message_of_the_stateless_protocol() -> None:
    asked = call(1, "a")
    asked["params"]["_meta"] = {**MODERN, "traceparent": "00-1-2-01"}
    meta = {"io.modelcontextprotocol/serverInfo": {"name": "files"}}
    (done,) = watch((TO_SERVER, asked), (TO_CLIENT, answer(1, _meta=meta)))
    assert (done.client, done.server, done.meta["traceparent"]) == ("tests", "files", "00-1-2-01")


def test_requests_of_the_server_and_other_methods_are_no_calls() -> None:
    calls = watch(
        (TO_CLIENT, call(1, "sampling")),
        (TO_SERVER, answer(1)),
        (TO_SERVER, {"id": 2, "method": "tools/list"}),
        (TO_CLIENT, answer(2, tools=[])),
        (TO_SERVER, {"method": "tools/call", "params": {"name": "a notification"}}),
    )
    assert calls == []


def test_batches_are_taken_apart() -> None:
    calls = watch((TO_SERVER, [call(1, "a"), call(2, "b")]), (TO_CLIENT, [answer(2), answer(1)]))
    assert told(calls) == [(2, "b", "success"), (1, "a", "success")]


def test_a_frame_that_is_too_large_is_known_by_its_beginning() -> None:
    calls = watch(
        (TO_SERVER, call(1, "write", text="x" * 5_000)),
        (TO_CLIENT, answer(1, ok=True)),
        (TO_SERVER, call(2, "read")),
        (TO_CLIENT, answer(2, content="y" * 5_000)),
        limit=1_000,
    )
    # The beginning of the first answer shows no id, and its end does.
    assert told(calls) == [(1, "write", "success"), (2, "read", "success")]
    assert isinstance(calls[0].arguments, Cut)
    assert calls[0].arguments.size > 5_000
    assert calls[1].ending is not None
    assert isinstance(calls[1].ending.result, Cut)


def test_a_frame_that_nobody_can_parse_is_known_by_its_beginning() -> None:
    deep = b'{"id":1,"method":"tools/call","params":{"name":"a","arguments":' + b"[" * 100_000 + b"\n"
    number = b'{"id":2,"method":"tools/call","params":{"name":"b","arguments":' + b"9" * 5_000 + b"}}\n"
    calls = watch((TO_SERVER, deep), (TO_SERVER, number), (TO_CLIENT, answer(2)), (TO_CLIENT, answer(1)), limit=10**6)
    assert told(calls) == [(2, "b", "success"), (1, "a", "success")]


def test_what_follows_a_gap_is_found_again() -> None:
    torn = as_bytes(call(1, "a"))
    observer = Observer(10_000)
    gap = Copy(Kind.GAP_TO_SERVER, 0, 0, (1_234).to_bytes(8, "little"))
    for copy in (
        Copy(TO_SERVER, 0, 0, torn[:10]),
        gap,
        Copy(TO_SERVER, 0, 0, torn[30:]),
        Copy(TO_SERVER, 0, 0, as_bytes(call(2, "b"))),
    ):
        assert list(observer.see(copy)) == []
    assert told(list(observer.end(0, 0))) == [(2, "b", "unknown")]
    assert observer.missed_bytes == 1_234


def test_calls_that_are_never_answered_are_given_up_oldest_first() -> None:
    asked = [(TO_SERVER, call(number, "hang")) for number in range(MAX_OPEN + 2)]
    calls = watch(*asked, (TO_CLIENT, answer(MAX_OPEN)))
    assert told(calls)[:3] == [(0, "hang", "unknown"), (1, "hang", "unknown"), (MAX_OPEN, "hang", "success")]
    assert len(calls) == MAX_OPEN + 2


NOISE = st.sampled_from(
    [b"\n", b"\r\n\r\n", b"no json\n", b"\xff\xfe\n", b"[]\n", b"null\n", b'{"id":true}\n', b"[1]\n", b'{"id":{}}\n']
)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.data())
def test_every_call_is_found_once_however_the_stream_is_cut_up(data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, 5) | st.text(max_size=2), max_size=12))
    stream = {TO_SERVER: b"", TO_CLIENT: b""}
    for number, each in enumerate(ids):
        stream[TO_SERVER] += data.draw(NOISE) + as_bytes(call(each, f"tool{number}"))
        stream[TO_CLIENT] += data.draw(NOISE) + as_bytes(answer(each))
    observer = Observer(10_000)
    calls: list[Call] = []
    for kind, whole in stream.items():
        cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
        for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
            calls += observer.see(Copy(kind, 0, 0, whole[begin:end]))
    calls += observer.end(0, 0)
    assert len({each.number for each in calls}) == len(ids)
    calls.sort(key=lambda each: each.number)
    assert [each.tool_name for each in calls] == [f"tool{number}" for number in range(len(ids))]
    assert {each.ending.status for each in calls if each.ending} <= {"success"}


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from([TO_SERVER, TO_CLIENT]), st.binary(max_size=80)), max_size=10))
def test_no_bytes_stop_the_observer(passed: list[tuple[Kind, bytes]]) -> None:
    assert watch(*passed, limit=50) == []
