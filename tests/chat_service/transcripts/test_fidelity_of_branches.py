"""What each path through a tree of messages says is what a session says, and every message is stored once."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_service.service import ChatService
from models.ids import UserId
from tests.chat_service.transcripts.support import (
    WRITERS,
    Said,
    history_of,
    image,
    sessions_of,
    take_in,
    told_by,
    when,
)
from tests.support import PROPERTY, new_user, serving

pytestmark = pytest.mark.anyio


class Node(NamedTuple):
    """A message; `parent` is the number of the one that it follows, None at the beginning."""

    parent: int | None
    role: str
    text: str


def write_chatgpt(nodes: Sequence[Node]) -> str:
    mapping = {
        f"n-{number}": {
            "parent": None if node.parent is None else f"n-{node.parent}",
            "message": {
                "author": {"role": node.role},
                "create_time": 1756000000.5 + number,
                "content": {"content_type": "text", "parts": [node.text]},
            },
        }
        for number, node in enumerate(nodes)
    }
    return json.dumps([{"id": "c-1", "mapping": mapping, "current_node": f"n-{len(nodes) - 1}"}])


def write_claude_ai(nodes: Sequence[Node]) -> str:
    messages = [
        {
            "uuid": f"n-{number}",
            "parent_message_uuid": None if node.parent is None else f"n-{node.parent}",
            "sender": "human" if node.role == "user" else "assistant",
            "created_at": when(number),
            "content": [{"type": "text", "text": node.text}],
        }
        for number, node in enumerate(nodes)
    ]
    return json.dumps([{"uuid": "c-1", "chat_messages": messages}])


def write_claude_code(nodes: Sequence[Node]) -> str:
    lines = [
        {
            "type": node.role,
            "message": {"role": node.role, "content": node.text},
            "uuid": f"n-{number}",
            "parentUuid": None if node.parent is None else f"n-{node.parent}",
            "sessionId": "s-1",
            "timestamp": when(number),
        }
        for number, node in enumerate(nodes)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def tree(parents: Sequence[int]) -> list[Node]:
    """Make a tree in which anything may follow anything, and may stand at the beginning."""
    return [
        Node(
            parent % (number + 1) - 1 if parent % (number + 1) else None, ("user", "assistant")[number % 2], f"{number}"
        )
        for number, parent in enumerate(parents)
    ]


def prompts(parents: Sequence[int]) -> list[Node]:
    """Make prompts with their answers: each after the first follows an answer that was given before."""
    nodes: list[Node] = []
    for number, parent in enumerate(parents):
        nodes.append(Node(2 * (parent % number) + 1 if number else None, "user", f"{2 * number}"))
        nodes.append(Node(2 * number, "assistant", f"{2 * number + 1}"))
    return nodes


def paths(nodes: Sequence[Node]) -> list[list[str]]:
    """Return what each path to a last message says."""
    found = []
    for leaf in {*range(len(nodes))} - {node.parent for node in nodes}:
        path: list[str] = []
        at: int | None = leaf
        while at is not None:
            path.insert(0, nodes[at].text)
            at = nodes[at].parent
        found.append(path)
    return sorted(found)


SHAPES: dict[str, tuple[Callable[[Sequence[int]], list[Node]], Callable[[Sequence[Node]], str]]] = {
    "chatgpt": (tree, write_chatgpt),
    "claude-ai": (tree, write_claude_ai),
    "claude-code": (prompts, write_claude_code),
}


def test_each_path_through_a_tree_is_a_session(tmp_path: Path) -> None:
    with serving(tmp_path) as world:
        counter = iter(range(10**6))

        @settings(PROPERTY, max_examples=40)
        @given(
            st.sampled_from(sorted(SHAPES)),
            st.lists(st.integers(0, 1000), min_size=1, max_size=9),
            st.integers(0, 20),
        )
        def check(shape: str, parents: list[int], first: int) -> None:
            make, write = SHAPES[shape]
            nodes = make(parents)

            async def import_growing() -> tuple[list[list[str]], int]:
                user_id = await new_user(world.service, f"user {next(counter)}")
                for some in (nodes[:first] or nodes, nodes):
                    await take_in(world.service, user_id, shape, write(some))
                assert (await take_in(world.service, user_id, shape, write(nodes)))["added"] == {}
                sessions = await sessions_of(world.service, user_id)
                told = [await told_by(world.service, user_id, session["id"]) for session in sessions]
                texts = sorted([turn.text for turn in turns] for turns in told)
                return texts, sum(session["message_count"] for session in sessions)

            assert world.runner.run(import_growing()) == (paths(nodes), len(nodes))

        check()


ANTHROPIC = [{"type": "text", "text": "two"}, image("AAAA")]
OPENAI = [{"type": "input_text", "text": "two"}, {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]


@pytest.mark.parametrize(
    ("shape", "results"),
    [
        ("claude-code", ANTHROPIC),
        ("anthropic", ANTHROPIC),
        ("openai chat", "two"),
        ("openai responses", OPENAI),
        ("codex", OPENAI),
    ],
)
async def test_calls_at_once_have_each_its_own_result(
    service: ChatService, user_id: UserId, shape: str, results: Any
) -> None:
    asked = [Said("tool", tool="read", arguments={"n": number}, result=f"r-{number}") for number in range(2)]
    format_name, write = WRITERS[shape]
    text = write(asked).replace('"r-1"', json.dumps(results))
    answers_turned = _answered_backwards(text, lines=shape in ("claude-code", "codex"))
    await take_in(service, user_id, format_name, answers_turned)
    [session] = await sessions_of(service, user_id)
    usages = [entry for entry in await history_of(service, user_id, session["id"]) if "message_type" not in entry]
    found = {usage["arguments"]["n"]: (usage["result"], usage["message_seq"] is not None) for usage in usages}
    assert found == {0: ("r-0", True), 1: (results, True)}


def _answered_backwards(text: str, *, lines: bool) -> str:
    """Put both questions before both answers, and the second answer first."""

    def turned(given: list[Any]) -> list[Any]:
        head, (ask, answer, ask_too, answer_too) = given[:-4], given[-4:]
        return [*head, ask, ask_too, answer_too, answer]

    if lines:
        return "".join(turned(text.splitlines(keepends=True)))
    document = json.loads(text)
    name = "messages" if "messages" in document else "input"
    return json.dumps(document | {name: turned(document[name])})
