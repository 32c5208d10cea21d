"""Conversations that are trees: each message names the one that it follows, and the path to one is the main line.

The records come main line first, each after the one that it follows; to which branch a record belongs is decided when
it is stored, since an export of tomorrow may hold another main line of the same conversation.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from chat_service.transcripts.lines import as_it_stands, items_of
from chat_service.transcripts.neutral import ABOUT, Conversation, Ending, Record, Source
from chat_service.transcripts.storable import Storable, digest_of_text, parse, short
from chat_service.transcripts.strays import Strays
from chat_service.transcripts.turns import Talk, unparsed

UNREADABLE = "unreadable conversation"
NO_UTF8 = "conversation that is no UTF-8"
NO_MESSAGES = "conversation without messages"
TORN = "torn last conversation"


class Item(NamedTuple):
    """A message of a tree, and the id of the one that it follows."""

    value: dict[str, Any]
    parent: str | None


@dataclass(frozen=True, slots=True)
class Tree:
    """A conversation: its messages by id, the id of the last one of the main line, and all else that is said of it.

    `unparsed` is what stands among the messages and is none: of what kind, and its text.
    """

    source_id: str | None
    title: str | None
    about: dict[str, Any]
    items: dict[str, Item]
    current: Any
    unparsed: list[tuple[str, str]]


def read_conversations(
    source: Source,
    tree_of: Callable[[Storable, dict[str, Any]], Tree | None],
    take: Callable[[Talk, Record, dict[str, Any]], None],
) -> Iterator[Record | Ending]:
    """Read the conversations of an array.

    `tree_of` finds the messages of one, None where there are none; `take` says what becomes of a message.
    """
    storable = Storable(source.left_out)
    strays = Strays(source)
    try:
        for text in items_of(source.file):
            conversation = None if text is None else parse(text)
            tree = None if conversation is None else tree_of(storable, conversation)
            if text is None:
                source.waiting[TORN] += 1
            elif tree is None:
                kept = as_it_stands(text)
                kind = UNREADABLE if conversation is None else NO_MESSAGES
                yield from strays.take(kind if kept == text else NO_UTF8, kept)
            else:
                try:
                    yield from strays.pass_on(_read_tree(source, storable, tree, take))
                except RecursionError:
                    # What can only just be read cannot be written again, as a record, from deeper in the stack.
                    yield from strays.take(UNREADABLE, as_it_stands(text))
    except ValueError:
        source.unreadable["file that is not an array of conversations"] += 1
    strays.end()


def raw_of(value: Any) -> str:
    """Write a part of a larger document as a record of its own."""
    return json.dumps(value, separators=(",", ":"))


def _read_tree(
    source: Source, storable: Storable, tree: Tree, take: Callable[[Talk, Record, dict[str, Any]], None]
) -> Iterator[Record | Ending]:
    talk = Talk(storable)
    about = raw_of(tree.about)
    source_id = tree.source_id or short(f"{source.name}:{digest_of_text(about)}")
    conversation = Conversation(source_id, tree.title, is_finished=True)
    yield Record(conversation, ABOUT, f"{ABOUT}:{digest_of_text(about)}", about, reason="about the conversation")
    for item_id in _in_order(tree):
        value, parent = tree.items[item_id]
        record = Record(conversation, "", storable.name(item_id) or "nameless", raw_of(value), is_node=True)
        record.follows = storable.name(parent) if parent in tree.items else None
        take(talk, record, value)
        if record.moment is not None:
            conversation.last_moment = max(conversation.last_moment or record.moment, record.moment)
        yield record
    for kind, raw in tree.unparsed:
        yield unparsed(source, talk, conversation, kind, raw)
    yield Ending(conversation, talk.calls.waiting())


def _in_order(tree: Tree) -> list[str]:
    """Return the ids of all messages, those of the main line first, each after the one that it follows."""
    ordered: dict[str, None] = {}
    for leaf in (tree.current, *tree.items):
        path: dict[str, None] = {}
        at = leaf if isinstance(leaf, str) and leaf in tree.items else None
        # A tree that bites its own tail is walked once around.
        while at is not None and at not in ordered and at not in path:
            path[at] = None
            parent = tree.items[at].parent
            at = parent if parent in tree.items else None
        ordered |= dict.fromkeys(reversed(path))
    return list(ordered)
