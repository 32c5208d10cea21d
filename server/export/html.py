"""Sessions as one HTML file that needs nothing else and runs nothing.

What is stored is data of people, models and tools. It is rendered as Markdown without HTML, then cleaned to a short
list of tags; everything else is escaped by the templates. A policy in the page's head forbids scripts, frames, forms,
and whatever would be loaded from elsewhere, should all of that fail.
"""

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from chat_service import blobs
from chat_service.service import ChatService
from models.errors import Unavailable
from models.ids import SessionId, UserId
from models.shapes import ToolUsageDict
from server.export.reading import Entry, entries_of, heading_of, in_utc, outcome_of, parts_of, time_of

MAX_IMAGE = 10 * 1024 * 1024
"""So many bytes an image may have to be shown in the page."""

_LONGEST_OPEN = 2_000
"""A longer text of a tool is folded, so that a page can be read through; a click opens it, and so does a search."""

_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_TAGS = {
    "a", "b", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "li", "ol", "p",
    "pre", "s", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
article { border-top: 1px solid #ddd; padding: .5rem 0; } header { color: #666; font-size: .85rem; }
pre { background: #f6f6f6; padding: .5rem; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
blockquote { border-left: 3px solid #ddd; margin-left: 0; padding-left: 1rem; } img { max-width: 100%; }
article.user { background: #f3f7fb; padding: .5rem 1rem; } table { border-collapse: collapse; }
td, th { border: 1px solid #ddd; padding: .2rem .5rem; } summary { color: #666; cursor: pointer; }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
"""
_INDEX = """<nav><ol>
{% for session in sessions %}<li><a href="#session-{{ loop.index }}">{{ session.title or "Untitled" }}</a>
{%- if session.last_append_at %}, {{ in_utc(session.last_append_at) }}{% endif %}</li>
{% endfor %}</ol></nav>
"""
_SESSION = """<section id="session-{{ number }}">
<h1>{{ session.title or "Untitled" }}</h1>
<p>{{ session.last_seq }} entries, created {{ created }}
{%- if session.source %}, imported from {{ session.source }}{% endif %}</p>
"""
_ENTRY = """<article class="{{ kind }}">
<header>{{ seq }} {{ heading }}, {{ time }}</header>
{% for block in blocks %}
{%- if block.label %}<p>{{ block.label }}</p>{% endif %}
{%- if block.html is defined %}<div>{{ block.html }}</div>{% endif %}
{%- if block.text is defined and block.text | length <= longest %}<pre>{{ block.text }}</pre>{% endif %}
{%- if block.text is defined and block.text | length > longest %}
<details><summary>{{ "{:,}".format(block.text | length) }} characters</summary><pre>{{ block.text }}</pre></details>
{%- endif %}
{%- if block.image is defined %}<img alt="" src="{{ block.image }}">{% endif %}
{% endfor %}</article>
"""


async def write_html(service: ChatService, user_id: UserId, session_ids: Sequence[SessionId]) -> AsyncIterator[str]:
    """Write sessions in this order, piece by piece; raises NotFound, and Unavailable without the extra `pages`."""
    pages = _Pages()
    sessions = [await service.get_session(user_id, session_id) for session_id in session_ids]
    title = (sessions[0]["title"] or "Untitled") if len(sessions) == 1 else f"{len(sessions)} sessions"
    yield pages.head(title)
    if len(sessions) > 1:
        yield pages.render("index", sessions=sessions, in_utc=in_utc)
    for number, session in enumerate(sessions, 1):
        session_id = SessionId(session["id"])
        yield pages.render("session", session=session, number=number, created=in_utc(session["created_at"]))
        async for entry in entries_of(service, user_id, session_id):
            images = await _images(service, user_id, session_id, entry)
            yield pages.entry(entry, images)
        yield "</section>\n"
    yield "</body>\n</html>\n"


async def _images(service: ChatService, user_id: UserId, session_id: SessionId, entry: Entry) -> dict[str, str]:
    """Return the images of a message as addresses that hold them, by their digest."""
    found: dict[str, str] = {}
    for part in (entry["parts"] or ()) if "message_type" in entry else ():
        if part["type"] == "blob_reference" and part.get("mime_type") in _IMAGES and part["size"] <= MAX_IMAGE:
            data = await service.snapshot(
                partial(blobs.read, user_id=user_id, session_id=session_id, sha256=part["sha256"])
            )
            found[part["sha256"]] = f"data:{part['mime_type']};base64,{base64.b64encode(data).decode()}"
    return found


class _Pages:
    """The templates and the renderer, loaded when the first page is written."""

    def __init__(self) -> None:
        try:
            import nh3
            from jinja2 import Environment
            from markdown_it import MarkdownIt
            from markupsafe import Markup
        except ImportError:
            raise Unavailable("HTML needs the extra `pages`: install mcp-chat-server[pages].") from None
        environment = Environment(autoescape=True)
        sources = {"head": _HEAD, "index": _INDEX, "session": _SESSION, "entry": _ENTRY}
        self._templates = {name: environment.from_string(source) for name, source in sources.items()}
        self._markdown = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable("table").disable("image")
        self._clean = nh3.clean
        self._safe = Markup

    def render(self, template: str, **values: Any) -> str:
        """Fill a template in; every value is escaped."""
        return self._templates[template].render(**values)

    def head(self, title: str) -> str:
        """Write the beginning of a page."""
        digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
        return self.render("head", title=title, policy=_POLICY.format(digest=digest), style=self._safe(_STYLE))

    def entry(self, entry: Entry, images: dict[str, str]) -> str:
        """Write an entry."""
        if "message_type" in entry:
            kind: str = entry["message_type"]
            blocks = [self._block(part, images) for part in parts_of(entry)]
        else:
            kind, blocks = "call", self._blocks_of_tool(entry)
        about = {"seq": entry["seq"], "heading": heading_of(entry), "time": in_utc(time_of(entry))}
        return self.render("entry", kind=kind, blocks=blocks, longest=_LONGEST_OPEN, **about)

    def _block(self, part: dict[str, Any], images: dict[str, str]) -> dict[str, Any]:
        if part["type"] in ("text", "reasoning"):
            return {
                "label": "Thought:" if part["type"] == "reasoning" else None,
                "html": self._safe(self._rendered(part["content"])),
            }
        if part["type"] == "tool_call":
            return {"label": f"→ {part.get('name') or part['id']}"}
        if part["type"] == "blob_reference" and part["sha256"] in images:
            return {"image": images[part["sha256"]]}
        if part["type"] == "blob" and (image := _image(part)):
            return {"image": image}
        return {"text": json.dumps({key: value for key, value in part.items() if key != "content"}, ensure_ascii=False)}

    def _blocks_of_tool(self, usage: ToolUsageDict) -> list[dict[str, Any]]:
        blocks = [{"label": usage["tool_name"], "text": json.dumps(usage["arguments"], ensure_ascii=False, indent=2)}]
        for name, parts in outcome_of(usage):
            blocks.append({"label": f"{name}:"})
            # What a tool gave is shown as it is: it is no Markdown of a speaker's.
            blocks += [{"text": part["content"]} if part["type"] != "blob" else self._block(part, {}) for part in parts]
        return blocks

    def _rendered(self, text: str) -> str:
        return self._clean(
            self._markdown.render(text),
            tags=_TAGS,
            attributes={"a": {"href", "title"}, "ol": {"start"}},
            url_schemes={"http", "https", "mailto"},
            # In a page on somebody's disk these are that disk's files.
            url_relative="deny",
            link_rel="noopener noreferrer nofollow",
        )


def _image(blob: dict[str, Any]) -> str | None:
    """Return the address that holds an image, None where it is none that can be shown."""
    if blob.get("mime_type") not in _IMAGES or len(blob["content"]) > MAX_IMAGE * 4 // 3:
        return None
    try:
        data = base64.b64decode(blob["content"], validate=True)
    except ValueError:
        return None
    return f"data:{blob['mime_type']};base64,{base64.b64encode(data).decode()}"
