"""What a person types: lines with the standard line editing where Python has it, and texts of several lines.

A text of several lines begins with three quotation marks and goes on until the next three. What is pasted may have
several lines as it is, where the terminal and the line editing know of pasting.
"""

from collections.abc import Iterable
from types import ModuleType

_SEVERAL = '"""'
_LONGEST_IN_HISTORY = 2_000


class QuestionLines:
    """Reads what is asked, question by question."""

    def __init__(self) -> None:
        self._editing = _line_editing()
        if self._editing is not None:
            self._editing.parse_and_bind("set enable-bracketed-paste on")

    def remember(self, questions: Iterable[str]) -> None:
        """Have earlier questions at hand, as if they had been typed here."""
        for question in questions:
            if self._editing is not None and "\n" not in question and len(question) <= _LONGEST_IN_HISTORY:
                self._editing.add_history(question)

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing is typed in the line that is being read."""
        return self._editing is None or not self._editing.get_line_buffer()

    def read(self) -> str | None:
        """Return what is asked next, None at the end of the input; KeyboardInterrupt leaves a line undone."""
        try:
            text = input("> ")
            if not text.startswith(_SEVERAL):
                return text.strip()
            text = text.removeprefix(_SEVERAL)
            while not text.rstrip().endswith(_SEVERAL):
                text += "\n" + input("… ")
        except EOFError:
            return None
        return text.rstrip().removesuffix(_SEVERAL).strip("\n")


def _line_editing() -> ModuleType | None:
    # Imported when a person is there: it may write to the terminal. Python on Windows has none.
    try:
        import readline
    except ImportError:
        return None
    return readline
