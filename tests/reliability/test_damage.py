"""Damaged files: whatever has become of the bytes, the process lives, the file stays, and the error says what to do.

What is read of a file whose contents were changed need not be right, where SQLite cannot know; but it is read, or
refused with one of the house's errors, and never with the driver's or with a traceback.
"""

import asyncio
import random
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chat_service import doctor
from chat_service.service import ChatService
from models import full_text
from models.database import Database
from models.errors import ChatError, Unavailable
from models.ids import SessionId, UserId
from models.inputs import NewUser
from models.sqlite import choose_library
from tests.conftest import url_of
from tests.reliability.scale import JOURNALS, figure, library_for, make_ready, patient, scale, seed
from tests.support import asking, done, fill, new_session, new_user, run_python, said

pytestmark = patient

ENTRIES = 120
PAGE = 4_096

Mutation = Callable[[random.Random, Path], str]
"""Damages a database's files and says how."""


# Kinds of damage


def truncate(chance: random.Random, path: Path) -> str:
    size = chance.randrange(1, path.stat().st_size)
    with path.open("r+b") as file:
        file.truncate(size)
    return f"cut to {size} bytes"


def flip_bits_in_the_header(chance: random.Random, path: Path) -> str:
    return _flip(chance, path, 0, 100)


def flip_bits_in_the_schema(chance: random.Random, path: Path) -> str:
    return _flip(chance, path, 100, 3 * PAGE)


def flip_bits_anywhere(chance: random.Random, path: Path) -> str:
    return _flip(chance, path, 0, path.stat().st_size)


def flip_many_bits(chance: random.Random, path: Path) -> str:
    return "; ".join(_flip(chance, path, 100, path.stat().st_size) for _ in range(40))


def zero_a_page(chance: random.Random, path: Path) -> str:
    return _overwrite(chance, path, bytes(PAGE))


def fill_a_page_with_garbage(chance: random.Random, path: Path) -> str:
    return _overwrite(chance, path, chance.randbytes(PAGE))


def append_garbage(chance: random.Random, path: Path) -> str:
    garbage = chance.randbytes(chance.choice([1, 100, PAGE, 5 * PAGE + 7]))
    with path.open("ab") as file:
        file.write(garbage)
    return f"{len(garbage)} bytes appended"


def change_stored_text(chance: random.Random, path: Path) -> str:
    """Flip bits only where stored text lies, which no checksum of SQLite's covers."""
    data = path.read_bytes()
    words = (b"number ", b'{"number"', b'"tool_call"', b"success", b"message", b"assistant")
    found = [place for word in words if (place := data.find(word, chance.randrange(len(data)))) >= 0]
    return "; ".join(_flip(chance, path, place, place + 8) for place in found) or "nothing found"


ON_THE_FILE: tuple[Mutation, ...] = (
    truncate,
    flip_bits_in_the_header,
    flip_bits_in_the_schema,
    flip_bits_anywhere,
    flip_many_bits,
    zero_a_page,
    fill_a_page_with_garbage,
    append_garbage,
    change_stored_text,
)
ON_THE_LOG: tuple[Mutation, ...] = (
    truncate,
    flip_bits_in_the_header,
    flip_bits_anywhere,
    flip_many_bits,
    append_garbage,
)


def _flip(chance: random.Random, path: Path, start: int, end: int) -> str:
    place, bit = chance.randrange(start, min(end, path.stat().st_size)), 1 << chance.randrange(8)
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ bit]))
    return f"bit {bit} at {place} flipped"


