"""Conversations as the model APIs take them: a list of messages in a JSON document, or one message a line.

Such messages have no ids and no times. A message is known by itself and all that stands before it: a longer copy of a
conversation adds what is new, and a changed one leaves the first as a branch where it begins to differ.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from chat_service.transcripts.lines import MAX_RECORD, lines_of
from chat_service.transcripts.neutral import ABOUT, Conversation, Ending, Record, Source
from chat_service.transcripts.storable import MAX_TITLE, Storable, digest_of_text, parse, parse_json
from chat_service.transcripts.strays import Strays
from chat_service.transcripts.trees import raw_of
from chat_service.transcripts.turns import SAYS_NOTHING, Talk, Turn, unparsed
from models.inputs import Role, Usage

NOT_JSON = "file that is not JSON"
NO_CONVERSATION = "document without messages"
NO_OBJECT = "message that is no object"


class Document(NamedTuple):
    """A conversation in a document: its own id, its messages, the model, and all else that the document says."""

    id: Any
    items: list[Any]
    model: Any
    about: dict[str, Any]


class Unread(NamedTuple):
    """A line that holds no document: what kind of line it is, and its text."""

    kind: str
    text: str


class Taken(NamedTuple):
    """What became of a message: whose it is, what kind of record, why nothing became of it, and what it cost."""

    role: Role
    kind: str
    reason: str | None = None
    usage: Usage | None = None


Open = Callable[[dict[str, Any]], Document | None]
Take = Callable[[Turn, dict[str, Any]], Taken]


def read_documents(source: Source, open_document: Open, take: Take) -> Iterator[Record | Ending]:
    """Read the records of all conversations of a file; `open_document` finds the messages in an object."""
    text = source.file.read(MAX_RECORD + 1)
    value = parse_json(text) if len(text) <= MAX_RECORD else None
    documents: list[Document | Unread]
    if isinstance(value, list):
        documents = [Document(None, value, None, {})]
    elif isinstance(value, dict):
        documents = [found for found in [open_document(value) or _of_one_message(value)] if found is not None]
        source.unreadable[NO_CONVERSATION] += not documents
    elif len(text) > MAX_RECORD or not _is_of_lines(text):
        source.unreadable[NOT_JSON] += 1
        return
    else:
        documents = list(_of_lines(source, text, open_document))
    strays, number = Strays(source), 0
    for document in documents:
        if isinstance(document, Unread):
            yield from strays.take(document.kind, document.text)
            continue
        name = source.name if number == 0 else f"{source.name}:{number}"
        number += 1
        yield from strays.pass_on(_read_document(source, document, name, take))
    strays.end()


def _is_of_lines(text: str) -> bool:
    """Tell whether the lines are objects, the first or a third of them: a broken document has few such lines."""
    if parse(text.partition("\n")[0].strip()) is not None:
        return True
    are_objects = [parse(line) is not None for line in text.split("\n") if line.strip()]
    return 3 * sum(are_objects) > len(are_objects)


def _of_lines(source: Source, text: str, open_document: Open) -> Iterator[Document | Unread]:
    """Read documents that stand one a line, or one conversation whose messages do."""
    lines = replace(source, file=io.StringIO(text, newline="\n"))
    messages: list[Any] = []
    for value, line in lines_of(lines):
        if isinstance(value, str):
            yield Unread(value, line)
            continue
        document = open_document(value)
        if document is None:
            messages.append(value)
        else:
            yield document
    if messages:
        yield Document(None, messages, None, {})


def _of_one_message(value: dict[str, Any]) -> Document | None:
    return Document(None, [value], None, {}) if "role" in value or "type" in value else None


def _read_document(source: Source, document: Document, name: str, take: Take) -> Iterator[Record | Ending]:
    storable = Storable(source.left_out)
    talk = Talk(storable)
    conversation = Conversation(storable.name(document.id) or storable.name(name) or "nameless", is_finished=True)
    model = storable.line(document.model)
    if document.about:
        about = raw_of(document.about)
        native_id = f"{ABOUT}:{digest_of_text(about)}"
        yield Record(conversation, ABOUT, native_id, about, reason="about the conversation")
    before: str | None = None
    for item in document.items:
        if not isinstance(item, dict):
            yield unparsed(source, talk, conversation, NO_OBJECT, raw_of(item))
            continue
        raw = raw_of(item)
        native_id = "message:" + digest_of_text(f"{before} {raw}")
        record = Record(conversation, "", native_id, raw, is_node=True, follows=before)
        turn = Turn(talk, native_id, None)
        taken = take(turn, item)
        record.kind = storable.line(taken.kind, MAX_TITLE) or "message"
        record.entries = turn.entries(
            taken.role, None, model if taken.role == "assistant" else None, taken.usage if turn.is_said() else None
        )
        record.reason = None if record.entries else taken.reason or turn.reason() or SAYS_NOTHING
        if taken.role == "user" and conversation.title is None:
            conversation.title = storable.title(turn.content)
        before = native_id
        yield record
    yield Ending(conversation, talk.calls.waiting())
