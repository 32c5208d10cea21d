"""Finds the tool calls in copies of the traffic: pure, no input or output, one observer for one run of a server.

It reads what every era of the protocol puts on the wire: the handshake or the information that each message carries,
batches, ids that are used again, answers in any order, and frames that nobody can parse.
"""

import json
from collections.abc import Iterator
from typing import Any

from server.relay.calls import Call, Cut, Ending
from server.relay.copies import Copy, Kind, missing_from
from server.transports.lines import Lines, Oversized, find_id, find_member, find_text

_CLIENT_INFO = "io.modelcontextprotocol/clientInfo"
_SERVER_INFO = "io.modelcontextprotocol/serverInfo"
_HANDSHAKES = ("initialize", "server/discover")

MAX_OPEN = 1_000
"""So many calls may wait for their answers; of more, the oldest is given up."""

_NEVER = "Its answer had not come when a thousand later calls waited for theirs."

_Key = tuple[type, Any]


class Observer:
    """Follows both directions; give it every copy, in order, and it gives each call that has ended."""

    def __init__(self, max_line_bytes: int, server_name: str | None = None) -> None:
        self._lines = (Lines(max_line_bytes), Lines(max_line_bytes))
        self._torn = [False, False]
        self._client: str | None = None
        self._server = server_name
        self._handshakes: set[_Key] = set()
        self._open: dict[_Key, list[Call]] = {}
        self._number = 0
        self.calls = 0
        self.missed_bytes = 0

    def see(self, copy: Copy) -> Iterator[Call]:
        """Take a copy, and give the calls that ended with it."""
        if copy.kind is Kind.END:
            return
        if copy.kind in (Kind.GAP_TO_SERVER, Kind.GAP_TO_CLIENT):
            direction = copy.kind - Kind.GAP_TO_SERVER
            missed = missing_from(copy)
            self.missed_bytes += missed
            # What begins in the gap is only half there: it is let go up to the end of its line.
            list(self._lines[direction].end())
            self._lines[direction].skip(missed)
            self._torn[direction] = True
            return
        for line in self._lines[copy.kind].feed(self._after_the_tear(copy)):
            yield from self._see_line(copy, line)

    def end(self, wall: int, moment: int) -> Iterator[Call]:
        """Say that nothing more comes: what is still open never got its answer."""
        for kind in (Kind.TO_SERVER, Kind.TO_CLIENT):
            for line in self._lines[kind].end():
                yield from self._see_line(Copy(kind, wall, moment, b""), line)
        for calls in self._open.values():
            for call in calls:
                if call.ending is None:
                    yield call.end(
                        moment, Ending("unknown", error="The connection ended before the answer."), self._server
                    )
        self._open.clear()

    def _after_the_tear(self, copy: Copy) -> bytes:
        if not self._torn[copy.kind]:
            return copy.data
        _, end, rest = copy.data.partition(b"\n")
        self._torn[copy.kind] = not end
        self._lines[copy.kind].skip(len(copy.data) - len(rest))
        return rest

    def _see_line(self, copy: Copy, line: bytes | Oversized) -> Iterator[Call]:
        # A call's number is where it stands in what passed, the same whoever sees it and whatever was missed before.
        self._number = self._lines[Kind.TO_SERVER].position
        message: Any = None
        if isinstance(line, bytes):
            try:
                message = json.loads(line.decode(errors="replace"))
            except (ValueError, RecursionError):
                # Too deep, a number too long, or no JSON: what it shows at its beginning is all that is known of it.
                line = Oversized(line, line, len(line))
        if isinstance(line, Oversized):
            yield from self._see_unreadable(copy, line)
            return
        for each in message if isinstance(message, list) else [message]:
            if isinstance(each, dict):
                yield from self._see_message(copy, each)

    def _see_message(self, copy: Copy, message: dict[str, Any]) -> Iterator[Call]:
        method = message.get("method")
        key = _key_of(message.get("id"))
        if copy.kind is Kind.TO_CLIENT:
            if key is not None and method is None:
                yield from self._answered(copy, key, message)
            return
        params = _dict(message.get("params"))
        if method == "tools/call" and key is not None:
            yield from self._asked(copy, key, params)
        elif method in _HANDSHAKES and key is not None:
            self._handshakes.add(key)
            self._client = _name(params.get("clientInfo")) or _name(_meta(params).get(_CLIENT_INFO)) or self._client
        elif method == "notifications/cancelled":
            cancelled = _key_of(params.get("requestId"))
            for call in self._find(cancelled):
                yield call.end(copy.moment, Ending("cancelled", error=_text(params.get("reason"))), self._server)

    def _asked(self, copy: Copy, key: _Key, params: dict[str, Any]) -> Iterator[Call]:
        meta = _meta(params)
        call = Call(
            number=self._next_number(),
            request_id=key[1],
            tool_name=_text(params.get("name")),
            arguments=params.get("arguments"),
            meta=meta,
            client=_name(meta.get(_CLIENT_INFO)) or self._client,
            wall=copy.wall,
            moment=copy.moment,
        )
        yield from self._remember(key, call)

    def _answered(self, copy: Copy, key: _Key, message: dict[str, Any]) -> Iterator[Call]:
        result, error = message.get("result"), message.get("error")
        about = _dict(result)
        self._server = _name(_meta(about).get(_SERVER_INFO)) or self._server
        if key in self._handshakes:
            self._handshakes.discard(key)
            self._server = _name(about.get("serverInfo")) or self._server
            return
        for call in self._take(key):
            if error is not None:
                yield call.end(copy.moment, Ending("error", error=_error_text(error), result=error), self._server)
            elif about.get("isError") is True:
                yield call.end(copy.moment, Ending("error", error=_texts(about), result=result), self._server)
            else:
                yield call.end(copy.moment, Ending("success", result=result), self._server)

    def _see_unreadable(self, copy: Copy, frame: Oversized) -> Iterator[Call]:
        key = _key_of(find_id(frame.head, frame.tail))
        if key is None:
            return
        cut = Cut(frame.head, frame.size)
        if copy.kind is Kind.TO_SERVER:
            if find_text(frame.head, b'"method"') == "tools/call":
                name = find_text(frame.head, b'"name"', 2)
                yield from self._remember(
                    key,
                    Call(self._next_number(), key[1], name, cut, {}, self._client, copy.wall, copy.moment),
                )
            return
        for call in self._take(key):
            is_error = find_member(frame.head, b'"error"') is not None or b'"isError":true' in frame.tail
            status = Ending("error", error="The error is too large to be kept whole.", result=cut)
            yield call.end(copy.moment, status if is_error else Ending("success", result=cut), self._server)

    def _next_number(self) -> int:
        self.calls += 1
        self._number += 1
        return self._number

    def _remember(self, key: _Key, call: Call) -> Iterator[Call]:
        # The answer to a call that was cancelled may still come, unless its id is used again.
        waiting = [earlier for earlier in self._open.get(key, []) if earlier.ending is None]
        self._open[key] = [*waiting, call]
        if len(self._open) > MAX_OPEN:
            for oldest in self._open.pop(next(iter(self._open))):
                if oldest.ending is None:
                    yield oldest.end(call.moment, Ending("unknown", error=_NEVER), self._server)

    def _find(self, key: _Key | None) -> Iterator[Call]:
        calls = self._open.get(key, []) if key is not None else []
        return iter([call for call in calls if call.ending is None][:1])

    def _take(self, key: _Key) -> Iterator[Call]:
        """Give the oldest open call of this id, unless it was cancelled; an id may come back as text."""
        for known in (key, _other_form(key)):
            calls = self._open.get(known, [])
            if calls:
                call = calls.pop(0)
                if not calls:
                    del self._open[known]
                if call.ending is None:
                    yield call
                return


def _key_of(value: Any) -> _Key | None:
    # 1 and True are equal in Python, and 1 and 1.0; on the wire the last two are one number.
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    return (str if isinstance(value, str) else float), value


def _other_form(key: _Key) -> _Key:
    kind, value = key
    if kind is float:
        return str, str(value)
    try:
        return float, int(value)
    except ValueError:
        return key


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _meta(value: dict[str, Any]) -> dict[str, Any]:
    return _dict(value.get("_meta"))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _name(value: Any) -> str | None:
    return _text(_dict(value).get("name"))


def _error_text(error: Any) -> str:
    return _text(_dict(error).get("message")) or "The server answered with an error."


def _texts(result: dict[str, Any]) -> str:
    content = result.get("content")
    blocks = content if isinstance(content, list) else []
    texts = [_text(_dict(block).get("text")) for block in blocks]
    return "\n".join(text for text in texts if text) or "The tool answered with an error."
