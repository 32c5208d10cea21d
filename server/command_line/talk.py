"""Asking from the main thread: one question at a time, shown as it is answered, and stopped by Ctrl-C.

While an answer is being made, a signal only leaves a note: the answer is cancelled, what was said until then is written
down, and only then does the program go on, or end.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

from models.errors import ChatError
from models.shapes import RunDict
from server.command_line.aside import Aside
from server.command_line.question_lines import QuestionLines
from server.command_line.screen import Screen
from server.llm.chats import BOUNDS, Question, read_answer
from server.llm.heard import Heard
from server.record import Caller, Record, as_caller

CLIENT = "terminal"
_TURN = 0.25
"""So often a signal is looked for on a platform where it does not wake us, in seconds."""

_Show = Callable[[Screen], None]


class Stopped(Exception):
    """The answer was stopped, and what was said until then is on record."""


class Talk:
    """Asks, and knows the session in which it was asked last."""

    def __init__(self, aside: Aside, record: Record, screen: Screen) -> None:
        self.session_id: str | None = None
        self._aside = aside
        self._record = record
        self._screen = screen
        self._events: SimpleQueue[_Show | None] | None = None
        self._signal: int | None = None

    @contextmanager
    def listening(self, lines: QuestionLines | None = None) -> Iterator[None]:
        """Hear Ctrl-C and the end of the terminal meanwhile."""

        def hear(number: int, _: FrameType | None) -> None:
            self._signal = number
            if self._events is not None:
                # Whoever waits for something to show looks up.
                self._events.put(_nothing)
                return
            if number == signal.SIGINT and lines is not None:
                raise KeyboardInterrupt(lines.is_empty)
            raise SystemExit(128 + number)

        numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {number: signal.signal(number, hear) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def ask(self, question: Question) -> str:
        """Ask and return the answer, which was shown; raises Stopped, and the errors of the house."""
        events: SimpleQueue[_Show | None] = SimpleQueue()
        self._signal, self._events = None, events
        telling = _Telling(events)
        try:
            task = self._aside.start(self._answer(question, telling), lambda _: events.put(None))
            is_cancelled = False
            while True:
                if self._signal is not None and not is_cancelled:
                    is_cancelled = True
                    self._aside.cancel(task)
                try:
                    show = events.get(timeout=_TURN)
                except Empty:
                    continue
                if show is None:
                    break
                show(self._screen)
            self._aside.run(self._recorded())
        finally:
            self._events = None
            self.session_id = telling.session_id or self.session_id
        self._screen.end_line()
        if self._signal not in (None, signal.SIGINT):
            raise SystemExit(128 + self._signal)
        if task.cancelled():
            raise Stopped
        run, answer = task.result()
        if telling.said != answer:
            self._screen.grow(answer)
        result = run["result"] or {}
        if (bound := BOUNDS.get(result["finish_reason"])) is not None:
            self._screen.note(f"[{bound}]")
        self._screen.end_line()
        return answer

    async def caller(self, *, anew: bool = False) -> Caller:
        """Return the one who asks."""
        return await self._record.caller(CLIENT, anew=anew)

    async def _answer(self, question: Question, telling: "_Telling") -> tuple[RunDict, str]:
        async def answered(caller: Caller) -> tuple[RunDict, str]:
            assert caller.chats is not None, "a model is set up"  # noqa: S101 - checked at the start
            run = await caller.chats.answer(caller, question, telling)
            telling.session_id = run["session_id"]
            return run, await read_answer(caller, run)

        return await as_caller(self.caller, answered)

    async def _recorded(self) -> None:
        with suppress(ChatError):
            caller = await self.caller()
            if caller.chats is not None:
                await caller.chats.recorded()


def _nothing(_: Screen) -> None:
    """Show nothing."""


class _Telling(Heard):
    """Tells the main thread what is to be shown; `said` is what the model has said since the last tool call."""

    def __init__(self, events: "SimpleQueue[_Show | None]") -> None:
        self._events = events
        self.session_id: str | None = None
        self.said = ""

    async def begun(self, run: RunDict) -> None:
        """Note the session."""
        self.session_id = run["session_id"]

    async def grown(self, text: str) -> None:
        """Show more of the answer."""
        self.said += text
        self._events.put(lambda screen: screen.grow(text))

    async def calling(self, name: str, arguments: dict[str, Any]) -> None:
        """Show that a call begins."""
        self.said = ""
        self._events.put(lambda screen: screen.calling(name, arguments))

    async def called(self, name: str, status: str, duration_ms: float) -> None:
        """Show how it ended."""
        self._events.put(lambda screen: screen.called(status, duration_ms))
