"""What is removed from a call before it is recorded: what stands under a secret's name, and what looks like a secret.

What was removed is marked `[redacted: RULE]`, so that a reader sees that there was something, and why it is gone. Every
pattern takes time in proportion to the text, whatever that holds.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from models.errors import Invalid

SECRET_NAMES = (
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "secret",
    "token",
    "api_key",
    "access_key",
    "secret_key",
    "private_key",
    "signing_key",
    "encryption_key",
    "authorization",
    "cookie",
    "credential",
    "credentials",
    "connection_string",
)
"""A field is a secret's where its name ends with one of these; case, dashes, underscores and points say nothing."""

HARMLESS_NAMES = ("page_token", "next_token", "continuation_token", "cursor_token", "progress_token", "sync_token")
"""Names that end like a secret's, and are none."""

_START = r"(?<![A-Za-z0-9_-])"
PATTERNS: Mapping[str, str] = {
    "private key": r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,20}-----"
    r"(?:[^-]++|-(?!----END ))*+(?:-----END [A-Z0-9 ]{0,60}-----)?",
    "authorization": r"(?i:\b(?:bearer|basic)[ ]{1,4}(?=[A-Za-z]{0,200}[0-9._~+/=-])[A-Za-z0-9._~+/=-]{12,}+)",
    "header": r"(?i:\b(?:(?:proxy-)?authorization|(?:set-)?cookie):[ ]?)[^\r\n\"'\\]++",
    "json web token": _START + r"eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+(?:\.[A-Za-z0-9_-]*+)?",
    "api key": _START + r"(?:"
    r"sk-[A-Za-z0-9_-]{16,}+"
    r"|(?:sk|rk|pk|whsec)_(?:live_|test_)?[A-Za-z0-9]{16,}+"
    r"|gh[pousr]_[A-Za-z0-9]{20,}+|github_pat_[A-Za-z0-9_]{20,}+|glpat-[A-Za-z0-9_-]{16,}+"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,}+|xapp-[A-Za-z0-9-]{10,}+"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[0-9A-Za-z_-]{30,}+|ya29\.[0-9A-Za-z_-]{20,}+"
    r"|npm_[A-Za-z0-9]{30,}+|pypi-[A-Za-z0-9_-]{30,}+|hf_[A-Za-z0-9]{20,}+|dop_v1_[a-f0-9]{32,}+"
    r"|SG\.[A-Za-z0-9_-]{16,}+\.[A-Za-z0-9_-]{16,}+)",
    "password in an address": r"(?<=://)[^\s/:@\"'<>]{0,256}:[^\s/@\"'<>]{1,256}(?=@)",
}
"""Rules by name; the order is the one in which they are tried at each place."""

_MARK = "[redacted: {}]"


class Redaction:
    """Removes secrets from values and texts; `fields` and `patterns` come on top of ours."""

    def __init__(self, fields: Iterable[str] = (), patterns: Mapping[str, str] | None = None) -> None:
        names = [*SECRET_NAMES, *fields]
        self._names = {plain: name for name in names if (plain := _plain(name))}
        self._harmless = tuple(map(_plain, HARMLESS_NAMES))
        rules = {**PATTERNS, **(patterns or {})}
        self._rules = list(rules)
        alternatives = [f"(?P<rule{index}>{_checked(name, rules[name])})" for index, name in enumerate(self._rules)]
        spelled = "|".join(_spelled(name) for name in sorted(names, key=len, reverse=True) if _plain(name))
        # A name and its value in a text: JSON inside a string, a header, a line of an environment file.
        alternatives.append(
            rf"(?P<name>(?i:{spelled}))(?P<between>\\{{0,3}}[\"']?[ \t]{{0,8}}[:=][ \t]{{0,8}})"
            r"(?P<value>\"(?:[^\"\\]++|\\.)*+\"?"
            r"|\\\"(?:[^\"\\]++|\\\\(?:\\.|[^\"\\])|\\[^\"\\])*+(?:\\\")?"
            r"|\\{2,}\"[^\"]*+\"?"
            r"|'(?:[^'\\]++|\\.)*+'?"
            r"|(?i:(?:bearer|basic|digest|token)[ ]{1,4})?[^\s,;&\"'(){}\[\]<>\\]++)"
        )
        self._pattern = re.compile("|".join(alternatives), re.DOTALL)

    def text(self, text: str) -> str:
        """Return a text without what looks like a secret."""
        return self._pattern.sub(self._mark, text)

    def value(self, value: Any) -> Any:
        """Return a JSON value without secrets: names and structure stay."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(inner) for inner in value]
        if isinstance(value, dict):
            return {self.text(name): self._member(name, inner) for name, inner in value.items()}
        return value

    def _member(self, name: str, value: Any) -> Any:
        rule = self._rule_of(name)
        if rule is None or value is None or isinstance(value, bool) or value in ("", [], {}):
            return self.value(value)
        return _MARK.format(rule)

    def _rule_of(self, name: str) -> str | None:
        plain = _plain(name[-_LONGEST_NAME:])
        if plain.endswith(self._harmless):
            return None
        return next((name for ending, name in self._names.items() if plain.endswith(ending)), None)

    def _mark(self, found: re.Match[str]) -> str:
        name = found["name"]
        if name is None:
            group = str(found.lastgroup)
            return _MARK.format(self._rules[int(group.removeprefix("rule"))])
        before = found.string[max(found.start() - _LONGEST_NAME, 0) : found.end("name")]
        word = _WORD.search(before)
        rule = self._rule_of(word[0]) if word else None
        if rule is None:
            return found[0]
        value = found["value"]
        quote = value[: len(value) - len(value.lstrip("\\\"'"))]
        return f"{name}{found['between']}{quote}{_MARK.format(rule)}{quote}"


_LONGEST_NAME = 80
_WORD = re.compile(r"[\w.-]*\Z")


def read_patterns(words: Iterable[str]) -> dict[str, str]:
    """Read rules that are written NAME=REGEX; raises Invalid."""
    rules = {}
    for word in words:
        name, sign, pattern = word.partition("=")
        if not (name and sign and pattern):
            raise Invalid("A pattern to redact is written NAME=REGEX.")
        rules[name] = _checked(name, pattern)
    return rules


def _checked(name: str, pattern: str) -> str:
    try:
        found = re.compile(pattern)
    except (re.error, RecursionError):
        raise Invalid(f"The pattern of the rule {name!r} is no regular expression.") from None
    try:
        # It becomes a part of one pattern with the others.
        re.compile(f"(?:{pattern})")
    except re.error:
        raise Invalid(f"The pattern of the rule {name!r} sets flags for every rule: write (?i:…) around it.") from None
    if found.groups or found.match(""):
        raise Invalid(f"The pattern of the rule {name!r} has groups that capture, or matches nothing: write (?:…).")
    return pattern


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _spelled(name: str) -> str:
    return r"[_. -]?".join(re.escape(word) for word in re.split(r"[\W_]+", name) if word)
