"""Sessions as Markdown: a heading for each entry, and all that is stored between fences.

Stored text is shown as it is and never rendered: between fences that are longer than any in it, a line of it can be
neither a heading of ours nor an image that a viewer would load.
"""

import json
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

from chat_service.service import ChatService
from models.ids import SessionId, UserId
from models.shapes import SessionDict
from server.export.reading import Entry, entries_of, heading_of, in_utc, outcome_of, parts_of, time_of

_LINE_ENDS = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_RUNS = re.compile("`+")
_PUNCTUATION = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|&~^$:@\"'=/])")


async def write_markdown(service: ChatService, user_id: UserId, session_ids: Sequence[SessionId]) -> AsyncIterator[str]:
    """Write sessions in this order, piece by piece; raises NotFound."""
    for session_id in session_ids:
        yield _head(await service.get_session(user_id, session_id))
        async for entry in entries_of(service, user_id, session_id):
            yield _section(entry)


def fence(text: str, language: str = "text") -> str:
    """Put text between fences that nothing in it can end."""
    body = _LINE_ENDS.sub("\n", text)
    marks = "`" * (max([len(run) for run in _RUNS.findall(body)] + [2]) + 1)
    return f"{marks}{language}\n{body}\n{marks}\n"


def inline(text: str) -> str:
    """Write text on one line, in which nothing is markup."""
    return _PUNCTUATION.sub(r"\\\1", " ".join(text.split()))


def _head(session: SessionDict) -> str:
    about = {
        "session": session["id"],
        "entries": session["last_seq"],
        "created": in_utc(session["created_at"]),
        "imported from": session["source"],
    }
    lines = [f"- {name}: {_name(str(value))}" for name, value in about.items() if value is not None]
    return f"# {inline(session['title'] or 'Untitled')}\n\n" + "\n".join(lines) + "\n"


def _section(entry: Entry) -> str:
    pieces = [f"\n## {entry['seq']} {heading_of(entry)}\n", f"{_name(in_utc(time_of(entry)))}\n"]
    if "message_type" not in entry:
        pieces.append(f"{_name(entry['tool_name'])}\n")
        pieces.append(fence(_indented(entry["arguments"]), "json"))
        for name, parts in outcome_of(entry):
            pieces += [f"{name}:\n", *(_part(part) for part in parts)]
        return "\n".join(pieces)
    return "\n".join([*pieces, *(_part(part) for part in parts_of(entry))])


def _part(part: dict[str, Any]) -> str:
    if part["type"] in ("text", "json"):
        return fence(part["content"], part["type"])
    if part["type"] == "reasoning":
        return "Thought:\n\n" + fence(part["content"])
    if part["type"] == "tool_call":
        return f"→ {_name(part.get('name') or part['id'])}\n"
    shown = {name: value for name, value in part.items() if name != "content"}
    return fence(json.dumps(shown, ensure_ascii=False), "json")


def _indented(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def _name(text: str) -> str:
    """Write a name, a time or an id so that it can be copied as it is, where nothing in it could end that."""
    return f"`{text}`" if re.fullmatch(r"[\w.:-]+( [\w.:-]+)*", text, re.ASCII) else inline(text)
