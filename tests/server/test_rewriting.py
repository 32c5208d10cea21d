"""Rewriting what people keep as JSON: what changes is written, and all the rest stays as it was, comments too."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.command_line.commented_json import NotJson, parse
from server.command_line.rewriting import rewritten
from server.command_line.wrap import unwrap, wrap

KEYS = st.sampled_from(["a", "b", 'c"', "ü //", "/* d"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 1.0, -2.5, "", "x", "// no comment", 'q"\\', "é\n"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
BETWEEN = st.sampled_from(
    ["", "", " ", "\n  ", "\r\n\t", " // a line\n", "/* a\nblock */", '\n// it\'s {not} "this",\n  ']
)


@st.composite
def written(draw: Callable[[Any], Any], value: Any) -> str:
    """Write a value with whatever may stand between its pieces."""
    if not isinstance(value, (dict, list)) or not value:
        return str(json.dumps(value, ensure_ascii=False))
    pieces: list[str] = []
    for each in value:
        key = f"{json.dumps(each)}{draw(BETWEEN)}:{draw(BETWEEN)}" if isinstance(value, dict) else ""
        inner = value[each] if isinstance(value, dict) else each
        pieces.append(f"{draw(BETWEEN)}{key}{draw(written(inner))}{draw(BETWEEN)}")
    brackets = "{}" if isinstance(value, dict) else "[]"
    last = draw(st.sampled_from(["", "," + draw(BETWEEN)]))
    return f"{brackets[0]}{','.join(pieces)}{last}{brackets[1]}"


@st.composite
def documents(draw: Callable[[Any], Any]) -> tuple[str, Any]:
    value = draw(VALUES)
    return f"{draw(BETWEEN)}{draw(written(value))}{draw(BETWEEN)}", value


@settings(deadline=None, max_examples=300)
@given(documents(), VALUES)
def test_what_is_rewritten_says_the_other_value(document: tuple[str, Any], other: Any) -> None:
    text, value = document
    read = parse(text)
    assert json.dumps(read.root.value) == json.dumps(value)
    assert rewritten(read, value) == text
    assert json.dumps(parse(rewritten(read, other)).root.value, sort_keys=True) == json.dumps(other, sort_keys=True)


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(KEYS, VALUES, min_size=1), st.data())
def test_json_stays_json_and_members_may_come_and_go(value: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(value, indent=data.draw(st.sampled_from([None, 2, "\t"])), ensure_ascii=False)
    more = {**value, "command": "x", "env": {"A": "1"}}
    added = rewritten(parse(text), more)
    assert json.loads(added) == more
    assert rewritten(parse(added), value) == text
    fewer = {key: value[key] for key in data.draw(st.lists(st.sampled_from(sorted(value)), unique=True))}
    assert json.loads(rewritten(parse(text), fewer)) == fewer


SETTINGS = """\ufeff{
\t// what I use
\t"mcpServers": {
\t\t"files": { "command": "npx", "args": ["-y", "files", "/home/me"], "env": {"A":   "1"} }, // mine
\t\t"git": {
\t\t\t"args": [
\t\t\t\t"mcp-server-git" /* from the registry */
\t\t\t],
\t\t\t"command": "uvx"   ,
\t\t},
\t},
\t"theme": "dark", "size": 1.50, "big": 12345678901234567890,
}
"""


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("given", [{}, {"MCP_CHAT_USER": "ada"}])
def test_wrapping_and_unwrapping_leaves_a_file_as_it_was_to_the_byte(line_end: str, given: dict[str, str]) -> None:
    text = SETTINGS.replace("\n", line_end)
    before = parse(text)
    wrapped = rewritten(before, wrap(before.root.value, ["/opt/mcp-chat-server"], given))
    assert '"args": ["record", "--", "npx", "-y", "files", "/home/me"]' in wrapped
    kept = [line for line in text.split(line_end) if "command" not in line and '"A"' not in line]
    assert all(line in wrapped.split(line_end) for line in kept if "uvx" not in line)
    read = parse(wrapped)
    assert rewritten(read, unwrap(read.root.value)) == text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("not json", 1),
        ("{\n'a': 1}", 2),
        ('{"a": 1\n"b": 2}', 2),
        ('{"a": 01}', 1),
        ('{"a": "x\n"}', 1),
        ("[1,,2]", 1),
        ("{} {}", 1),
        ('{"a": 1} /* open', 1),
        ("[" * 100_000, 1),
        ("{1: 2}", 1),
        ("[NaN]", 1),
        ('"\\x"', 1),
    ],
)
def test_what_is_no_json_is_refused_with_its_line(text: str, line: int) -> None:
    with pytest.raises(NotJson) as refusal:
        parse(text)
    assert refusal.value.line == line
