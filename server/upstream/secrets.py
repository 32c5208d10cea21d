"""Keys stay where they are: what a server says is passed on and recorded without the keys that it was given."""

from collections.abc import Iterable
from typing import Any

HIDDEN = "[hidden]"


class Secrets:
    """The texts that must not be told, and how they are taken out of what is told."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        # The longest first: one may be a part of another.
        self._texts = sorted(set(texts), key=len, reverse=True)

    def hide(self, value: Any) -> Any:
        """Return a JSON value without them, in keys as well as in values."""
        if isinstance(value, str):
            return self.hide_text(value)
        if isinstance(value, dict):
            return {self.hide(name): self.hide(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.hide(inner) for inner in value]
        return value

    def hide_text(self, text: str) -> str:
        """Return a text without them."""
        for each in self._texts:
            text = text.replace(each, HIDDEN)
        return text
