"""The command that talks with a model: a conversation in a terminal, or one question through a pipe."""

import sys
import threading
from typing import Annotated

import typer

from models.errors import Invalid
from server.command_line.aside import Aside
from server.command_line.conversation import Conversation
from server.command_line.question_lines import QuestionLines
from server.command_line.screen import CallsAlone, Screen
from server.command_line.talk import Stopped, Talk
from server.command_line.terminal import complain, is_coloured, say
from server.llm.chats import Question
from server.llm.models import check_model, check_way, load_library
from server.logs import set_up_logging
from server.record import Record
from server.settings import Settings, read_settings

_STOPPED_BY_CTRL_C = 130


def chat(
    session_id: Annotated[
        str | None, typer.Option("--session", help="The session to go on with; without it, a new one is started.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Another model than the usual one, if the settings allow it.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="For a piped question: repeated with the same key, it is not asked twice.")
    ] = None,
) -> None:
    """Talk with the model in a terminal, or pipe a question in and its answer out; every step is kept."""
    settings = read_settings()
    check_way(settings, check_model(settings, model))
    set_up_logging(settings.log_level)
    record = Record(settings)
    with Aside() as aside:
        try:
            if sys.stdin.isatty() and sys.stdout.isatty():
                _talk(aside, record, settings, session_id, model)
            else:
                _answer(aside, record, session_id, model, idempotency_key)
        finally:
            aside.run(record.close())


def _talk(aside: Aside, record: Record, settings: Settings, session_id: str | None, model: str | None) -> None:
    lines, screen = QuestionLines(), Screen(is_coloured=is_coloured())
    # It takes a second or two, which a person spends typing.
    threading.Thread(target=load_library, args=(check_model(settings, model),), daemon=True).start()
    talk = Talk(aside, record, screen)
    conversation = Conversation(talk, screen, lines, settings, model)
    with talk.listening(lines):
        try:
            if session_id is not None:
                aside.run(conversation.resume(session_id))
            conversation.go_on()
        finally:
            if talk.session_id is not None:
                screen.note(f"to go on: mcp-chat-server chat --session {talk.session_id}")


def _answer(
    aside: Aside, record: Record, session_id: str | None, model: str | None, idempotency_key: str | None
) -> None:
    try:
        question = sys.stdin.buffer.read().decode("utf-8-sig").strip()
    except ValueError:
        raise Invalid("The question is not UTF-8 text.") from None
    if not question:
        raise Invalid("There is no question: pipe one in, or start this in a terminal.")
    talk = Talk(aside, record, CallsAlone(sys.stderr))
    try:
        with talk.listening():
            answer = talk.ask(Question(question, session_id, model, idempotency_key))
    except Stopped:
        complain("stopped; what was said until then is on record")
        raise SystemExit(_STOPPED_BY_CTRL_C) from None
    finally:
        if talk.session_id is not None:
            complain(f"session {talk.session_id}")
    say(answer)
