"""A model provider on localhost that answers from a script, in three wire shapes: OpenAI's, Anthropic's and Google's.

Each request takes the next line of the script, and its body is kept. A line is what is said and called, or one of the
ways in which a provider fails.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Says:
    """An answer: pieces of text, calls as (id, name, arguments), and how it ends.

    `cached` are the tokens read from and written to a cache. `status` refuses instead; `cut` breaks the connection
    after the pieces; `hold` waits there until it is let go.
    """

    pieces: Sequence[str] = ()
    calls: Sequence[tuple[str, str, Any]] = ()
    finish: str = ""
    tokens: tuple[int, int] = (10, 5)
    cached: tuple[int, int] = (0, 0)
    reasoned: int = 0
    status: int = 200
    cut: bool = False
    hold: bool = False


@dataclass
class Provider:
    """What a script said, and what it was asked."""

    script: list[Says]
    afterwards: Says = field(default_factory=lambda: Says(status=500))
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)


@contextmanager
def provided(*script: Says) -> Iterator[Provider]:
    """Serve a script on a free port."""
    provider = Provider(list(script))

    class Handler(_Handler):
        of = provider

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    provider.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield provider
    finally:
        provider.let_go.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    of: Provider

    def do_POST(self) -> None:
        """Answer with the next line of the script."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.of.asked.append(body)
        self.of.headers.append({name.lower(): value for name, value in self.headers.items()})
        says = self.of.script.pop(0) if self.of.script else self.of.afterwards
        if says.status != 200:
            self._refuse(says.status)
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        shape = next((shape for place, shape in _SHAPES.items() if place in self.path), _openai)
        before, after = shape(says)
        self._send(before)
        if says.hold:
            self.of.held.set()
            self.of.let_go.wait(60)
        if not says.cut:
            self._send(after)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the library's
        """Say nothing."""

    def _send(self, events: Sequence[str]) -> None:
        try:
            for event in events:
                self.wfile.write(event.encode())
                self.wfile.flush()
        except OSError:
            # Whoever asked has gone.
            return

    def _refuse(self, status: int) -> None:
        said = json.dumps({"error": {"message": f"refused, {self.headers.get('authorization')}", "type": "x"}}).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("retry-after-ms", "1")
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)


def _openai(says: Says) -> tuple[list[str], list[str]]:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        fields = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "scripted", "choices": [choice]}
        return f"data: {json.dumps(fields)}\n\n"

    before = [chunk({"role": "assistant", "content": piece}) for piece in says.pieces]
    after = []
    for index, (call_id, name, arguments) in enumerate(says.calls):
        function = {"name": name, "arguments": _as_text(arguments)}
        after.append(chunk({"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}))
    after.append(chunk({}, says.finish or ("tool_calls" if says.calls else "stop")))
    prompt, completion = says.tokens
    usage: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    usage |= _known("prompt_tokens_details", cached_tokens=says.cached[0], cache_write_tokens=says.cached[1])
    usage |= _known("completion_tokens_details", reasoning_tokens=says.reasoned)
    fields = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "scripted", "choices": []}
    after += [f"data: {json.dumps({**fields, 'usage': usage})}\n\n", "data: [DONE]\n\n"]
    return before, after


def _anthropic(says: Says) -> tuple[list[str], list[str]]:
    def event(kind: str, **fields: Any) -> str:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n"

    prompt, completion = says.tokens
    message: dict[str, Any] = {
        "id": "m", "type": "message", "role": "assistant", "model": "scripted", "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": {"input_tokens": prompt, "output_tokens": 1},
    }  # fmt: skip
    read, written = says.cached
    cached = {"cache_read_input_tokens": read, "cache_creation_input_tokens": written}
    message["usage"] |= cached if any(says.cached) else {}
    before = [event("message_start", message=message)]
    if says.pieces:
        before.append(event("content_block_start", index=0, content_block={"type": "text", "text": ""}))
        deltas = [{"type": "text_delta", "text": piece} for piece in says.pieces]
        before += [event("content_block_delta", index=0, delta=delta) for delta in deltas]
    after = [event("content_block_stop", index=0)] if says.pieces else []
    for index, (call_id, name, arguments) in enumerate(says.calls, 1):
        block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
        after.append(event("content_block_start", index=index, content_block=block))
        delta = {"type": "input_json_delta", "partial_json": _as_text(arguments)}
        after.append(event("content_block_delta", index=index, delta=delta))
        after.append(event("content_block_stop", index=index))
    stop = {"stop_reason": says.finish or ("tool_use" if says.calls else "end_turn"), "stop_sequence": None}
    usage = {"output_tokens": completion, **_known("output_tokens_details", thinking_tokens=says.reasoned)}
    after.append(event("message_delta", delta=stop, usage=usage))
    after.append(event("message_stop"))
    return before, after


def _google(says: Says) -> tuple[list[str], list[str]]:
    def chunk(*parts: dict[str, Any], **more: Any) -> str:
        candidate = {"index": 0, "content": {"role": "model", "parts": parts}, **more}
        prompt, completion = says.tokens
        usage = {"promptTokenCount": prompt, "candidatesTokenCount": completion}
        usage |= {"cachedContentTokenCount": says.cached[0]} if says.cached[0] else {}
        usage |= {"thoughtsTokenCount": says.reasoned} if says.reasoned else {}
        fields = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "scripted", "responseId": "r"}
        return f"data: {json.dumps(fields)}\n\n"

    calls = [{"functionCall": {"id": call_id, "name": name, "args": given}} for call_id, name, given in says.calls]
    after = [chunk(*calls)] if calls else []
    return [chunk({"text": piece}) for piece in says.pieces], [*after, chunk(finishReason=says.finish or "STOP")]


_SHAPES = {"/messages": _anthropic, ":streamGenerateContent": _google}


def _known(name: str, **counts: int) -> dict[str, Any]:
    """Write details as a provider does that has any."""
    return {name: counts} if any(counts.values()) else {}


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)