def _overwrite(chance: random.Random, path: Path, content: bytes) -> str:
    page = chance.randrange(path.stat().st_size // PAGE)
    with path.open("r+b") as file:
        file.seek(page * PAGE)
        file.write(content)
    return f"page {page + 1} overwritten"


# What is done with a damaged file


class Reader:
    """Calls everything there is, and keeps what was refused; anything but a ChatError passes through."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.answered = 0

    async def __call__(self, call: Any) -> Any:
        try:
            result = await call
        except ChatError as error:
            self.refused.append(str(error))
            return None
        self.answered += 1
        return result


async def use_everything(url: str, library: Any, user_id: UserId, session_id: SessionId) -> Reader:
    """Open the database, read all of it in every way, append to it, and close it."""
    attempt = Reader()
    database = Database(url, library=library, readers=1)
    if await attempt(database.open()) is None:
        return attempt
    try:
        service = ChatService(database)
        await attempt(service.health())
        await attempt(service.get_user(user_id))
        await attempt(service.get_active_session(user_id, workspace="here"))
        await attempt(service.get_user_sessions(user_id, query="a"))
        for after in range(0, ENTRIES, 30):
            await attempt(service.get_session_history(user_id, session_id, 30, after_seq=after))
            await attempt(service.get_session_preview(user_id, session_id, 30, after_seq=after, content_limit=9))
            await attempt(service.get_session_messages(user_id, session_id, 30, after_seq=after))
        for seq in range(1, ENTRIES, 17):
            await attempt(service.get_session_entry(user_id, session_id, seq))
        await attempt(service.get_session_tool_usage(user_id, limit=100))
        await attempt(service.get_session_tool_usage(user_id, session_id, limit=100))
        await attempt(service.summarize_tool_usage(user_id))
        await attempt(service.get_or_create_user(NewUser(username="grace")))
        await attempt(service.add_message(user_id, session_id, said("more", idempotency_key="more")))
        await attempt(service.add_message(user_id, session_id, asking("call")))
        await attempt(service.add_tool_usage(user_id, session_id, done(tool_call_id="call")))
        await attempt(service.delete_session(user_id, session_id))
    finally:
        await database.close()
    return attempt


class Sound:
    """A database file to damage: its bytes, and those of a write-ahead log that a crash has left."""

    def __init__(self, folder: Path, journal: str) -> None:
        self.journal = journal
        self.path = folder / "sound.db"
        self.log: Path | None = None
        make_ready(journal, self.path)
        asyncio.run(self._fill(folder))

    async def _fill(self, folder: Path) -> None:
        async with Database(url_of(self.path), library=library_for(self.journal)) as database:
            service = ChatService(database)
            self.user_id = await new_user(service)
            self.session_id = await new_session(service, self.user_id, session_data={"workspace": "here"}, title="a")
            await service.add_message(self.user_id, self.session_id, asking("call-1", message_metadata={"a": [1]}))
            if self.journal == "wal":
                # Into the file itself, so that the log that is left has only a part of it.
                await database.write(lambda connection: None)
            await fill(service, self.user_id, self.session_id, ENTRIES - 1)
            if self.journal == "wal":
                # As a killed process leaves them: copied by another process, whose closing them takes no lock of ours.
                run_python(COPY, self.path, folder / "crashed.db")
                self.log = folder / "crashed.db"

    def copy_to(self, path: Path, *, with_log: bool) -> None:
        for ending in ("", "-wal") if with_log else ("",):
            shutil.copy(f"{self.log if with_log else self.path}{ending}", f"{path}{ending}")


COPY = """
import shutil, sys
for ending in ("", "-wal"):
    shutil.copy(sys.argv[1] + ending, sys.argv[2] + ending)
"""


def check(sound: Sound, path: Path, damage: str, before: bytes) -> Reader:
    """Use a damaged database, and fail where an error is not the house's, says nothing, or the file suffers."""
    try:
        attempt = asyncio.run(use_everything(url_of(path), library_for(sound.journal), sound.user_id, sound.session_id))
    except Exception as error:
        error.add_note(f"{damage}")
        raise
    assert path.exists(), damage
    assert path.stat().st_size > 0, damage
    if not attempt.answered and not path.with_name(f"{path.name}-wal").exists():
        assert path.read_bytes() == before, f"refused, and yet changed: {damage}"
    for message in attempt.refused:
        assert message.strip().endswith("."), f"{message!r} after {damage}"
        assert "Traceback" not in message, damage
        assert "number " not in message, damage
    return attempt


@pytest.mark.parametrize("journal", JOURNALS)
@pytest.mark.parametrize("mutation", ON_THE_FILE, ids=lambda mutation: mutation.__name__)
def test_a_damaged_file_is_read_or_refused_and_is_left_in_its_place(
    tmp_path: Path, journal: str, mutation: Mutation
) -> None:
    sound = Sound(tmp_path, journal)
    chance = random.Random(seed())  # noqa: S311 - repeats a run, guards nothing
    outcomes: Counter[str] = Counter()
    for number in range(scale(8, 80)):
        path = tmp_path / f"damaged{number}.db"
        sound.copy_to(path, with_log=False)
        damage = mutation(chance, path)
        attempt = check(sound, path, damage, path.read_bytes())
        outcomes["refused" if not attempt.answered else "refused in part" if attempt.refused else "answered"] += 1
        path.unlink()
    figure(f"damaged file: {mutation.__name__}", dict(outcomes), journal)
    assert outcomes.total() == scale(8, 80)


def test_a_bit_flipped_in_any_byte_of_the_header_is_read_or_refused(tmp_path: Path) -> None:
    sound = Sound(tmp_path, JOURNALS[0])
    chance = random.Random(seed())  # noqa: S311
    refused = 0
    for byte in range(100):
        for bit in sorted({0, *chance.sample(range(8), scale(1, 8))}):
            path = tmp_path / f"damaged{byte}.{bit}.db"
            data = bytearray(sound.path.read_bytes())
            data[byte] ^= 1 << bit
            path.write_bytes(data)
            refused += not check(sound, path, f"bit {bit} of byte {byte} flipped", bytes(data)).answered
    assert refused


UNREADABLE = {
    "text that is not UTF-8": "UPDATE messages SET content = CAST(x'6e8a' AS TEXT) WHERE seq = 4",
    "a status that is not UTF-8": "UPDATE tool_usages SET status = CAST(x'738a' AS TEXT) WHERE seq = 3",
    "JSON that does not end": """UPDATE messages SET message_metadata = '{"a": [1' WHERE seq = 1""",
    "JSON that is a blob": "UPDATE tool_usages SET arguments = x'8a00' WHERE seq = 3",
    "a time past the calendar": "UPDATE messages SET created_at = 9000000000000000000 WHERE seq = 4",
    "a time that is text": "UPDATE messages SET created_at = 'yesterday' WHERE seq = 4",
    "an id that is too short": "UPDATE chat_sessions SET id = x'00'",
    "an id that is text": "UPDATE users SET id = 'ada'",
    "session data that is not JSON": "UPDATE chat_sessions SET session_data = 'here'",
    "a seq that is text": "UPDATE messages SET seq = 'three' WHERE seq = 4",
}
"""Values that no append of ours can store: found where bits flip in rows, which no checksum of SQLite's covers."""


@pytest.mark.parametrize("value", UNREADABLE)
def test_a_stored_value_that_cannot_be_read_is_refused_with_an_error_of_the_house(tmp_path: Path, value: str) -> None:
    sound = Sound(tmp_path, JOURNALS[0])
    path = tmp_path / "damaged.db"
    sound.copy_to(path, with_log=False)
    with closing(choose_library().connect(path, isolation_level=None)) as raw:
        full_text.register(raw)
        for entries in ("message", "tool_usage"):
            # Damage comes to a row past the triggers, which would refuse it.
            raw.execute(f"DROP TRIGGER {entries}_search_update")
        raw.execute("PRAGMA foreign_keys=OFF")
        raw.execute("PRAGMA ignore_check_constraints=ON")
        assert raw.execute(UNREADABLE[value]).rowcount
    attempt = check(sound, path, value, path.read_bytes())
    # A seq that is text is not in any window; the others are in something that is read.
    assert attempt.refused or value == "a seq that is text"


@pytest.mark.skipif("wal" not in JOURNALS, reason="no library here is safe for WAL")
@pytest.mark.parametrize("mutation", ON_THE_LOG, ids=lambda mutation: mutation.__name__)
def test_a_damaged_write_ahead_log_is_read_or_refused_and_the_file_is_left_in_its_place(
    tmp_path: Path, mutation: Mutation
) -> None:
    sound = Sound(tmp_path, "wal")
    chance = random.Random(seed())  # noqa: S311
    outcomes: Counter[str] = Counter()
    for number in range(scale(4, 40)):
        path = tmp_path / f"damaged{number}.db"
        sound.copy_to(path, with_log=True)
        damage = mutation(chance, path.with_name(f"{path.name}-wal"))
        attempt = check(sound, path, damage, path.read_bytes())
        outcomes["refused" if not attempt.answered else "refused in part" if attempt.refused else "answered"] += 1
    figure(f"damaged write-ahead log: {mutation.__name__}", dict(outcomes), "wal")
    assert outcomes.total() == scale(4, 40)


@pytest.mark.skipif("wal" not in JOURNALS, reason="no library here is safe for WAL")
def test_an_undamaged_log_of_a_crash_is_taken_up(tmp_path: Path) -> None:
    sound = Sound(tmp_path, "wal")
    path = tmp_path / "left.db"
    sound.copy_to(path, with_log=True)

    async def main() -> int:
        async with Database(url_of(path)) as database:
            service = ChatService(database)
            page = await service.get_session_history(sound.user_id, sound.session_id, 500)
            return len(page["entries"])

    assert asyncio.run(main()) == ENTRIES


@pytest.mark.skipif("wal" not in JOURNALS, reason="no library here is safe for WAL")
@pytest.mark.parametrize("lost", ["-wal", "-shm"])
def test_a_file_whose_log_or_shared_memory_was_deleted_is_read_or_refused(tmp_path: Path, lost: str) -> None:
    sound = Sound(tmp_path, "wal")
    path = tmp_path / "left.db"
    sound.copy_to(path, with_log=True)
    path.with_name(f"{path.name}-shm").write_bytes(b"\0" * 32_768 if lost == "-wal" else b"")
    path.with_name(f"{path.name}{lost}").unlink()
    attempt = check(sound, path, f"{lost} deleted", path.read_bytes())
    # Without shared memory nothing is missing; without the log, what it held is, which nobody can know.
    assert attempt.answered or lost == "-wal"
    if lost == "-shm":
        assert attempt.refused == []


@pytest.mark.parametrize("journal", JOURNALS)
def test_the_doctor_answers_for_a_damaged_file_or_refuses(tmp_path: Path, journal: str) -> None:
    sound = Sound(tmp_path, journal)
    chance = random.Random(seed())  # noqa: S311
    told = 0
    for number in range(scale(9, 90)):
        path = tmp_path / f"damaged{number}.db"
        sound.copy_to(path, with_log=False)
        mutation = ON_THE_FILE[number % len(ON_THE_FILE)]
        damage = mutation(chance, path)
        before = path.read_bytes()
        try:
            findings = asyncio.run(doctor.examine(url_of(path), lambda done, total: None))
            told += any(finding["is_problem"] for finding in findings if finding["check"] != "file mode")
        except Unavailable:
            told += 1
        except Exception as error:
            error.add_note(f"{mutation.__name__}: {damage}")
            raise
        assert path.read_bytes() == before, f"the doctor changed the file: {damage}"
    assert told


def test_a_file_that_is_refused_names_what_to_do_and_stays_as_it_is(tmp_path: Path) -> None:
    sound = Sound(tmp_path, JOURNALS[-1])
    path = tmp_path / "damaged.db"
    sound.copy_to(path, with_log=False)
    data = bytearray(path.read_bytes())
    # The root page of the schema: nothing can be read without it.
    data[100:PAGE] = b"\xff" * (PAGE - 100)
    path.write_bytes(data)

    async def main() -> None:
        with pytest.raises(Unavailable, match=r"damaged and was left as it is: restore a backup"):
            await Database(url_of(path), library=library_for(JOURNALS[-1])).open()

    asyncio.run(main())
    assert path.read_bytes() == bytes(data)
    assert {file.name for file in tmp_path.iterdir()} >= {"damaged.db", "sound.db"}
