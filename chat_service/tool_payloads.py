"""Payloads: the images, sounds and documents in tool results, kept once by their content and put back when read.

Tools give them as base64, under `data` or `blob` beside a media type (MCP, Anthropic, OpenAI's sound), or as a `data:`
address. In the row a reference stands in such a text's place; whoever reads the result gets the text as it was.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, FromClause, Select, exists, select
from typing_extensions import TypedDict

from chat_service import blobs
from chat_service.lineage import Statements, inherited, read_entries, within
from chat_service.sessions import Timeline
from models.inputs import NewToolUsage
from models.tables import blob_references, tool_usages
from models.tables import blobs as kept_blobs
from models.text import to_json

REFERENCE = "blob_reference"

_NAMES = ("data", "blob")
_TYPES = ("mimeType", "mime_type", "media_type", "format")
_ADDRESS = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w=.+-]+)*;base64,")
_SHA256 = re.compile("[0-9a-f]{64}")


class Kept(NamedTuple):
    """A tool usage as it is stored, and the SHA-256 of the payloads that references in its result stand for."""

    usage: NewToolUsage
    digests: list[str]


class _Blob(TypedDict):
    seq: int
    sha256: bytes
    data: bytes


def _wanted(references: FromClause, *inside: ColumnElement[bool]) -> Select[Any]:
    found = references.join(kept_blobs, kept_blobs.c.key == blob_references.c.blob_key)
    of_tool = (
        exists()
        .where(tool_usages.c.session_key == blob_references.c.session_key)
        .where(tool_usages.c.seq == blob_references.c.message_seq)
    )
    columns = (blob_references.c.message_seq.label("seq"), kept_blobs.c.sha256, kept_blobs.c.data)
    return select(*columns).select_from(found).where(of_tool, *inside)


_WANTED = Statements(
    _wanted(blob_references, within(blob_references, "message_seq")),
    _wanted(inherited(blob_references, "message_seq")),
)


def keep(connection: Connection, usage: NewToolUsage) -> Kept:
    """Keep the payloads of a tool's result, and return the usage with references in their place.

    Whoever stores the usage has to refer to them: without a reference, nothing ever removes them.
    """
    if usage.result is None or next(_references(usage.result), None) is not None:
        # What looks like a reference and was said by the tool is told from ours by leaving such a result as it is.
        return Kept(usage, [])
    result = _without_payloads(connection, usage.result)
    if result is usage.result:
        return Kept(usage, [])
    return Kept(usage.model_copy(update={"result": result}), digests_of(result))


def digests_of(result: Any) -> list[str]:
    """Return the SHA-256 of the payloads that stand elsewhere, each once."""
    return list(dict.fromkeys(reference[REFERENCE] for reference in _references(result)))


def put_back(connection: Connection, timeline: Timeline, usages: Iterable[Any]) -> None:
    """Put the payloads back into the results of tool usages of one timeline, in one statement, or none where none are.

    What looks like a reference and has no blob behind it stays what it is.
    """
    with_payloads = [usage for usage in usages if digests_of(usage.get("result"))]
    if not with_payloads:
        return
    seqs = [usage["seq"] for usage in with_payloads]
    where = {"low": min(seqs) - 1, "high": max(seqs)}
    found = read_entries(connection, _Blob, _WANTED, timeline, where)
    data = {(blob["seq"], blob["sha256"].hex()): base64.b64encode(blob["data"]).decode() for blob in found}
    for usage in with_payloads:
        usage["result"] = _with_payloads(usage["result"], usage["seq"], data)


def put_back_in_texts(connection: Connection, timeline: Timeline, usages: Iterable[Any]) -> None:
    """Put the payloads back into results that are whole and written as JSON, each with its length."""
    read = [
        (usage, {"seq": usage["seq"], "result": json.loads(usage["result"])}) for usage in usages if usage["result"]
    ]
    put_back(connection, timeline, [result for _, result in read])
    for usage, result in read:
        usage["result"] = to_json(result["result"])
        usage["result_length"] = len(usage["result"])


def _with_payloads(value: Any, seq: int, data: dict[tuple[int, str], str]) -> Any:
    if _is_reference(value) and (seq, value[REFERENCE]) in data:
        return value.get("prefix", "") + data[seq, value[REFERENCE]]
    return _mapped(value, lambda inner: _with_payloads(inner, seq, data))


def _without_payloads(connection: Connection, value: Any) -> Any:
    if isinstance(value, str):
        return _reference(connection, value, {}, is_payload=False)
    if isinstance(value, dict):
        has_type = any(isinstance(value.get(name), str) for name in _TYPES)
        kept = {
            name: _reference(connection, inner, value, is_payload=has_type and name in _NAMES)
            if isinstance(inner, str)
            else _without_payloads(connection, inner)
            for name, inner in value.items()
        }
        return kept if any(kept[name] is not value[name] for name in value) else value
    return _mapped(value, lambda inner: _without_payloads(connection, inner))


def _reference(connection: Connection, text: str, beside: dict[str, Any], *, is_payload: bool) -> Any:
    address = _ADDRESS.match(text)
    if address is None and not is_payload:
        return text
    prefix = "" if address is None else address[0]
    try:
        data = base64.b64decode(text[len(prefix) :], validate=True)
    except (binascii.Error, ValueError):
        return text
    if not data or base64.b64encode(data).decode() != text[len(prefix) :]:
        # Written in another way than its bytes would be again: what was said is kept as it was.
        return text
    types = [beside.get(name) for name in _TYPES[:-1]] if address is None else [address[1]]
    media_type = next((each for each in types if isinstance(each, str)), None)
    sha256 = blobs.keep_bytes(connection, data, media_type and media_type[:512])
    return {REFERENCE: sha256, "size": len(data)} | ({"prefix": prefix} if prefix else {})


def _references(value: Any) -> Iterator[Any]:
    if _is_reference(value):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _references(inner)


def _is_reference(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() <= {REFERENCE, "size", "prefix"}
        and isinstance(value.get(REFERENCE), str)
        and _SHA256.fullmatch(value[REFERENCE]) is not None
        and isinstance(value.get("prefix", ""), str)
    )


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {name: change(inner) for name, inner in value.items()}
    if isinstance(value, list):
        changed = [change(inner) for inner in value]
        return changed if any(one is not other for one, other in zip(changed, value, strict=True)) else value
    return value
