"""Contexts of random histories, with every budget and in every shape: valid, never over budget, nothing missing."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from chat_service import appends, messages, sessions, tool_usage
from chat_service.provider_shapes import RENDERERS
from chat_service.tokens import estimate_tokens
from chat_service.work import Work
from models.errors import ChatError
from models.ids import SessionId
from models.inputs import NewMessage, NewSession, NewToolUsage
from models.shapes import ContextDict, HistoryDict, ManifestDict
from models.text import to_json
from tests.chat_service.provider_rules import CHECKS
from tests.support import PROPERTY, TEXTS, Serving, serving

CALL_IDS = st.sampled_from(["call_0", "call_0", "call_1", "toolu_01A", "a b", "ü", "x" * 60, "call_3", "call_2"])
NAMES = st.sampled_from(["read", "a.b/c", "a_b_c", "läs", "läś", "n" * 90, "unnamed_tool"])
CONTENTS = st.sampled_from(["", " ", "\n", "ok", "ends in space \n", "x" * 400, "字" * 300, '"\\\n' * 150]) | TEXTS
PARTS = st.lists(
    st.builds(lambda call, name: {"type": "tool_call", "id": call, "name": name}, CALL_IDS, st.none() | NAMES)
    | st.builds(lambda call: {"type": "tool_call_response", "id": call}, CALL_IDS)
    | st.builds(lambda content: {"type": "text", "content": content}, CONTENTS)
    | st.builds(lambda content: {"type": "reasoning", "content": content}, CONTENTS)
    | st.just({"type": "uri", "uri": "https://example.org/a.png"})
    | st.just({"type": "blob", "content": "QUJD" * 200, "mime_type": "image/png"}),
    max_size=3,
)
SAID = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "assistant", "system", "tool"]),
        "content": CONTENTS,
        "kind": st.sampled_from(["message"] * 8 + ["pin", "summary"]),
        "parts": PARTS,
        "replaces": st.none() | st.none() | st.integers(1, 30),
    }
)
DONE = st.fixed_dictionaries(
    {
        "tool_name": NAMES,
        "arguments": st.sampled_from([{}, {"path": "/x"}, {"text": "y" * 700}]),
        "result": st.sampled_from([None, "", "plain", {"a": [1]}, "z" * 900, 0, False]),
        "status": st.sampled_from(["success", "error", "cancelled", "unknown"]),
        "error": st.none() | CONTENTS,
        "tool_call_id": st.none() | CALL_IDS,
        "message_seq": st.none() | st.none() | st.integers(1, 30),
    }
)
HISTORIES = st.lists(SAID | DONE, max_size=30)


def append(work: Work, at: Serving, history: list[dict[str, Any]]) -> SessionId:
    """Append a history to a session of its own, without what would be refused."""
    session_id = SessionId(sessions.create(work, at.user_id, NewSession())["id"])
    for drawn in history:
        entry = copy.deepcopy(drawn)
        seqs = {"replaces": "replaces_seq", "message_seq": "message_seq"}
        for drawn_name, name in seqs.items():
            seq = entry.pop(drawn_name, None)
            if seq is not None and messages.is_message(work.connection, at.user_id, session_id, seq):
                entry[name] = seq
        try:
            if "tool_name" in entry:
                tool_usage.add(work, at.user_id, session_id, NewToolUsage.model_validate(entry))
            else:
                kind = "replacement" if "replaces_seq" in entry else entry["kind"]
                message = NewMessage.model_validate({**entry, "kind": kind, "parts": entry["parts"] or None})
                appends.add(work, at.user_id, session_id, [message])
        except (ValueError, ChatError):
            continue
    return session_id


def test_every_context_is_valid_within_its_budget_and_accounts_for_every_entry(tmp_path: Path) -> None:
    with serving(tmp_path) as at:

        @PROPERTY
        @given(
            history=HISTORIES, budgets=st.lists(st.integers(16, 400) | st.integers(16, 9_000), min_size=3, max_size=3)
        )
        def holds(history: list[dict[str, Any]], budgets: list[int]) -> None:
            session_id = at.runner.run(at.service.transaction(lambda work: append(work, at, history)))
            whole = at.runner.run(at.service.get_session_history(at.user_id, session_id, limit=500))
            for budget in (*budgets, 100_000):
                for shape in RENDERERS:
                    context = at.runner.run(at.service.get_context(at.user_id, session_id, budget, shape))
                    check(context, whole, budget)
            assert at.runner.run(at.service.get_session_history(at.user_id, session_id, limit=500)) == whole

        holds()


def check(context: ContextDict, whole: HistoryDict, budget: int) -> None:
    """Check all that is promised of a context of a session."""
    window, manifest = context["window"], context["manifest"]
    assert context["token_count"] == estimate_tokens(to_json(window)) <= budget
    seqs = [entry["seq"] for entry in whole["entries"]]
    shown = within(manifest["shown"])
    left_out = within([[gap["first_seq"], gap["last_seq"]] for gap in manifest["left_out"]])
    assert sorted([*shown, *left_out]) == seqs
    assert (manifest["entries_shown"], manifest["entries_left_out"]) == (len(shown), len(left_out))
    if shown and context["shape"] in CHECKS:
        CHECKS[context["shape"]](window)
    if not shown:
        assert all(not items for items in window.values())
    cut = {each["seq"] for each in manifest["cut"]}
    texts = list(strings(window))
    for entry in whole["entries"]:
        if entry["seq"] in shown and entry["seq"] not in cut:
            check_is_said(entry, whole, manifest, texts)
    if budget == 100_000:
        assert set(left_out) <= superseded(whole)
        assert cut == set()


def check_is_said(entry: Any, whole: HistoryDict, manifest: ManifestDict, texts: list[str]) -> None:
    """Check that what an entry says is somewhere in a window."""
    corrected = {seq for seq, _ in manifest["corrected"]}
    said = []
    if "tool_name" in entry:
        shown_names = {given: shown for shown, given in manifest["tool_names"].items()}
        assert {entry["tool_name"], shown_names.get(entry["tool_name"])} & set(texts)
        said = [entry["error"] or "", entry["result"] if isinstance(entry["result"], str) else ""]
    elif entry["seq"] not in corrected and entry["seq"] not in superseded(whole):
        said = [entry["content"]]
    for text in said:
        assert any(text.strip() in each for each in texts), (entry["seq"], text)


def strings(value: Any) -> Iterator[str]:
    """Return every text within a JSON value, and within JSON that is text itself."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    if isinstance(value, str):
        yield value


def within(ranges: list[list[int]]) -> list[int]:
    return [seq for first, last in ranges for seq in range(first, last + 1)]


def superseded(whole: HistoryDict) -> set[int]:
    """Return the corrections that were corrected again: their text is nowhere in a window."""
    newest: dict[int, int] = {}
    target: dict[int, int] = {}
    for entry in whole["entries"]:
        if "message_type" in entry and entry["replaces_seq"] is not None:
            target[entry["seq"]] = target.get(entry["replaces_seq"], entry["replaces_seq"])
            newest[target[entry["seq"]]] = entry["seq"]
    return set(target) - set(newest.values())
