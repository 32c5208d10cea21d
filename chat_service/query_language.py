"""The language of searches: what people type, taken apart into what an entry must hold.

Words, "phrases", -leave-out, and the filters role:, tool:, session:, before: and after:, whose values may stand in
quotes. Everything else is a word with the punctuation that it has; nothing is ever handed to an index as it was typed.
"""

import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time

from chat_service.paging import check_filters
from models.errors import Invalid
from models.full_text import Term, has_words
from models.ids import SessionId, is_id, to_timestamp
from models.inputs import ROLE_ALIASES

MAX_CHARACTERS = 2_000
MAX_TERMS = 32
"""So many words, phrases and filters one query may have."""

ROLES = ("system", "user", "assistant", "tool")
_FIELDS = "role|tool|session|before|after"
_ITEM = re.compile(
    rf"(?P<empty>-?(?i:{_FIELDS}):)(?=\s|$)"
    rf'|(?P<minus>-?)(?:(?P<field>(?i:{_FIELDS})):)?(?:"(?P<quoted>[^"]*)"?|(?P<bare>[^\s"]+))'
)


@dataclass(slots=True)
class SearchQuery:
    """What an entry must hold: every term, none of the excluded, and one value of each filter that has any.

    `before` and `after` are RFC 3339 times in UTC: entries of `after` itself are in, those of `before` are not.
    """

    terms: list[Term] = field(default_factory=list)
    excluded: list[Term] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    tools: list[str] = field(default_factory=list)
    sessions: list[SessionId] = field(default_factory=list)
    before: str | None = None
    after: str | None = None


def parse(query: str) -> SearchQuery:
    """Return what a query asks for; raises Invalid, naming what to change."""
    check_filters(query=query)
    if len(query) > MAX_CHARACTERS:
        raise Invalid(f"query is longer than {MAX_CHARACTERS} characters: keep to its rarest words.")
    parsed = SearchQuery()
    for number, item in enumerate(_ITEM.finditer(query)):
        if number >= MAX_TERMS:
            raise Invalid(f"query has more than {MAX_TERMS} words and filters: keep to its rarest words.")
        _take(parsed, item)
    if not (parsed.terms or parsed.roles or parsed.tools or parsed.sessions or parsed.before or parsed.after):
        if parsed.excluded:
            raise Invalid("query only says what to leave out: add a word to find, or a filter such as role:user.")
        raise Invalid('query has no word to find: give words, "a phrase", or a filter such as role:user.')
    return parsed


def _take(parsed: SearchQuery, item: re.Match[str]) -> None:
    name = (item["field"] or "").lower()
    if item["empty"]:
        raise Invalid(f"query: {item['empty'].strip('-').lower()} has no value: write it without a space after it.")
    value = item["quoted"] if item["quoted"] is not None else item["bare"] or ""
    if name:
        if item["minus"]:
            raise Invalid(f"query: -{name}: cannot be left out: name what to keep instead.")
        _filter(parsed, name, value)
    elif has_words(value):
        into = parsed.excluded if item["minus"] else parsed.terms
        into.append(Term(value, is_phrase=item["quoted"] is not None))


def _filter(parsed: SearchQuery, name: str, value: str) -> None:
    match name:
        case "role":
            role = ROLE_ALIASES.get(value.lower(), value.lower())
            if role not in ROLES:
                raise Invalid(f"query: role: is one of {', '.join(ROLES)}.")
            parsed.roles.append(role)
        case "tool":
            if not has_words(value):
                raise Invalid("query: tool: needs the name of a tool or of its server, such as tool:read_file.")
            parsed.tools.append(value)
        case "session":
            if not is_id(value):
                raise Invalid("query: session: needs a session's id, as list_sessions gives it.")
            parsed.sessions.append(SessionId(value))
        case "before":
            moment = _moment(name, value)
            parsed.before = moment if parsed.before is None else min(parsed.before, moment)
        case "after":
            moment = _moment(name, value)
            parsed.after = moment if parsed.after is None else max(parsed.after, moment)


def _moment(name: str, value: str) -> str:
    try:
        if len(value) <= len("2026-01-31"):
            return to_timestamp(datetime.combine(date.fromisoformat(value), time(), UTC))
        moment = datetime.fromisoformat(value)
        return to_timestamp(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise Invalid(f"query: {name}: needs a day or a time, such as {name}:2026-01-31.") from None
