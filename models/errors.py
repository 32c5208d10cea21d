"""The refusals of the house: each is a noun, and its docstring the sentence that people read.

They are raised in chat_service and models, and translated once, in server. A message names the field and the next step;
it never holds stored text.
"""

DAMAGED = "The database file is damaged and was left as it is: restore a backup, or move the file away."
"""What is said of a file whose pages or rows cannot be read."""


class ChatError(Exception):
    """The request was refused."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)


class NotFound(ChatError):
    """There is nothing of yours under this id: list what there is, and use an id from there."""


class Conflict(ChatError):
    """The record has moved on: read it again, then decide."""


class Invalid(ChatError):
    """An argument is not as it must be: correct the named field and call again."""


class Forbidden(ChatError):
    """You may not do this: ask the one who runs the server."""


class Unavailable(ChatError):
    """The record cannot be reached now and nothing was stored: try again in a moment."""


class TooLarge(ChatError):
    """This is larger than one call may carry: split it and send the parts in order."""
