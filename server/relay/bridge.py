"""A stdio server whose tools are those of a server that speaks Streamable HTTP: what `record --url` relays to.

Each line is the body of one request, and each message of an answer is one line, as they came. What HTTP wants besides
is made of what passes: the session's id, the version of the protocol, and for the stateless protocol the headers that
repeat the method and the name.
"""

import asyncio
import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any, NoReturn

import httpx2

from models.errors import Invalid
from server.relay.address import can_be_sent, check_headers, check_url
from server.relay.messages import ParameterHeaders, as_dict, is_answer, is_message, params_of
from server.relay.options import Options
from server.settings import read_settings
from server.transports.lines import Lines, Oversized, find_id
from server.transports.patient import write_all

_MAX_LINE_BYTES = 67_108_864
_CONNECT_SECONDS = 30.0
_LAST_LINES_SECONDS = 30.0
_LAST_ANSWERS_SECONDS = 2.0
_RECONNECT_SECONDS = 1.0
_RECONNECTS = 5
_QUIET_SECONDS = 10.0
_SESSION, _VERSION, _LAST_EVENT = "mcp-session-id", "mcp-protocol-version", "last-event-id"
_VERSION_OF_MESSAGE = "io.modelcontextprotocol/protocolVersion"
_INTERNAL_ERROR = -32603


def main(options: Options) -> NoReturn:
    """Speak HTTP to the address for the client on stdin and stdout, until stdin ends or a signal ends us."""
    try:
        url, headers = check_url(str(options.url)), check_headers(read_settings().record_headers)
    except Invalid as error:
        sys.stderr.write(f"mcp-chat-server: {error}\n")
        raise SystemExit(2) from None
    os._exit(asyncio.run(_run(url, headers)))


async def _run(url: httpx2.URL, headers: dict[str, str]) -> int:
    timeout = httpx2.Timeout(None, connect=_CONNECT_SECONDS)
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(headers=headers, timeout=timeout, limits=limits) as client:
        bridge = Bridge(client, url)
        with suppress(NotImplementedError):
            # Where a loop takes no signals, they end us as they do by themselves.
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, bridge.stop, number)
        return await bridge.serve()


