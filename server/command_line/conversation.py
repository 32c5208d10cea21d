"""A conversation with a person in a terminal: questions, a few commands, and what came before."""

from dataclasses import dataclass
from itertools import islice

from pydantic import ValidationError

from models.errors import ChatError, Conflict
from models.ids import SessionId, new_id
from server.command_line.question_lines import QuestionLines
from server.command_line.screen import Screen
from server.command_line.talk import Stopped, Talk
from server.errors import explain, explain_arguments
from server.llm.asking import Interrupted
from server.llm.chats import Question
from server.llm.models import check_model
from server.settings import PREFIX, Settings

_LOOK_BACK = 50
_EXCHANGES = 2
_HELP = """\
/session        which session this is
/model [NAME]   which model is asked, or another one
/retry          go on with the question that was not answered to the end
/quit           end, as Ctrl-D does
Ctrl-C stops an answer. Three quotation marks begin a text of several lines, and end it."""


@dataclass(slots=True)
class Conversation:
    """Reads what a person asks until there is no more."""

    talk: Talk
    screen: Screen
    lines: QuestionLines
    settings: Settings
    model: str | None
    _unanswered: Question | None = None
    _has_interrupted: bool = False
    _is_over: bool = False

    async def resume(self, session_id: str) -> None:
        """Show the last exchanges of a session; raises Conflict where it is closed for more."""
        caller = await self.talk.caller()
        history = await caller.service.get_session_history(caller.user_id, SessionId(session_id), _LOOK_BACK)
        session, entries = history["session"], history["entries"]
        if session["status"] == "archived":
            raise Conflict(f"The session is archived: mcp-chat-server sessions reopen {session_id} opens it again.")
        self.talk.session_id = session_id
        self.screen.head(session)
        asked = [entry for entry in entries if "message_type" in entry and entry["message_type"] == "user"]
        self.lines.remember(entry["content"] for entry in asked if "message_type" in entry)
        first = next(islice(reversed(asked), _EXCHANGES - 1, None), entries[0] if entries else None)
        if first is not None:
            if first["seq"] > 1:
                self.screen.note(f"… {first['seq'] - 1} entries before: mcp-chat-server show {session_id}")
            self.screen.entries([entry for entry in entries if entry["seq"] >= first["seq"]])

    def go_on(self) -> None:
        """Ask what is asked, until the person ends it."""
        self.screen.note(f"{check_model(self.settings, self.model)}; /help tells more, Ctrl-D ends")
        while not self._is_over:
            try:
                self._take_turn()
            except KeyboardInterrupt as pressed:
                self._interrupt(at_empty_line=pressed.args == (True,))

    def _take_turn(self) -> None:
        self.screen.end_line()
        text = self.lines.read()
        if text is None:
            self._is_over = True
            self.screen.grow("\n")
        elif text:
            self._has_interrupted = False
            if text.startswith("/") and text[1:].partition(" ")[0].isalpha():
                self._obey(*text[1:].split(None, 1))
            else:
                self._ask(Question(text, self.talk.session_id, self.model, new_id()))

    def _interrupt(self, *, at_empty_line: bool) -> None:
        self.screen.grow("\n")
        if self._has_interrupted and at_empty_line:
            self._is_over = True
            return
        self._has_interrupted = True
        self.screen.note("Ctrl-C once more, or Ctrl-D, ends")

    def _obey(self, command: str, argument: str | None = None) -> None:
        match command, argument:
            case "quit" | "exit", None:
                self._is_over = True
            case "session", None:
                self.screen.note(self.talk.session_id or "a new one, which begins with the first question")
            case "model", _:
                self._take_model(argument)
            case "retry", None if self._unanswered is not None:
                self._ask(self._unanswered)
            case "retry", None:
                self.screen.note("every question has been answered")
            case "help", None:
                self.screen.note(_HELP)
            case _:
                self.screen.note("there is no such command; /help tells those there are")

    def _take_model(self, name: str | None) -> None:
        if name is not None:
            try:
                check_model(self.settings, name)
            except ChatError as error:
                self.screen.note(str(error))
                return
            self.model = name
        others = ", ".join(self.settings.other_models) or f"{PREFIX}OTHER_MODELS names others"
        self.screen.note(f"{check_model(self.settings, self.model)} (others: {others})")

    def _ask(self, question: Question) -> None:
        self._unanswered = question
        try:
            self.talk.ask(question)
            self._unanswered = None
        except Stopped:
            self._has_interrupted = True
            self.screen.note("stopped; what was said is on record, /retry goes on")
        except ChatError as error:
            interrupted = isinstance(error.__cause__, Interrupted)
            self.screen.note(f"no answer: {error.__cause__}; /retry asks again" if interrupted else str(error))
        except ValidationError as error:
            self.screen.note(explain_arguments(error))
        except Exception as error:
            self.screen.note(explain(error))
