"""Text files of other programs: read, and replaced whole with what they were kept beside them."""

import os
import shutil
import tempfile
from itertools import count
from pathlib import Path

from models.errors import Invalid


def read_text(path: Path) -> str:
    """Return what a file says, to the byte; raises Invalid where it cannot be read."""
    try:
        return path.read_bytes().decode()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise Invalid(f"{path} cannot be read: {reason}.") from None


def replace_text(path: Path, text: str) -> Path:
    """Replace a file, all of it or nothing, and return where what it was is kept; raises Invalid."""
    # A link stays a link: what it leads to is replaced.
    target = path.resolve()
    try:
        kept = _copy(target)
        _write(target, text)
    except OSError as error:
        raise Invalid(f"{path} cannot be written: {error.strerror}.") from None
    return kept


def _write(target: Path, text: str) -> None:
    number, name = tempfile.mkstemp(dir=target.parent)
    try:
        with os.fdopen(number, "w", encoding="utf-8", newline="") as new:
            new.write(text)
        shutil.copymode(target, name)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink()
        raise


def _copy(target: Path) -> Path:
    for number in count():
        kept = target.with_name(f"{target.name}.backup{number or ''}")
        try:
            with kept.open("xb"):
                pass
        except FileExistsError:
            continue
        try:
            shutil.copy2(target, kept)
        except BaseException:
            kept.unlink()
            raise
        return kept
    raise AssertionError("count has no end")
