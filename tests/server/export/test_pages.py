"""Sessions as Markdown and as HTML: whatever was said in them, nothing of it is obeyed."""

from collections.abc import AsyncIterator
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from chat_service import appends, blobs
from chat_service.service import ChatService
from chat_service.sessions import get_timeline
from chat_service.work import Work
from models.errors import NotFound
from models.ids import SessionId, UserId
from models.inputs import BlobPart, NewMessage, NewSession, ReasoningPart, TextPart, ToolCallPart, UriPart
from server.export.html import write_html
from server.export.markdown import fence, inline, write_markdown
from tests.chat_service.transcripts.support import SHORT, Said, sessions_of, take_in, write_anthropic
from tests.support import TEXTS, done, new_session, said

pytestmark = pytest.mark.anyio

INJECTIONS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<a href='javascript:alert(1)'>x</a>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[x](vbscript:msgbox)",
    "![x](javascript:alert(1))",
    "![x](https://example.org/pixel.png)",
    "[x]: javascript:alert(1)\n\n[x]",
    "<javascript:alert(1)>",
    '[a](https://example.org "onmouseover=alert(1) x=\'")',
    '[a](https://example.org/"onmouseover="alert(1))',
    "</title><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</pre></article></section><script>alert(1)</script>",
    "<!--><script>alert(1)</script>-->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<meta http-equiv=refresh content='0;url=javascript:alert(1)'>",
    "<base href='https://example.org/'>",
    "<form action='https://example.org'><input name=a></form>",
    "<object data='javascript:alert(1)'></object><embed src=x>",
    "<link rel=stylesheet href=https://example.org/a.css>",
    "<style>@import 'https://example.org/a.css'</style>",
    "<p style='background:url(https://example.org/a)'>x</p>",
    "{{ 7 * 7 }}{% for x in [1] %}{{ x.__class__ }}{% endfor %}",
    "`<script>alert(1)</script>`",
    "```html\n<script>alert(1)</script>\n```",
    '```"><script>alert(1)</script>\nx\n```',
    "    <script>alert(1)</script>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "<xss id=x tabindex=1 onfocus=alert(1)></xss>",
    "<a\x00href=javascript:alert(1)>".replace("\x00", " "),
    "\u202e<script>alert(1)</script>",
    "| a |\n|---|\n| <script>alert(1)</script> |",
]

TAGS = {
    "html", "head", "meta", "title", "style", "body", "nav", "section", "article", "header", "div", "p", "h1", "h2",
    "h3", "h4", "h5", "h6", "pre", "code", "a", "b", "i", "em", "s", "del", "strong", "blockquote", "br", "hr", "ul",
    "ol", "li", "table", "thead", "tbody", "tr", "th", "td", "img", "details", "summary",
}  # fmt: skip
ATTRIBUTES = {
    ("html", "lang"), ("meta", "charset"), ("meta", "http-equiv"), ("meta", "content"), ("meta", "name"),
    ("section", "id"), ("article", "class"), ("a", "href"), ("a", "title"), ("a", "rel"), ("ol", "start"),
    ("img", "src"), ("img", "alt"),
}  # fmt: skip


