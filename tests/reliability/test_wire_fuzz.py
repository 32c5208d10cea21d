"""Frames that nobody should send, thousands of them, to real servers on pipes, which answer each one once and live on.

The frames are good ones that were spoilt: a value changed at any place of the message, members renamed, doubled and
left out, lines torn, joined, flipped and filled with noise. What is due is read off the bytes of each line, whoever
made them, so an answer too many is seen as well as one too few. A batch is answered before the next one is sent; the
answers are read on a thread meanwhile, so neither side waits for the other.
"""

import json
import queue
import random
from collections import Counter, deque
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import empty_database
from tests.reliability.scale import dice, figure, patient, scale, seed
from tests.server.support import (
    ERAS,
    MODERN,
    WAIT_SECONDS,
    ServerProcess,
    frame_of,
    request,
    started,
    tool_call,
)
from tests.support import ROOT

pytestmark = patient

CANARY = "zq7canary"
"""What no refusal and no log may repeat; it is planted in values, never in names."""

LIMITS = (65_536, 8_388_608)
"""The smallest limit of a frame that can be set, and the one that is set where nobody sets any."""

FRAMES = scale(5_000, 100_000) // (len(ERAS) * len(LIMITS))
BETWEEN_GOOD_CALLS = 300
GROWTH = 50 * 1_024
"""How much more memory may be held at the end than after the first tenth, in KiB."""

INTERNAL_ERROR = -32_603
LATEST_HANDSHAKE = "2025-11-25"
RAW = '"@raw@"'
LITERALS = (
    *(b"NaN", b"-Infinity", b"1e999", b"-0", b"1E5", b"00", b"+1", b".5", b"9" * 5_000, b"-" + b"9" * 4_000),
    *(b'"\\ud800 zq7canary"', b'"zq7canary \\udc00\\ud800"', b'"\\ud83d\\ude00"', b'"\\u0000zq7canary"', b'"a\x01b"'),
    *(b'"\xff\xfe"', b'"\xed\xa0\x80"', b'"\xf0\x9f\x98"', b'"\xc0\xaf"', b"'zq7canary'", b'"zq7canary', b"tru", b""),
    *(b"{}{}", b"[1,]", b'{"a":}', b'{"a":1,"a":2}', b'{"id":1,"id":"2"}', b'{"a" 1}', b"{", b"]", b'\\"'),
    *(b"[" * 60 + b"]" * 60, b"[" * 150 + b"]" * 150, b"[" * 250 + b"]" * 250, b"[" * 20_000, b'{"a":' * 5_000),
    b'{"a":' * 70 + b"1" + b"}" * 70,
)
SMALL: tuple[Any, ...] = (None, True, False, 0, -1, 1, 1.5, -0.0, 1e308, 2**31, 2**53, 2**63, 2**64, -(2**63), "")
TEXTS = (*(CANARY + end for end in ("", "\0", "\ud800", "\u2028\x7f", " é😀")), CANARY * 60, "2.0", "7")
OTHERS: tuple[Any, ...] = ([], {}, [CANARY], {"deep": CANARY}, [None], [[[]]], {"": 1}, 10**400, -(10**1_500))
NAMES = ("id", "result", "error", "method", "params", "_meta", "jsonrpc", "arguments", "extra", "", "é\n", "a" * 300)
MEMBERS = (*(b'"id":' + each for each in (b"1", b'"two"', b"null")), b'"method":"ping"', b'"params":{}', b'"result":{}')
NOISE = (b"\r\n", b"\xed\xa0\x80", b"\xef\xbb\xbf", *(bytes([byte]) for byte in b'\0\r\n\xff"\\{},\x1b'))
PREFIXES = (b"", b"\xef\xbb\xbf", b"\0", b"   \t", b"\r", b"\x0c", b"data: ", b"Content-Length: 9\r\n\r\n")
ALPHABETS = (bytes(range(256)), b'{}[]":,\\ \t\rid0123truefalsn.eE+-', b"\n\r \t", b'\\"', b"{[")
Place = tuple[str | int, ...]
Answered = tuple[str, Any]
"""An id and the name of its type, since 1, 1.0 and true are equal."""


# What is due


