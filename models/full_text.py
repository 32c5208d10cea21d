"""Full text on SQLite: everything that knows FTS5, and how text becomes words.

Two FTS5 tables without content of their own, one beside `messages` and one beside `tool_usages`; their rowid is that
row's key. They follow the entries: new ones are indexed later, many at once (`models.indexing`), and `search_progress`
has the key up to which all are, and beyond which none is. Triggers keep what was indexed, so that whatever moves or
deletes a row, cascades too, does so in the same transaction (docs/decisions/full-text.md has what was measured). FTS5
forgets a row only if it is told the very words that it was given: what makes words here must never change without a
migration that builds the index anew, and so it relies on nothing that changes with Python or its Unicode tables.

Columns: `owner` holds marks of user, session (where the entry was first, wherever it was moved) and role; `name` the
tool's and its server's name; `text` the words, with every character of a script that puts no spaces between words
standing alone; `pieces` the parts of camelCase names.
"""

import json
import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, TableClause, bindparam, column, table

BARRIER = "\u01c0"
"""A word that stands between names, so that no phrase spans two of them."""

# Lao, Thai, Myanmar, Khmer; Hangul, kana, bopomofo and Han, with their extensions.
_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035"
    "\u3038-\u312f\u3130-\u318f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
STANDS_ALONE = re.compile(f"[{_ALONE}]")
_JSON_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|.)")
_IN_RUN = frozenset(string.ascii_letters + string.digits)
_RUN, _RUN_END = re.compile("[A-Za-z0-9]+"), re.compile("[^A-Za-z0-9]")
_PIECE = re.compile(r"[A-Z]+(?![a-z])[0-9]*|[A-Z]?[a-z]+[0-9]*|[0-9]+")
_CAMEL = re.compile("[A-Z](?:(?<=[a-z0-9][A-Z])|(?=[A-Z][a-z]))")
"""A capital after a small letter or digit, or before another and a small one: `re` is fast at seeking a capital."""
_LONGEST_NAME = 64
_SPOKEN_PARTS = frozenset({"text", "reasoning"})


_SECURE_DELETE_SINCE = (3, 42, 0)
"""The first SQLite whose FTS5 overwrites the words of what is deleted; before, they go when the index is merged."""

_OPTIONS = """content='', columnsize=0, tokenize="unicode61 remove_diacritics 2 categories 'L* N* M* Co'\""""
_OWNER = (
    "coalesce('u' || (SELECT coalesce(indexed_for, user_key) FROM chat_sessions WHERE key = {0}.session_key), '')"
    " || ' s' || coalesce({0}.indexed_in, {0}.session_key)"
)
_KEPT = (
    (
        "message_search",
        "messages",
        ("role", "content", "parts"),
        _OWNER + " || ' r' || {0}.role, '', "
        "message_words({0}.content, {0}.parts), message_pieces({0}.content, {0}.parts)",
    ),
    (
        "tool_usage_search",
        "tool_usages",
        ("tool_name", "server_name", "arguments", "result", "error"),
        _OWNER + ", tool_name_words({0}.tool_name, {0}.server_name), "
        "tool_words({0}.arguments, {0}.result, {0}.error), "
        "tool_pieces({0}.tool_name, {0}.server_name, {0}.arguments, {0}.result, {0}.error)",
    ),
)
_COLUMNS = "rowid, owner, name, text, pieces"


@dataclass(frozen=True, slots=True)
class Term:
    """Something to find: a word, or with `is_phrase` words that stand one after the other."""

    text: str
    is_phrase: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an entry must hold: every term, none of the excluded, a mark of each group, one of the tool names if any."""

    terms: Sequence[Term]
    excluded: Sequence[Term]
    marks: Sequence[Sequence[str]]
    tools: Sequence[str] = ()


def create_statements(library_version: tuple[int, int, int]) -> list[str]:
    """Return the statements that create the indexes and the triggers that keep them, for an SQLite of this version."""
    statements = []
    for index, entries, indexed, words in _KEPT:
        add = f"INSERT INTO {index}({_COLUMNS}) VALUES (new.key, {words.format('new')});"
        remove = f"INSERT INTO {index}({index}, {_COLUMNS}) VALUES ('delete', old.key, {words.format('old')});"
        progress = f"(SELECT indexed_key FROM search_progress WHERE entries = '{entries}')"
        is_indexed = f"WHEN old.key <= {progress}"
        # Not where an entry is moved and stays under its marks: its words are the same.
        said_by = [_OWNER, *("{0}." + each for each in indexed)]
        are_other = " OR ".join(f"{each.format('old')} IS NOT {each.format('new')}" for each in said_by)
        newest = f"(SELECT coalesce(max(key), 0) FROM {entries})"
        step_back = f"UPDATE search_progress SET indexed_key = {newest} WHERE entries = '{entries}';"
        statements += [
            f"CREATE VIRTUAL TABLE {index} USING fts5(owner, name, text, pieces, {_OPTIONS})",
            # Merges in steps that a writer does not notice.
            f"INSERT INTO {index}({index}, rank) VALUES ('automerge', 8)",
            f"INSERT INTO search_progress (entries, indexed_key) VALUES ('{entries}', 0)",
            f"CREATE TRIGGER {index}_delete BEFORE DELETE ON {entries} {is_indexed} BEGIN {remove} END",
            # SQLite gives a new row the key after the largest, so the largest of all, once deleted, is given again.
            f"CREATE TRIGGER {index}_deleted AFTER DELETE ON {entries} WHEN {progress} > {newest} "
            f"BEGIN {step_back} END",
            f"CREATE TRIGGER {index}_update AFTER UPDATE OF session_key, indexed_in, {', '.join(indexed)} ON {entries} "
            f"{is_indexed} AND ({are_other}) BEGIN {remove} {add} END",
        ]
        if library_version >= _SECURE_DELETE_SINCE:
            statements.append(f"INSERT INTO {index}({index}, rank) VALUES ('secure-delete', 1)")
    # Before the session goes, and not by the cascade after it: an entry's marks name the session's owner.
    statements.append(
        "CREATE TRIGGER search_before_session BEFORE DELETE ON chat_sessions BEGIN "
        "DELETE FROM messages WHERE session_key = old.key; DELETE FROM tool_usages WHERE session_key = old.key; END"
    )
    return statements


def add_statements() -> dict[str, str]:
    """Return, by the name of their table, the statement that indexes the entries after one key and up to another."""
    return {
        entries: f"INSERT INTO {index}({_COLUMNS}) SELECT entry.key, {words.format('entry')} "
        f"FROM {entries} AS entry WHERE entry.key > ? AND entry.key <= ? ORDER BY entry.key"
        for index, entries, _, words in _KEPT
    }


def index_of(entries: str) -> TableClause:
    """Return the index beside a table of entries."""
    name = {"messages": "message_search", "tool_usages": "tool_usage_search"}[entries]
    return table(name, column("rowid"), column(name))


def matches(index: TableClause) -> ColumnElement[bool]:
    """Return the condition that an index's row is wanted; the parameter `wanted` is what `expression` made."""
    return index.c[index.name].bool_op("MATCH")(bindparam("wanted"))


