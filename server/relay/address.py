"""Where `record --url` speaks to, and the headers that go along: checked before anything is sent."""

import httpx2

from models.errors import Invalid
from server.settings import PREFIX


def check_url(text: str) -> httpx2.URL:
    """Return the address; raises Invalid where it is none that HTTP has."""
    try:
        url = httpx2.URL(text)
    except (httpx2.InvalidURL, UnicodeError):
        url = httpx2.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise Invalid("--url is no address: write it like https://example.com/mcp.")
    return url


def check_headers(headers: dict[str, str]) -> dict[str, str]:
    """Return the headers; raises Invalid, which names none of them, where one cannot be sent."""
    for name, value in headers.items():
        if not name or not can_be_sent(name + value) or set(name) & set(' :"'):
            raise Invalid(f"{PREFIX}RECORD_HEADERS: names and values are printable ASCII, names without spaces.")
    return headers


def can_be_sent(text: str) -> bool:
    """Tell whether a text may be the value of a header."""
    return text.isascii() and text.isprintable()