@dataclass(frozen=True)
class Due:
    """What a line must be answered with.

    `exactly` are ids of which each gets one answer, `perhaps` those that get one at most, and `elsewhere` counts the
    answers under null or under an id that the server found in what is not JSON.
    """

    exactly: tuple[Answered, ...] = ()
    perhaps: tuple[Answered, ...] = ()
    elsewhere: int = 0
    cancels: Any = None


class Doubled(dict[str, Any]):
    """A JSON object that has a member twice."""


def due_of(line: bytes, limit: int) -> Due:
    """Read off a line what it must be answered with."""
    if not line.strip():
        return Due()
    try:
        value = json.loads(
            line.strip().decode(), object_pairs_hook=_object_of, parse_int=_integer_of, parse_float=_float_of
        )
    except (ValueError, RecursionError):
        return Due(elsewhere=1)
    if len(line) > limit:
        usable = isinstance(value, dict) and not isinstance(value, Doubled) and is_usable(value.get("id"))
        return Due(exactly=(answered(value["id"]),)) if usable and _shows_its_id(value) else Due(elsewhere=1)
    if isinstance(value, list) and is_strict(value):
        ids = tuple(answered(each["id"]) for each in value if isinstance(each, dict) and is_usable(each.get("id")))
        return Due(exactly=ids) if ids else Due(elsewhere=1)
    if not isinstance(value, dict):
        return Due(elsewhere=1)
    return _due_of_object(value)


def _shows_its_id(value: dict[str, Any]) -> bool:
    # Of what is too large the two ends are kept: an id that stands last is found, or one with nothing large before it.
    names = list(value)
    before = {name: value[name] for name in names[: names.index("id")]}
    return names[-1] == "id" or len(json.dumps(before)) < 1_000


def _due_of_object(value: dict[str, Any]) -> Due:
    strict = is_strict(value)
    if "id" not in value:
        well_formed = value.get("jsonrpc") == "2.0" and value.get("method") == "notifications/cancelled"
        params = value.get("params")
        cancels = params.get("requestId") if well_formed and isinstance(params, dict) else None
        if not strict:
            # It cannot be told whether what is nested too deeply was a notification, and was heard.
            return Due(perhaps=(answered(None),), cancels=cancels) if depth_of(value) >= 150 else Due(elsewhere=1)
        return Due(cancels=cancels)
    if not is_usable(value["id"]):
        # An error that is reported under null is a response to nobody.
        return Due(perhaps=(answered(None),)) if "error" in value and value["id"] is None else Due(elsewhere=1)
    if not strict and isinstance(value, Doubled):
        return Due(elsewhere=1)
    request_id = answered(value["id"])
    if "result" in value or "error" in value:
        # Responses that nobody asked for are passed over; what is half a response may be refused.
        only_response = value.keys() == {"jsonrpc", "id", "result"} and value["jsonrpc"] == "2.0"
        passed_over = strict and only_response and isinstance(value["result"], dict)
        return Due() if passed_over else Due(perhaps=(request_id,))
    return Due(exactly=(request_id,))


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    return made if len(made) == len(pairs) else Doubled(made)


def _integer_of(literal: str) -> Any:
    return int(literal) if len(literal.lstrip("-")) <= 4_300 else float("nan")


def _float_of(literal: str) -> float:
    # 1e999 is JSON, whatever is made of it.
    return max(min(float(literal), 1e308), -1e308)


def is_usable(request_id: Any) -> bool:
    """Tell whether an answer is due under an id, wherever it stands; very long ones are tested elsewhere."""
    if isinstance(request_id, str):
        return len(request_id) <= 30 and is_strict(request_id)
    return isinstance(request_id, int) and not isinstance(request_id, bool) and abs(request_id) < 10**19