def expression(wanted: Wanted) -> str:
    """Write what is wanted as an FTS5 query, in which everything that anybody typed is quoted."""
    marks = [f"owner : ({_any_of(group)})" for group in wanted.marks]
    tools = [f"name : ({_any_of([_alone(tool) for tool in wanted.tools])})"] if wanted.tools else []
    found = " AND ".join([*marks, *tools, *map(_term, wanted.terms)])
    return f"({found}) NOT ({' OR '.join(map(_term, wanted.excluded))})" if wanted.excluded else found


def has_words(text: str) -> bool:
    """Tell whether anything of a text is a word to the index."""
    return any(unicodedata.category(each)[0] in "LNM" or unicodedata.category(each) == "Co" for each in text)


def pieces_of(word: str) -> list[str]:
    """Return the parts of a camelCase name; of another word, itself."""
    is_name = len(word) <= _LONGEST_NAME and _RUN.fullmatch(word) and _CAMEL.search(word)
    return _PIECE.findall(word) if is_name else [word]


def user_mark(user_key: int) -> str:
    """Return the mark of a user's entries."""
    return f"u{user_key}"


def session_mark(session_key: int) -> str:
    """Return the mark of a session's entries."""
    return f"s{session_key}"


def role_mark(role: str) -> str:
    """Return the mark of messages of a role."""
    return f"r{role}"


def register(raw: Any) -> None:
    """Give a driver's connection the functions that the triggers call."""
    for function in (message_words, message_pieces, tool_name_words, tool_words, tool_pieces):
        count = function.__code__.co_argcount
        raw.create_function(function.__name__, count, function, deterministic=True)


def message_text(content: str, parts: str | None) -> str:
    """Return what a message says: its content, and its parts that are text."""
    if parts is None:
        return content
    spoken = (part.get("content", "") for part in json.loads(parts) if part.get("type") in _SPOKEN_PARTS)
    return "\n".join([content, *spoken])


def tool_text(arguments: str, result: str | None, error: str | None) -> str:
    """Return what a tool call holds; arguments and result are JSON."""
    return "\n".join([_JSON_ESCAPE.sub(" ", arguments), _JSON_ESCAPE.sub(" ", result or ""), error or ""])


def message_words(content: str, parts: str | None) -> str:
    """Return the words of a message."""
    return _alone(message_text(content, parts))


def message_pieces(content: str, parts: str | None) -> str:
    """Return the parts of the camelCase names in a message."""
    return _pieces(message_text(content, parts))


def tool_name_words(tool_name: str, server_name: str | None) -> str:
    """Return the words of a tool's name and of its server's."""
    return _alone(f"{tool_name} {BARRIER} {server_name or ''}")


def tool_words(arguments: str, result: str | None, error: str | None) -> str:
    """Return the words of what a tool was given and gave back."""
    return _alone(tool_text(arguments, result, error))


def tool_pieces(tool_name: str, server_name: str | None, arguments: str, result: str | None, error: str | None) -> str:
    """Return the parts of the camelCase names in a tool call."""
    return _pieces(f"{tool_name} {server_name or ''} {tool_text(arguments, result, error)}")


def _alone(text: str) -> str:
    return text if text.isascii() else STANDS_ALONE.sub(r" \g<0> ", text)


def _pieces(text: str) -> str:
    names = []
    begin = 0
    while camel := _CAMEL.search(text, begin):
        start = camel.start()
        while start > begin and text[start - 1] in _IN_RUN:
            start -= 1
        end = _RUN_END.search(text, start)
        begin = end.start() if end else len(text)
        # What is longer is no name that anybody gave, but encoded bytes.
        if begin - start <= _LONGEST_NAME:
            names.append(" ".join(_PIECE.findall(text, start, begin)))
    return f" {BARRIER} ".join(names)


def _term(term: Term) -> str:
    whole = _quoted(_alone(term.text))
    if term.is_phrase:
        return f"{{name text}} : {whole}"
    pieces = _quoted(" ".join(pieces_of(_alone(term.text))))
    if pieces == whole:
        # One look at the rows of the word instead of two.
        return f"{{name text pieces}} : {whole}"
    return f"({{name text}} : {whole} OR pieces : {pieces})"


def _any_of(texts: Sequence[str]) -> str:
    return " OR ".join(map(_quoted, texts))


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