class Bridge:
    """Passes messages on to one address and its answers back."""

    def __init__(self, client: httpx2.AsyncClient, url: httpx2.URL) -> None:
        self._client = client
        self._url = url
        self._session: str | None = None
        self._version: str | None = None
        self._is_stateless = False
        self._open: dict[Any, asyncio.Task[None]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._parameters = ParameterHeaders()
        self._lines: asyncio.Queue[bytes | Oversized | None] = asyncio.Queue()
        self._ended = asyncio.Event()
        self._signal = 0

    def stop(self, number: int) -> None:
        """End at once, as a signal of this number asks for."""
        self._signal = number
        self._ended.set()

    async def serve(self) -> int:
        """Pass everything on until stdin ends; then give what is open a moment, end the session, and say how we end."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(loop,), daemon=True, name="stdin").start()
        passing = asyncio.create_task(self._pass_all(), name="lines")
        await self._ended.wait()
        if not self._signal:
            # One that the other end leaves unanswered does not keep us; lines behind it give it longer.
            has_more = self._lines.qsize() > 1
            await asyncio.wait([passing], timeout=_LAST_LINES_SECONDS if has_more else _LAST_ANSWERS_SECONDS)
            if self._open:
                await asyncio.wait(self._open.values(), timeout=_LAST_ANSWERS_SECONDS)
        for task in (passing, *self._open.values(), *filter(None, [self._listening])):
            task.cancel()
        if self._session is not None:
            with suppress(httpx2.HTTPError):
                await self._client.delete(self._url, headers=self._headers({}), timeout=_LAST_ANSWERS_SECONDS)
        return 128 + self._signal if self._signal else 0

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        lines = Lines(_MAX_LINE_BYTES)
        while chunk := os.read(0, 65_536):
            for line in lines.feed(chunk):
                loop.call_soon_threadsafe(self._lines.put_nowait, line)
        for line in lines.end():
            loop.call_soon_threadsafe(self._lines.put_nowait, line)
        loop.call_soon_threadsafe(self._lines.put_nowait, None)
        loop.call_soon_threadsafe(self._ended.set)

    async def _pass_all(self) -> None:
        while (line := await self._lines.get()) is not None:
            if isinstance(line, Oversized):
                self._refuse(find_id(line.head, line.tail), f"The call is larger than {_MAX_LINE_BYTES} bytes.")
            else:
                await self._pass_on(line)

    async def _pass_on(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        message = message if isinstance(message, dict) else {}
        method, request_id = message.get("method"), message.get("id")
        if method == "notifications/cancelled" and self._is_stateless:
            # There the end of the request is what tells the server.
            cancelled = params_of(message).get("requestId")
            # True would be taken for 1.
            if isinstance(cancelled, (str, int)) and not isinstance(cancelled, bool) and cancelled in self._open:
                self._open[cancelled].cancel()
            return
        if method is None or request_id is None or method == "initialize" or not isinstance(request_id, (str, int)):
            # In order: what comes after it may need what it brings.
            await self._post(line, message)
            if method == "notifications/initialized" and self._listening is None:
                self._listening = asyncio.create_task(self._listen(), name="listening")
            return
        task = asyncio.create_task(self._post(line, message), name="request")
        self._open[request_id] = task
        task.add_done_callback(lambda done: self._close(request_id, done))

    def _close(self, request_id: Any, done: "asyncio.Task[None]") -> None:
        if self._open.get(request_id) is done:
            del self._open[request_id]

    async def _post(self, line: bytes, message: dict[str, Any]) -> None:
        request_id = message.get("id") if "method" in message else None
        try:
            answered = await self._send(line, message)
        except httpx2.HTTPError as error:
            self._refuse(request_id, f"The server at the other end cannot be reached: {type(error).__name__}.")
            return
        except Exception as error:
            # Whatever an answer may hold that nobody foresaw, the client is not left waiting.
            self._refuse(request_id, f"The other end's answer cannot be read: {type(error).__name__}.")
            return
        if not answered:
            self._refuse(request_id, "The server at the other end gave no answer.")

    async def _send(self, line: bytes, message: dict[str, Any]) -> bool:
        """Send a message and write what comes back; tell whether its answer was among it."""
        headers = self._headers(message) | {"content-type": "application/json"}
        for _ in range(2):
            async with self._client.stream("POST", self._url, content=line, headers=headers) as response:
                if response.status_code in (307, 308) and self._moved(response):
                    continue
                session = response.headers.get(_SESSION, "")
                # One that cannot be sent back is none.
                self._session = session if session and can_be_sent(session) else self._session
                return await self._take(response, message)
        return False

    async def _take(self, response: httpx2.Response, message: dict[str, Any]) -> bool:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "text/event-stream" and response.is_success:
            return await self._take_events(response, message)
        body = await response.aread()
        if response.is_success and not body.strip():
            return message.get("id") is None
        if kind == "application/json" and is_message(body, message.get("id")):
            self._write(body, message)
            return True
        if not response.is_success:
            self._refuse(message.get("id"), f"The server at the other end answered with HTTP {response.status_code}.")
            return True
        return False

    async def _take_events(self, response: httpx2.Response, message: dict[str, Any]) -> bool:
        """Write the messages of a stream; where it breaks off before the answer, take it up again if that can be."""
        last_event, answered = await self._pass_events(response, message)
        in_vain = 0
        while not answered and last_event and in_vain < _RECONNECTS:
            await asyncio.sleep(_RECONNECT_SECONDS)
            async with self._client.stream("GET", self._url, headers=self._listening_headers(last_event)) as resumed:
                if not resumed.is_success:
                    break
                newest, answered = await self._pass_events(resumed, message)
            in_vain = 0 if newest else in_vain + 1
            last_event = newest or last_event
        return answered

    async def _pass_events(self, response: httpx2.Response, message: dict[str, Any]) -> tuple[str, bool]:
        last_event = ""
        with suppress(httpx2.TransportError):
            async for event in httpx2.EventSource(response, max_event_size=_MAX_LINE_BYTES):
                last_event = event.id or last_event
                if event.event == "message" and event.data:
                    data = event.data.encode()
                    self._write(data, message)
                    if message and is_answer(data, message.get("id")):
                        return last_event, True
        return last_event, message.get("id") is None

    async def _listen(self) -> None:
        """Write what the server sends by itself, in the protocols that have a stream for that."""
        last_event, in_vain = "", 0
        while in_vain < _RECONNECTS:
            newest, began = "", time.monotonic()
            with suppress(httpx2.HTTPError):
                async with self._client.stream("GET", self._url, headers=self._listening_headers(last_event)) as stream:
                    if not stream.is_success:
                        return
                    newest, _answered = await self._pass_events(stream, {})
            # Whoever is between us may end a stream on which nothing comes.
            in_vain = 0 if newest or time.monotonic() - began > _QUIET_SECONDS else in_vain + 1
            last_event = newest or last_event
            await asyncio.sleep(_RECONNECT_SECONDS)

    def _listening_headers(self, last_event: str) -> httpx2.Headers:
        headers = self._headers({}) | {"accept": "text/event-stream"}
        return httpx2.Headers(headers | ({_LAST_EVENT: last_event} if last_event else {}), encoding="utf-8")

    def _headers(self, message: dict[str, Any]) -> dict[str, str]:
        headers = {"accept": "application/json, text/event-stream"}
        stated = as_dict(params_of(message).get("_meta")).get(_VERSION_OF_MESSAGE)
        if isinstance(stated, str):
            self._is_stateless = True
            headers |= {_VERSION: stated} | self._parameters.of(message)
        elif self._version is not None and message.get("method") != "initialize":
            headers[_VERSION] = self._version
        if self._session is not None:
            headers[_SESSION] = self._session
        return headers

    def _moved(self, response: httpx2.Response) -> bool:
        to = self._url.join(response.headers.get("location", ""))
        if (to.scheme, to.host, to.port) != (self._url.scheme, self._url.host, self._url.port):
            # What is sent along was meant for the address that was given.
            return False
        self._url = to
        return True

    def _write(self, body: bytes, asked: dict[str, Any]) -> None:
        method = asked.get("method")
        if method in ("initialize", "tools/list"):
            with suppress(ValueError):
                result = as_dict(as_dict(json.loads(body)).get("result"))
                version = result.get("protocolVersion")
                self._version = version if isinstance(version, str) and can_be_sent(version) else self._version
                if self._is_stateless:
                    self._parameters.learn(result.get("tools"))
        # Between two tokens a line's end is a space; within a text there is none.
        try:
            write_all(1, body.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n")
        except OSError:
            # Nobody reads any more.
            self._lines.put_nowait(None)
            self._ended.set()

    def _refuse(self, request_id: Any, sentence: str) -> None:
        if request_id is None:
            sys.stderr.write(f"mcp-chat-server: {sentence}\n")
            return
        error = {"code": _INTERNAL_ERROR, "message": sentence}
        self._write(json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode(), {})