def is_strict(value: Any) -> bool:
    """Tell whether this is JSON that MCP can carry."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return False
    return depth_of(value) < 150


def depth_of(value: Any) -> int:
    level, depth = [value], 0
    while level:
        level = [
            inner
            for each in level
            if isinstance(each, (dict, list))
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        depth += 1
    return depth


def answered(request_id: Any) -> Answered:
    return type(request_id).__name__, request_id


def coerced(request_id: Any) -> Any:
    """Return the id as cancellations see it, where "7" and 7 are one."""
    try:
        return int(request_id) if isinstance(request_id, str) else request_id
    except ValueError:
        return request_id


@dataclass
class Book:
    """What is due and what has come."""

    exactly: Counter[Answered] = field(default_factory=Counter)
    perhaps: Counter[Answered] = field(default_factory=Counter)
    elsewhere: int = 0
    elsewhere_seen: int = 0
    perhaps_seen: int = 0
    last_lines: deque[tuple[Due, bytes]] = field(default_factory=lambda: deque(maxlen=2_000))

    def expect(self, due: Due, line: bytes) -> None:
        """Note a line that is going to be sent."""
        self.last_lines.append((due, line if len(line) <= 600 else line[:300] + b" ... " + line[-300:]))
        self.exactly.update(due.exactly)
        self.perhaps.update(due.perhaps)
        self.elsewhere += due.elsewhere
        if is_usable(due.cancels):
            for request_id in [each for each in self.exactly if coerced(each[1]) == coerced(due.cancels)]:
                # Whether it comes before the answer is left to chance.
                self.perhaps[request_id] += self.exactly.pop(request_id)

    def stays_open(self, subscription_id: Any) -> None:
        """Note that a request to listen has begun: its answer comes when the stream ends, here or never."""
        for request_id in [each for each in self.exactly if coerced(each[1]) == coerced(subscription_id)]:
            self.perhaps[request_id] += self.exactly.pop(request_id)

    def note(self, frame: dict[str, Any]) -> None:
        """Note an answer; one too many fails the test."""
        request_id = answered(frame["id"])
        if self.exactly[request_id]:
            self.exactly[request_id] -= 1
            if not self.exactly[request_id]:
                del self.exactly[request_id]
        elif self.perhaps[request_id]:
            self.perhaps[request_id] -= 1
            self.perhaps_seen += 1
        else:
            del self.exactly[request_id], self.perhaps[request_id]
            self.elsewhere_seen += 1
            assert self.elsewhere_seen <= self.elsewhere, f"an answer too many: {frame}\n{self.lines_with(request_id)}"

    def lines_with(self, request_id: Answered) -> str:
        """Show the lines sent last that are to be answered under an id, or in which it occurs."""
        literal = json.dumps(request_id[1]).encode()
        found = [line for due, line in self.last_lines if request_id in due.exactly or literal in line]
        return "\n".join(map(repr, found[-8:]))

    def check(self) -> None:
        """See that all that was due has come, and nothing else."""
        assert not self.exactly, [(each, self.lines_with(each)) for each in self.exactly]
        # An answer under an id found in torn text may have been taken for one that was cancelled.
        assert self.elsewhere_seen <= self.elsewhere <= self.elsewhere_seen + self.perhaps_seen


# Good messages


class Maker:
    """Makes good messages of one era about one session, with ids that are its own or in flight."""

    def __init__(self, chance: random.Random, era: str) -> None:
        self.chance, self.era = chance, era
        self.session_id = "none yet"
        self._last_ids: deque[Any] = deque([0], maxlen=40)
        self._number = 0

    def new_id(self) -> Any:
        """Return an id: a fresh one, or one that may be in flight."""
        if self.chance.random() < 0.08:
            return self.chance.choice(self._last_ids)
        self._number += 1
        number = self._number
        made = self.chance.choice((number, number, f"f{number}", f"{number}", -number, 2**53 + number, f"é😀 {number}"))
        self._last_ids.append(made)
        return made

    def message(self) -> dict[str, Any]:
        """Make a message: mostly a request, else a notification or a response that nobody asked for."""
        kind = self.chance.random()
        if kind < 0.06:
            return self._cancelled()
        if kind < 0.10:
            return self._notification()
        if kind < 0.14:
            return self._response()
        method, params = self._call() if self.chance.random() < 0.7 else self._other_request()
        return self.request(self.new_id(), method, **params)

    def request(self, request_id: Any, method: str, **params: Any) -> dict[str, Any]:
        """Make a request of this era, and now and then of the other."""
        modern = self.era == "auto"
        if self.chance.random() < 0.03:
            modern = not modern
        if modern:
            return request(request_id, method, **params)
        return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}

    def _cancelled(self) -> dict[str, Any]:
        unknown = (10**9, "unknown", None, True, 1.5, [1], {"a": 1}, "", 2**70)
        known = self.chance.random() < 0.6
        request_id = self.chance.choice(self._last_ids if known else unknown)
        if self.chance.random() < 0.1:
            request_id = str(request_id)
        return _notification("notifications/cancelled", requestId=request_id, reason=CANARY)

    def _notification(self) -> dict[str, Any]:
        return self.chance.choice(
            (
                _notification("notifications/initialized"),
                _notification("notifications/progress", progressToken=self.chance.choice(self._last_ids), progress=1),
                _notification("notifications/progress", progressToken="unknown", progress=10**400, message=CANARY),
                _notification("notifications/roots/list_changed"),
                _notification("notifications/unheard", a=CANARY),
                _notification("tools/call", name="list_sessions"),
            )
        )

    def _response(self) -> dict[str, Any]:
        request_id = self.chance.choice((self.new_id(), 10**6, "unknown"))
        error = {"code": -1, "message": CANARY, "data": {"a": CANARY}}
        outcomes: tuple[dict[str, Any], ...] = ({"result": {"roots": [CANARY]}}, {"result": {}}, {"error": error})
        return {"jsonrpc": "2.0", "id": request_id, **self.chance.choice(outcomes)}

    def _call(self) -> tuple[str, dict[str, Any]]:
        name, arguments = self.chance.choice(self._calls())
        return "tools/call", {"name": name, "arguments": arguments}

    def _calls(self) -> list[tuple[str, dict[str, Any]]]:
        text, session = f"{CANARY} {self._number}", {"session_id": self.session_id}
        parts = [
            {"type": "text", "content": text},
            {"type": "tool_call", "id": text, "name": text},
            {"type": "uri", "uri": text, "mime_type": text},
        ]
        usage = {"input_tokens": 1, "output_tokens": 2}
        message = {"role": "user", "content": text, "metadata": {"a": [text]}, "idempotency_key": text}
        answer = {"role": "assistant", "parts": parts, "model": text, "usage": usage}
        log = {"tool_name": text, "arguments": {"a": text}, "result": [text], "duration_ms": 1.5, "tool_call_id": text}
        entry = self.chance.randint(1, 9)
        return [
            ("start_session", {"title": text, "metadata": {"workspace": text}, "idempotency_key": text}),
            ("list_sessions", {"query": CANARY, "status": "active", "limit": 2}),
            ("list_sessions", {"cursor": text}),
            ("get_active_session", {"client": text, "workspace": text}),
            ("update_session", {**session, "title": text, "metadata": {"a": text}}),
            ("add_messages", {**session, "messages": [message, answer]}),
            ("add_messages", {**session, "messages": [{"role": "tool", "content": text}], "expected_seq": entry}),
            ("add_messages", {**session, "messages": [{"role": "user", "content": text, "replaces_seq": entry}]}),
            ("log_tool_usage", {**session, **log, "server_name": text, "error": text, "status": "error"}),
            ("log_tool_usage", {**session, **log, "message_seq": entry, "idempotency_key": text + "2"}),
            ("get_session_history", {**session, "limit": 5, "after_seq": entry, "detail": "detailed"}),
            ("get_session_history", {**session, "limit": 5, "before_seq": entry}),
            ("get_session_history", {**session, "entry_seq": entry, "content_offset": 0}),
            ("list_tool_usage", {**session, "tool_name": text, "status": "error", "limit": 2}),
            ("delete_session", {"session_id": text}),
        ]

    def _other_request(self) -> tuple[str, dict[str, Any]]:
        session = f"chat://sessions/{self.session_id}"
        about = {"name": self.chance.choice(("fuzz", CANARY)), "version": "1"}
        version = self.chance.choice(("2024-11-05", LATEST_HANDSHAKE, "2026-07-28", "1999-01-01"))
        template = {"type": "ref/resource", "uri": "chat://sessions/{session_id}"}
        others: list[tuple[str, dict[str, Any]]] = [
            ("initialize", {"protocolVersion": version, "capabilities": {"roots": {}}, "clientInfo": about}),
            ("ping", {}),
            ("tools/list", {}),
            ("tools/list", {"cursor": CANARY}),
            ("resources/list", {}),
            ("resources/templates/list", {}),
            ("prompts/list", {}),
            ("prompts/get", {"name": CANARY, "arguments": {"a": CANARY}}),
            ("completion/complete", {"ref": template, "argument": {"name": "session_id", "value": CANARY}}),
            ("completion/complete", {"ref": template, "argument": {"name": "session_id", "value": "0"}}),
            ("logging/setLevel", {"level": "debug"}),
            ("resources/subscribe", {"uri": session}),
            ("resources/unsubscribe", {"uri": session}),
            ("server/discover", {}),
            ("subscriptions/listen", {"notifications": {"resourceSubscriptions": [session]}}),
            ("sampling/createMessage", {"messages": [], "maxTokens": 5}),
            ("tasks/list", {}),
            ("no/such/method", {"a": CANARY}),
            ("", {}),
        ]
        others += [
            ("resources/read", {"uri": uri})
            for uri in (
                "chat://sessions?limit=2",
                session,
                f"{session}/history?limit=2&after_seq=1",
                f"{session}/tool-usage?cursor={CANARY}",
                f"{session}/transcript?before_seq=x",
                f"chat://{CANARY}",
            )
        ]
        return self.chance.choice(others)


def _notification(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params}


# Spoilt ones


class Spoiler:
    """Spoils messages, as values and as bytes."""

    def __init__(self, chance: random.Random, maker: Maker, limit: int) -> None:
        self._chance, self._maker, self._limit = chance, maker, limit
        # The largest take long, so of those there are twelve, however long the run is.
        self._huge = 0.01 if limit < 1_000_000 else 12 / FRAMES
        self._by_value = (self._change, self._change, self._change, self._raw, self._raw, self._leave_out, self._add)
        self._by_bytes = (self._tear, self._join, self._flip, self._insert, self._repeat, self._double, self._dress)

    def frame(self) -> bytes:
        """Make the next frame, most of them spoilt."""
        way = self._chance.random()
        if way < 0.15:
            return self._encode(self._maker.message())
        if way < 0.65:
            return self._chance.choice(self._by_value)(self._maker.message())
        if way < 0.90:
            return self._chance.choice(self._by_bytes)(self._encode(self._maker.message()))
        if way < 0.94:
            return self._batch()
        if way < 0.94 + self._huge:
            return self.huge()
        return self._noise()

    def huge(self) -> bytes:
        """Make a frame about as large as the limit, or much larger where the limit is small."""
        size = self._chance.choice((self._limit - 2_000, self._limit - 100, self._limit + 1, self._limit * 9 // 8))
        if self._limit < 1_000_000:
            size = self._chance.choice((size, size * 3, size * 20))
        message = self._maker.request(self._maker.new_id(), "tools/call", name="start_session")
        message["params"]["arguments"] = {"title": (CANARY * (size // len(CANARY) + 1))[:size]}
        if self._chance.random() < 0.3:
            message["id"] = message.pop("id")
        return self._encode(message)

    def _encode(self, message: Any, raw: bytes = b"0") -> bytes:
        if isinstance(message, dict) and self._chance.random() < 0.15:
            names = self._chance.sample(list(message), len(message))
            message = {name: message[name] for name in names}
        escaped = self._chance.random() < 0.5
        separators = self._chance.choice(((",", ":"), (", ", ": "), (" ,\t", "\r: ")))
        written = json.dumps(message, ensure_ascii=escaped, separators=separators).encode(errors="surrogatepass")
        return written.replace(RAW.encode(), raw) + b"\n"

    # By value

    def _change(self, message: dict[str, Any]) -> bytes:
        for _ in range(self._chance.choice((1, 1, 1, 2))):
            message = put(message, self._place_in(message), self._value())
        return self._encode(message)

    def _raw(self, message: dict[str, Any]) -> bytes:
        spoilt = put(message, self._place_in(message), RAW.strip('"'))
        return self._encode(spoilt, self._chance.choice(LITERALS))

    def _leave_out(self, message: dict[str, Any]) -> bytes:
        spoilt = deepcopy(message)
        *path, name = self._chance.choice([place for place in places_in(message) if place])
        inner = at(spoilt, tuple(path))
        value = inner.pop(name)
        if isinstance(inner, dict) and self._chance.random() < 0.3:
            inner[str(name).upper()] = value
        return self._encode(spoilt)

    def _add(self, message: dict[str, Any]) -> bytes:
        objects = [place for place in places_in(message) if isinstance(at(message, place), dict)]
        place = (*self._chance.choice(objects), self._chance.choice(NAMES))
        return self._encode(put(message, place, self._value()))

    def _place_in(self, message: Any) -> Place:
        every = [place for place in places_in(message) if place]
        shallow = [place for place in every if len(place) <= 2]
        return self._chance.choice(shallow if self._chance.random() < 0.4 else every)

    def _value(self) -> Any:
        kind = self._chance.random()
        if kind < 0.02:
            return CANARY * self._chance.choice((200, 2_000, 6_000, 8_000, 20_000))
        if kind < 0.04:
            return [self._chance.choice(SMALL)] * self._chance.choice((31, 501, 5_000))
        if kind < 0.06:
            return {f"k{number}": CANARY for number in range(self._chance.choice((200, 2_000)))}
        if kind < 0.08:
            return self._maker.message()
        if kind < 0.12:
            return nested(self._chance.choice((10, 63, 64, 65, 100, 190, 197, 198, 199, 200, 201, 210, 250)))
        return self._chance.choice(self._chance.choice((SMALL, TEXTS, OTHERS)))

    # By bytes

    def _tear(self, frame: bytes) -> bytes:
        return frame[: self._chance.randrange(len(frame))] + b"\n"

    def _join(self, frame: bytes) -> bytes:
        # Whatever comes next is on the same line.
        return frame[: self._chance.choice((-1, self._chance.randrange(len(frame))))]

    def _flip(self, frame: bytes) -> bytes:
        spoilt = bytearray(frame)
        for _ in range(self._chance.choice((1, 1, 2, 10))):
            spoilt[self._chance.randrange(len(spoilt) - 1)] = self._chance.randrange(256)
        return bytes(spoilt)

    def _insert(self, frame: bytes) -> bytes:
        where = self._chance.randrange(len(frame))
        return frame[:where] + self._chance.choice(NOISE) + frame[where:]

    def _repeat(self, frame: bytes) -> bytes:
        begin, end = sorted((self._chance.randrange(len(frame)), self._chance.randrange(len(frame))))
        return frame[:end] + frame[begin:end] + frame[end:]

    def _double(self, frame: bytes) -> bytes:
        member = self._chance.choice(MEMBERS)
        body = frame.strip()[1:-1]
        return b"{" + self._chance.choice((member + b"," + body, body + b"," + member)) + b"}\n"

    def _dress(self, frame: bytes) -> bytes:
        before = self._chance.choice(PREFIXES)
        after = self._chance.choice((b"\n", b"\r\n", b"\0\n", b" x\n", b",\n", b"\n\n\r\n", b"\n\n \n", frame))
        return before + frame[:-1] + after

    def _batch(self) -> bytes:
        messages: list[Any] = [self._maker.message() for _ in range(self._chance.randrange(4))]
        messages = [each for each in messages if "result" not in each and "error" not in each]
        return self._encode([*messages, *self._chance.choice(([], [1], [None, []], [{"id": None}]))])

    def _noise(self) -> bytes:
        size = self._chance.choice((1, 5, 50, 500, 5_000))
        alphabet = self._chance.choice(ALPHABETS)
        return bytes(self._chance.choices(alphabet, k=size)) + b"\n"


def places_in(value: Any, here: Place = ()) -> Iterator[Place]:
    """Find every place in a value, itself first."""
    yield here
    if isinstance(value, (dict, list)):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places_in(inner, (*here, name))


def at(value: Any, place: Place) -> Any:
    for part in place:
        value = value[part]
    return value


def put(message: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    spoilt = deepcopy(message)
    at(spoilt, place[:-1])[place[-1]] = value
    return spoilt


def nested(depth: int) -> Any:
    value: Any = CANARY
    for level in range(depth):
        value = [value] if level % 2 else {"deep": value}
    return value


# The client


class Client:
    """A client on raw pipes that keeps the book, and calls tools between what it should not send."""

    def __init__(self, server: ServerProcess, era: str, limit: int) -> None:
        self._server, self._era, self._limit = server, era, limit
        self.book = Book()
        self._number = 0

    def begin(self) -> None:
        """Shake hands where this era does, so that the era is settled."""
        if self._era == "legacy":
            about = {"name": "fuzz", "version": "1"}
            params = {"protocolVersion": LATEST_HANDSHAKE, "capabilities": {}, "clientInfo": about}
            answer = self._ask({"jsonrpc": "2.0", "id": "good 0", "method": "initialize", "params": params})
            assert answer["result"]["protocolVersion"] == LATEST_HANDSHAKE
            self._server.send(frame_of(_notification("notifications/initialized")))
        else:
            assert self._ask(request("good 0", "tools/list"))["result"]["tools"]

    def send_batch(self, payload: bytes) -> None:
        """Send lines, and wait for all that they must be answered with."""
        for line in payload.split(b"\n"):
            self.book.expect(due_of(line, self._limit), line)
        self._server.send(payload if payload.endswith(b"\n") else payload + b"\n")
        self._settle()

    def check_good_calls(self) -> str:
        """Start a session, append to it and read it back; return its handle."""
        session_id = str(self._answer("start_session", title="good")["id"])
        messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]
        stored = self._answer("add_messages", session_id=session_id, messages=messages)
        assert [message["seq"] for message in stored["messages"]] == [1, 2]
        entries = self._answer("get_session_history", session_id=session_id)["entries"]
        assert [(entry["seq"], entry["role"], entry["content"]) for entry in entries] == [
            (1, "user", "hello"),
            (2, "assistant", "good day"),
        ]
        return session_id

    def end(self) -> None:
        """End the input and see that the server leaves, with nothing left to say."""
        self._server.end_input()
        for frame in self._server.receive_all():
            self._look_at(frame)
        assert self._server.wait() == 0
        self.book.check()

    def _answer(self, name: str, **arguments: Any) -> dict[str, Any]:
        self._number += 1
        message = tool_call(f"good {self._number}", name, **arguments)
        if self._era == "legacy":
            del message["params"]["_meta"]
        result = self._ask(message)["result"]
        assert not result.get("isError"), result
        structured: dict[str, Any] = result["structuredContent"]
        return structured

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        self._server.send(frame_of(message))
        self.book.expect(Due(exactly=(answered(message["id"]),)), b"")
        while (frame := self._receive()).get("id") != message["id"]:
            pass
        assert "result" in frame, frame
        return frame

    def _settle(self) -> None:
        while self.book.exactly:
            self._receive()

    def _receive(self) -> dict[str, Any]:
        try:
            frame = self._server.receive()
        except queue.Empty:
            waiting = {each: self.book.lines_with(each) for each in list(self.book.exactly)[:3]}
            raise AssertionError(f"no answer within {WAIT_SECONDS} seconds: {waiting}") from None
        self._look_at(frame)
        return frame

    def _look_at(self, frame: dict[str, Any]) -> None:
        assert frame["jsonrpc"] == "2.0"
        if frame.get("method", "").startswith("notifications/"):
            # What is told to who listens is no answer; the fuzz may have made a listener of us.
            assert "id" not in frame, frame
            if frame["method"] == "notifications/subscriptions/acknowledged":
                self.book.stays_open(frame["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"])
            return
        assert "id" in frame, frame
        assert ("result" in frame) is not ("error" in frame), frame
        self.book.note(frame)
        shown = f"{json.dumps(frame)[:2_000]}\n{self.book.lines_with(answered(frame['id']))}"
        if "error" in frame:
            error = frame["error"]
            assert error["code"] not in (0, INTERNAL_ERROR), f"{shown}\n{self._server.errors()[-3_000:]}"
            assert_decent(error["message"], shown)
            # What the SDK repeats is how the caller addressed us: the method, the address, the version.
            rest = error.get("data")
            if isinstance(rest, dict):
                assert rest.keys() <= {"uri", "supported", "requested"}, shown
        elif frame["result"].get("isError"):
            told = json.dumps(frame["result"])
            assert "server failed" not in told, shown
            assert_decent(told, shown)


def assert_decent(text: str, shown: str = "") -> None:
    """Nothing of what was said and nothing of ourselves is in a text."""
    for never in (CANARY, "Traceback", str(ROOT), "site-packages", 'File "', ".py:"):
        assert never not in text, f"{never}: {shown or text[-3_000:]}"


def memory_of(process_id: int) -> int | None:
    """Return the resident memory of a process in KiB, where the system tells."""
    status = Path(f"/proc/{process_id}/status")
    if not status.exists():
        return None
    (line,) = (each for each in status.read_text(encoding="utf-8").splitlines() if each.startswith("VmRSS"))
    return int(line.split()[1])


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("era", ERAS)
def test_every_frame_is_answered_once_and_the_server_lives_on(database_url: str, era: str, limit: int) -> None:
    seed()
    chance = dice(f"wire {era} {limit}")
    maker = Maker(chance, era)
    spoiler = Spoiler(chance, maker, limit)
    with started(database_url, MCP_CHAT_MAX_FRAME_BYTES=str(limit)) as server:
        client = Client(server, era, limit)
        client.begin()
        maker.session_id = client.check_good_calls()
        # What the largest frames need is needed from the beginning.
        for _ in range(4):
            client.send_batch(spoiler.huge())
        sent, next_check, before = 0, BETWEEN_GOOD_CALLS, None
        while sent < FRAMES:
            frames = [spoiler.frame() for _ in range(chance.choice((1, 5, 20, 60)))]
            client.send_batch(b"".join(frames))
            sent += len(frames)
            if sent >= next_check:
                maker.session_id = client.check_good_calls()
                next_check += BETWEEN_GOOD_CALLS
            if before is None and sent >= FRAMES // 10:
                before = memory_of(server.process.pid)
        client.check_good_calls()
        after = memory_of(server.process.pid)
        assert server.process.poll() is None
        client.end()
        assert_decent(server.errors())
    if before is not None and after is not None:
        figure(f"wire fuzz: KiB more after {sent} frames, {era}, frames of {limit}", after - before)
        assert after - before < GROWTH


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One process for all that a server must survive, with the smallest limit of a frame."""
    url = empty_database(tmp_path_factory.mktemp("wire") / "chat.db")
    with started(url, MCP_CHAT_MAX_FRAME_BYTES=str(LIMITS[0])) as server:
        yield server


