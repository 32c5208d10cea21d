"""A server that does as it is told by the names of the tools that are called, and keeps every byte that it gets.

It stands alone, so that it starts at once: `python scripted_server.py LOG`.
"""

import json
import os
import signal
import sys
from typing import Any

LOG = open(sys.argv[1], "ab", buffering=0)  # noqa: PTH123, SIM115


def main() -> None:
    rest = b""
    while chunk := os.read(0, 65_536):
        LOG.write(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                serve(json.loads(line))
    send_bytes(b"the last words, no line\xff")
    raise SystemExit(7)


def serve(message: dict[str, Any]) -> None:
    method, number, params = message.get("method"), message.get("id"), message.get("params", {})
    if method == "initialize":
        send({"id": number, "result": {"protocolVersion": "2025-11-25", "serverInfo": {"name": "scripted"}}})
    elif method == "tools/call":
        call(number, params["name"], params.get("arguments"))


def call(number: Any, tool: str, arguments: Any) -> None:
    if tool == "echo":
        send({"result": {"content": [{"type": "text", "text": json.dumps(arguments)}]}, "id": number})
    elif tool == "refuse":
        send({"id": number, "result": {"isError": True, "content": [{"type": "text", "text": "not today"}]}})
    elif tool == "fail":
        send({"id": number, "error": {"code": -32602, "message": "no such tool"}})
    elif tool == "answer":
        for each in arguments["ids"]:
            send({"id": each, "result": {"content": [], "of": each}})
    elif tool == "crash":
        os._exit(3)
    elif tool == "die":
        os.kill(os.getpid(), signal.SIGKILL)


def send(message: dict[str, Any]) -> None:
    send_bytes(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\r\n")


def send_bytes(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    main()
