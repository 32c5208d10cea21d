"""Who hears of an answer while it is made: the text as it grows, and each tool call as it begins and ends."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.shapes import RunDict


class Heard:
    """Hears nothing; those who want to hear something say what they do about it."""

    async def begun(self, run: "RunDict") -> None:
        """The question is on record."""

    async def grown(self, text: str) -> None:
        """The model has said more."""

    async def calling(self, name: str, arguments: dict[str, Any]) -> None:
        """A tool call begins."""

    async def called(self, name: str, status: str, duration_ms: float) -> None:
        """The tool call has ended."""