@pytest.mark.parametrize("kept", [1, 16, 27, 30])
def test_a_frame_too_large_is_answered_under_its_id_wherever_it_begins_in_what_is_read(
    server: ServerProcess, kept: int
) -> None:
    # So many bytes of the frame come with the first chunk that is read, and the rest of it with the next.
    server.answer("list_sessions")
    server.send(b"\n" * (65_536 - kept) + frame_of(tool_call(7, "start_session", title="x" * 100_000)))
    assert server.receive()["id"] == 7


def test_an_error_that_a_client_reports_without_an_id_is_not_answered(server: ServerProcess) -> None:
    # Both sides would tell each other for ever that they had not understood.
    server.answer("list_sessions")
    server.send(frame_of({"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "Parse error"}}))
    server.answer("list_sessions")


NAMES_THAT_CANNOT_BE_STORED = ("", "fuzz\0", "\0")


@pytest.mark.parametrize("name", NAMES_THAT_CANNOT_BE_STORED, ids=repr)
def test_a_client_whose_name_cannot_be_stored_can_start_a_session(server: ServerProcess, name: str) -> None:
    call = tool_call(2, "start_session")
    call["params"]["_meta"] = MODERN | {"io.modelcontextprotocol/clientInfo": {"name": name, "version": "1"}}
    result = server.ask(call)["result"]
    assert not result.get("isError"), result["content"]


@pytest.mark.parametrize("name", NAMES_THAT_CANNOT_BE_STORED, ids=repr)
def test_a_client_that_shakes_hands_under_such_a_name_can_start_a_session(database_url: str, name: str) -> None:
    about = {"name": name, "version": "1"}
    with started(database_url) as server:
        params = {"protocolVersion": LATEST_HANDSHAKE, "capabilities": {}, "clientInfo": about}
        assert "result" in server.ask({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
        call = tool_call(2, "start_session")
        del call["params"]["_meta"]
        result = server.ask(call)["result"]
        assert not result.get("isError"), result["content"]


def test_calls_that_share_an_id_are_each_answered_at_the_end_of_input(database_url: str) -> None:
    with started(database_url) as server:
        server.answer("list_sessions")
        server.send(*(frame_of(tool_call(1, "start_session")) for _ in range(5)))
        server.end_input()
        answers = server.receive_all()
        assert [(answer["id"], "result" in answer) for answer in answers] == [(1, True)] * 5


def test_a_cancellation_of_what_is_no_id_costs_no_call_its_answer(database_url: str) -> None:
    with started(database_url) as server:
        server.send(frame_of(tool_call(1, "start_session")))
        for cancelled in (True, 1.0):
            server.send(frame_of(_notification("notifications/cancelled", requestId=cancelled)))
        server.end_input()
        (answer,) = server.receive_all()
        assert "result" in answer, answer