class Reading(HTMLParser):
    """Notes every tag and attribute of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def assert_runs_nothing(page: str) -> Reading:
    """Fail where a page holds a tag, an attribute or an address that could do anything but be read."""
    reading = Reading(page)
    assert set(reading.tags) <= TAGS
    assert {(tag, name) for tag, name, _ in reading.attributes} <= ATTRIBUTES
    for tag, name, value in reading.attributes:
        if name == "href":
            assert value.split(":")[0].lower() in ("http", "https", "mailto") or value.startswith("#session-"), value
        if name == "src":
            assert (tag, value.partition(";")[0]) in {("img", f"data:image/{kind}") for kind in ("png", "jpeg")}
        if name == "http-equiv":
            assert value == "Content-Security-Policy"
    [policy] = [value for tag, name, value in reading.attributes if name == "content" and value.startswith("default")]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "script" not in policy
    assert reading.tags.count("style") == 1
    return reading


async def text_of(pieces: AsyncIterator[str]) -> str:
    return "".join([piece async for piece in pieces])


async def fill(service: ChatService, user_id: UserId, text: str) -> SessionId:
    """Put a text wherever text can stand."""
    title = " ".join(text.split())
    session_id = await new_session(service, user_id, title=title, source=title, source_id="1")
    parts: list[Any] = [
        TextPart(type="text", content=text),
        ReasoningPart(type="reasoning", content=text),
        UriPart(type="uri", uri=text, mime_type=title),
    ]
    marked = NewMessage(role="assistant", content=text, parts=parts, message_metadata={"timestamp": text})
    await service.add_messages(user_id, session_id, [said(text), marked])
    usage = done(title, arguments={text: text}, result=text, error=text, server_name=title)
    await service.add_tool_usage(user_id, session_id, usage)
    await service.add_tool_usage(user_id, session_id, done(arguments={}, result={text: [text]}))
    return session_id


@pytest.mark.parametrize("text", INJECTIONS)
async def test_a_page_runs_nothing_of_what_was_said(service: ChatService, user_id: UserId, text: str) -> None:
    session_id = await fill(service, user_id, text)
    page = await text_of(write_html(service, user_id, [session_id]))
    reading = assert_runs_nothing(page)
    assert "49" not in reading.text.replace(str(session_id), "").split("created")[0]


@pytest.mark.parametrize("link", ["[x]: javascript:y\n\n[x]:0", "[x](notes.html)", "[x](//host/path)", "[x](#top)"])
def test_a_page_links_to_no_file_beside_it(link: str) -> None:
    from server.export.html import _Pages

    entry: Any = {"seq": 1, "kind": "message", "message_type": "user", "message_metadata": None, "parts": None}
    assert "href" not in _Pages().entry(entry | {"content": link, "created_at": "2026-01-01T00:00:00.000000Z"}, {})


def test_a_page_runs_nothing_whatever_was_said() -> None:
    from server.export.html import _Pages

    pages = _Pages()
    pieces = st.sampled_from([*INJECTIONS, "<", ">", '"', "'", "`", "```", "\n", "](", "[", "\n\n", "&", "#", "|"])
    texts = st.lists(pieces | TEXTS, max_size=8).map("".join)

    @settings(deadline=None, max_examples=100)
    @given(texts)
    def check(text: str) -> None:
        entry: Any = {
            "seq": 1,
            "kind": "message",
            "message_type": "user",
            "message_metadata": {"timestamp": text},
            "parts": [{"type": "text", "content": text}, {"type": "reasoning", "content": text}],
            "content": text,
        }
        assert_runs_nothing(pages.head(text) + pages.entry(entry, {}) + "</body></html>")

    check()


async def test_a_page_shows_what_was_said_and_done(service: ChatService, user_id: UserId) -> None:
    await take_in(service, user_id, "anthropic", write_anthropic([*SHORT, Said("image", "iVBORw0=")]))
    [session] = await sessions_of(service, user_id)
    page = await text_of(write_html(service, user_id, [SessionId(session["id"])]))
    reading = assert_runs_nothing(page)
    for turn in SHORT:
        assert turn.text in reading.text
    assert '"path": "a"' in reading.text
    assert ("img", "src", "data:image/png;base64,iVBORw0=") in reading.attributes
    assert reading.tags.count("article") == session["last_seq"]


@pytest.mark.parametrize("write", [write_html, write_markdown])
@pytest.mark.parametrize(
    ("timestamp", "shown"),
    [
        ("2026-03-01T23:30:00.123456-02:00", "2026-03-02 01:30:00 UTC"),
        ("2026-03-01T23:30:00", "2026-03-01T23:30:00"),
        ("0001-01-01T00:00:00+23:00", "0001-01-01T00:00:00+23:00"),
    ],
)
async def test_times_are_shown_as_people_read_them(
    service: ChatService, user_id: UserId, write: Any, timestamp: str, shown: str
) -> None:
    session_id = await new_session(service, user_id)
    message = NewMessage(role="user", content="x", author="import", message_metadata={"timestamp": timestamp})
    await service.add_message(user_id, session_id, message)
    assert shown in (await text_of(write(service, user_id, [session_id]))).replace("\\", "").replace("&#43;", "+")


async def test_a_page_of_several_sessions_begins_with_their_titles(service: ChatService, user_id: UserId) -> None:
    session_ids = [await new_session(service, user_id, title=title) for title in ("Beans", "<b>Peas", "Tea")]
    await service.add_message(user_id, session_ids[0], said("In May."))
    reading = assert_runs_nothing(await text_of(write_html(service, user_id, session_ids)))
    places = [value for tag, name, value in reading.attributes if name in ("href", "id")]
    assert places == ["#session-1", "#session-2", "#session-3", "session-1", "session-2", "session-3"]
    assert reading.text.index("Peas") < reading.text.index("In May.")
    alone = assert_runs_nothing(await text_of(write_html(service, user_id, session_ids[:1])))
    assert "nav" not in alone.tags


async def test_a_long_result_is_folded_and_whole(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    for result in ("x" * 2_000, "<b>" + "y" * 2_000):
        await service.add_tool_usage(user_id, session_id, done(result=result))
    reading = assert_runs_nothing(await text_of(write_html(service, user_id, [session_id])))
    assert reading.tags.count("details") == 1
    assert all(text in reading.text for text in ("x" * 2_000, "2,003 characters", "<b>" + "y" * 2_000))


async def test_what_is_markdown_is_shown_as_such(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    text = "# Beans\n\n- *sow*\n- [water](https://example.org)\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    await service.add_message(user_id, session_id, said(text))
    reading = assert_runs_nothing(await text_of(write_html(service, user_id, [session_id])))
    assert {"li", "em", "a", "table"} <= set(reading.tags)
    assert ("a", "rel", "noopener noreferrer nofollow") in reading.attributes


@pytest.mark.parametrize("write", [write_html, write_markdown])
async def test_text_beside_parts_is_shown_once_with_the_calls_that_were_asked_for(
    service: ChatService, user_id: UserId, write: Any
) -> None:
    session_id = await new_session(service, user_id)
    asked: list[Any] = [ToolCallPart(type="tool_call", id="call_1", name="scale")]
    told: list[Any] = [ReasoningPart(type="reasoning", content="Twice."), TextPart(type="text", content="Seven cups.")]
    say = [
        NewMessage(role="assistant", content="I weigh it.", parts=asked),
        NewMessage(role="assistant", content="Seven cups.", parts=told),
        NewMessage(role="assistant", content="Salt too.", parts=told),
    ]
    await service.add_messages(user_id, session_id, say)
    written = await text_of(write(service, user_id, [session_id]))
    assert [written.count(text) for text in ("I weigh it.", "scale", "Seven cups.", "Salt too.")] == [1, 1, 2, 1]
    assert "call_1" not in written
    assert written.rindex("Twice.") < written.index("Salt too.")


async def test_an_image_is_shown_also_after_a_call_that_its_message_asks_for(
    service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    image = BlobPart(type="blob", content="iVBORw0=", mime_type="image/png")
    asked = ToolCallPart(type="tool_call", id="call_1", name="scale")

    def append(work: Work) -> None:
        # As an import stores it: the bytes once, and a reference in their place.
        message = blobs.keep(work, NewMessage(role="assistant", content="Look.", parts=[asked, image]))
        timeline = get_timeline(work.connection, user_id, session_id)
        (stored,) = appends.add(work, user_id, session_id, [message])
        blobs.refer(work, timeline.session_key, stored["seq"], message.parts or ())

    await service.transaction(append)
    reading = assert_runs_nothing(await text_of(write_html(service, user_id, [session_id])))
    assert ("img", "src", "data:image/png;base64,iVBORw0=") in reading.attributes
    assert "→ scale" in reading.text


BLOCKS: list[dict[str, Any]] = [
    {"type": "text", "text": 'Sown in "May"'},
    {"type": "image", "data": "iVBORw0=", "mimeType": "image/png"},
    {"type": "image", "source": {"type": "base64", "data": "/9j/4A==", "media_type": "image/jpeg"}},
    {"type": "image", "data": "<script>", "mimeType": "image/png"},
    {"type": "resource_link", "uri": "file:///beans", "name": "beans"},
]


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ({"content": BLOCKS, "isError": False}, ['Sown in "May"', '"uri": "file:///beans"']),
        (BLOCKS, ['Sown in "May"', '"uri": "file:///beans"']),
        ({"content": BLOCKS[:1], "structuredContent": {"month": 5}}, ['Sown in "May"', '"month": 5']),
        ({"content": [{"type": "text", "text": '{"month": 5}'}], "structuredContent": {"month": 5}}, ['{"month": 5}']),
        ({"content": BLOCKS[:1], "_meta": {"more": 1}}, ['"Sown in \\"May\\""', '"more": 1']),
        ({"content": "May"}, ['"content": "May"']),
        ([{"month": 5}], ['"month": 5']),
    ],
    ids=str,
)
async def test_a_result_is_shown_as_what_its_tool_said(
    service: ChatService, user_id: UserId, result: Any, shown: list[str]
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_tool_usage(user_id, session_id, done(result=result))
    reading = assert_runs_nothing(await text_of(write_html(service, user_id, [session_id])))
    written = await text_of(write_markdown(service, user_id, [session_id]))
    for text in (reading.text, written):
        assert [text.count(piece) for piece in shown] == [1] * len(shown)
    images = [value for tag, name, value in reading.attributes if (tag, name) == ("img", "src")]
    has_images = BLOCKS in (result, result["content"] if isinstance(result, dict) else None)
    assert images == (["data:image/png;base64,iVBORw0=", "data:image/jpeg;base64,/9j/4A=="] if has_images else [])
    assert "iVBOR" not in written


@pytest.mark.parametrize("write", [write_html, write_markdown])
async def test_the_sessions_of_others_are_not_written(
    service: ChatService, user_id: UserId, stranger_id: UserId, write: Any
) -> None:
    session_id = SessionId((await service.create_chat_session(user_id, NewSession()))["id"])
    with pytest.raises(NotFound):
        await text_of(write(service, stranger_id, [session_id]))


def tokens_of(markdown: str) -> list[Any]:
    return MarkdownIt("commonmark").parse(markdown)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.sampled_from(["`", "```", "~~~", "\n", "\r", "\u2028", " ", "# x", "<b>", "> "]) | TEXTS).map("".join)
)
def test_a_fence_holds_whatever_is_between_it(text: str) -> None:
    [token] = tokens_of(f"{fence(text)}")
    assert (token.type, token.info) == ("fence", "text")
    before, after = tokens_of("before\n\n" + fence(text) + "\nafter")[1], tokens_of(fence(text) + "\n# after")[-2]
    assert (before.content, after.content) == ("before", "after")


@settings(deadline=None, max_examples=150)
@given(st.lists(st.sampled_from([*"`*_[]()<>#!|&~", "http://a.b", "&amp;", "<b>", "1. "]) | TEXTS).map("".join))
def test_a_line_holds_no_markup(text: str) -> None:
    shown = inline(text)
    assert "\n" not in shown
    parsed = tokens_of(f"# x{shown}")
    assert [token.type for token in parsed] == ["heading_open", "inline", "heading_close"]
    assert {child.type for child in parsed[1].children or ()} <= {"text", "text_special"}


async def test_markdown_has_a_heading_for_each_entry_and_no_other(service: ChatService, user_id: UserId) -> None:
    session_id = await fill(service, user_id, "x\n## 9 user\n```\n~~~\n# Not a heading\r## nor this\u2028## nor this")
    text = await text_of(write_markdown(service, user_id, [session_id]))
    parsed = tokens_of(text)
    headings = [parsed[at + 1].content for at, token in enumerate(parsed) if token.type == "heading_open"]
    assert [heading.split()[0] for heading in headings[1:]] == ["1", "2", "3", "4"]
    assert {token.type for token in parsed} & {"html_block", "image"} == set()
