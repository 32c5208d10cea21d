"""A process that records and is killed: another takes its place, and every call is on record once."""

import io
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from chat_service.service import ChatService
from models.database import Database
from models.sqlite import choose_library
from server.record import Caller
from server.relay.copies import Copies, Copy, Kind, gap, missing_from, pack_copy, read_copies
from server.relay.destination import Destination
from server.relay.handover import Handover, Started
from server.relay.kept import Kept
from server.relay.notes import Note, Notebook, Told, read_notes
from server.relay.observer import Observer
from server.relay.options import read_options
from server.relay.recorder import STATE_EVERY_BYTES, Recorder
from server.relay.recording import Recording
from server.relay.waiting import Chosen, Gap, Left, Settled
from server.settings import Settings
from tests.reliability.test_disk import linux
from tests.server.relay.support import HELLO, RECORD, Pipes, Recorded, call, piped, recorded_in, relayed, scripted
from tests.server.relay.test_recording import entry, held, make_record, recorder_of, wait_for_the_end_of
from tests.server.support import WAIT_SECONDS, environment_of

pytestmark = pytest.mark.anyio

ENDED = "the process that records ended with signal 9; another is started"


def kill_the_recorder(pipes: Pipes) -> None:
    """Kill the process that records, wherever it is in its work."""
    recorder = recorder_of(pipes)
    os.kill(recorder, signal.SIGKILL)
    wait_for_the_end_of(recorder)


def numbers_of(recorded: Recorded) -> list[Any]:
    """Return the numbers that the calls were given as their argument."""
    return [each["arguments"]["nth"] for each in recorded.calls]


@linux
async def test_every_call_is_recorded_once_and_in_order_however_often_the_recorder_is_killed(
    tmp_path: Path, database_url: str
) -> None:
    with piped(relayed(*scripted(tmp_path / "log")), database_url) as pipes:
        pipes.send(HELLO)
        assert pipes.answer()["id"] == 0
        for number in range(300):
            if number in (40, 90, 250):
                kill_the_recorder(pipes)
            assert "result" in pipes.call(number + 1, "echo", nth=number)
        pipes.end_input()
        assert pipes.wait() == 7
        assert pipes.errors().count(ENDED) == 1
        assert "not recorded" not in pipes.errors()
    recorded = await recorded_in(database_url)
    assert numbers_of(recorded) == list(range(300))
    assert {each["status"] for each in recorded.calls} == {"success"}
    assert {each["server_name"] for each in recorded.calls} == {"scripted"}
    assert len(recorded.sessions) == 1
    assert recorded.messages == []


@linux
def test_what_never_reached_the_process_that_records_is_said_to_be_missing(tmp_path: Path, database_url: str) -> None:
    with piped(relayed(*scripted(tmp_path / "log"), options=("--wait", "0")), database_url) as pipes:
        pipes.send(HELLO)
        assert pipes.answer()["id"] == 0
        recorder = recorder_of(pipes)
        os.kill(recorder, signal.SIGSTOP)
        try:
            # More than a pipe holds.
            assert "result" in pipes.call(1, "echo", long="x" * 2_000_000)
            pipes.end_input()
            assert pipes.wait() == 7
        finally:
            os.kill(recorder, signal.SIGKILL)
        assert "and the last tool calls are missing in it" in pipes.errors()


@linux
async def test_a_call_that_is_open_when_the_recorder_is_killed_gets_its_answer(
    tmp_path: Path, database_url: str
) -> None:
    large = "x" * (STATE_EVERY_BYTES // 4)
    with piped(relayed(*scripted(tmp_path / "log")), database_url) as pipes:
        pipes.send(call("open", "hang", nth=0))
        # More than one state is left, so that the copy with the question is kept no more.
        for number in range(1, 13):
            assert "result" in pipes.call(number, "echo", nth=number, text=large)
        kill_the_recorder(pipes)
        pipes.send(call("last", "answer", nth=13, ids=["open", "last"]))
        assert [pipes.answer()["id"], pipes.answer()["id"]] == ["open", "last"]
        pipes.end_input()
        assert pipes.wait() == 7
    recorded = await recorded_in(database_url)
    assert numbers_of(recorded) == [*range(1, 13), 0, 13]
    assert {each["status"] for each in recorded.calls} == {"success"}


@linux
async def test_what_was_not_recorded_at_the_end_is_when_the_recorder_is_killed_then(
    tmp_path: Path, database_url: str
) -> None:
    await make_record(database_url)
    with held(tmp_path / "chat.db") as holder, piped(relayed(*scripted(tmp_path / "log")), database_url) as pipes:
        for number in range(20):
            assert "result" in pipes.call(number, "echo", nth=number)
        pipes.send(call("open", "hang", nth=20))
        pipes.end_input()
        kill_the_recorder(pipes)
        holder.kill()
        assert pipes.wait() == 7
        assert "not recorded" not in pipes.errors()
    recorded = await recorded_in(database_url)
    assert numbers_of(recorded) == list(range(21))
    assert recorded.calls[-1]["status"] == "unknown"


# What one leaves to the next


class Noted:
    """The notes of a recording, as they go over a pipe."""

    def __init__(self) -> None:
        self.notes: list[bytes] = []

    def tell(self, note: Chosen | Settled | Gap) -> None:
        """Take a note."""
        self.notes.append(pickle.dumps(note))

    def left(self, *kinds: type) -> Left:
        """Return what another has that was told these kinds of notes before it was killed."""
        left = Left()
        for data in self.notes:
            note: Chosen | Settled | Gap = pickle.loads(data)  # noqa: S301
            if isinstance(note, kinds):
                left.take(note)
        return left


@pytest.mark.parametrize("kinds", [(Chosen, Settled), (Chosen,)])
async def test_a_call_that_is_recorded_is_not_recorded_again_where_another_session_is_active_by_now(
    kinds: tuple[type, ...], database_url: str
) -> None:
    user_id = await make_record(database_url)
    settings = Settings(database_url=database_url, user="ada")
    noted = Noted()
    recording = Recording(settings, Destination(None, None, "/here", "run"), tell=noted.tell)
    for number in range(5):
        recording.add(entry(number), "tester")
    assert recording.finish(WAIT_SECONDS) == 0
    async with Database(database_url) as database:
        service = ChatService(database)
        (session,) = (await service.get_user_sessions(user_id))["sessions"]
        # Another is chosen from now on.
        other = await Destination(None, "the other", "/here", "other").choose(Caller(service, user_id), "tester", None)
        assert other != session["id"]
    left = noted.left(*kinds)
    again = Recording(settings, Destination(None, "yet another", "/here", "run"), left=left)
    for number in range(7):
        again.add(entry(number), "tester")
    assert again.finish(WAIT_SECONDS) == 0
    recorded = await recorded_in(database_url)
    assert sorted(each["tool_name"] for each in recorded.calls) == [f"tool{number}" for number in range(7)]


@pytest.mark.parametrize("kinds", [(Chosen, Settled, Gap), (Chosen, Gap)])
async def test_a_gap_is_told_once(kinds: tuple[type, ...], database_url: str) -> None:
    await make_record(database_url)
    settings = Settings(database_url=database_url, user="ada")
    noted = Noted()
    recording = Recording(settings, Destination(None, "gaps", "/here", "run"), held_calls=0, tell=noted.tell)
    recording.add(entry(0), None)
    recording.add_gap("run:100", missed_bytes=100)
    assert recording.finish(WAIT_SECONDS) == 0
    left = noted.left(*kinds)
    assert (left.lost_calls, left.lost_bytes) == (1, 100)
    again = Recording(settings, Destination(None, "gaps", "/here", "run"), left=left)
    again.add(entry(0), None)
    again.add_gap("run:100", missed_bytes=100)
    again.add(entry(1), None)
    assert again.finish(WAIT_SECONDS) == 0
    assert (again.lost_calls, again.lost_bytes) == (1, 100)
    recorded = await recorded_in(database_url)
    gaps = [each["message_metadata"]["recording_gap"] for each in recorded.messages if each["message_metadata"]]
    assert [(each["calls"], each["bytes"]) for each in gaps] in ([(1, 100)], [(1, 0), (0, 100)])
    assert [each["tool_name"] for each in recorded.calls] == ["tool1"]


async def test_a_state_has_what_waits_and_the_notes_of_after_bring_it_up_to_date(
    tmp_path: Path, database_url: str
) -> None:
    await make_record(database_url)
    holder = choose_library().connect(str(tmp_path / "chat.db"), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    settings = Settings(database_url=database_url, user="ada")
    noted = Noted()
    recording = Recording(settings, Destination(None, "one", "/here", "run"), held_calls=3, tell=noted.tell)
    for number in range(5):
        recording.add(entry(number), None)
    states: list[bytes] = []
    recording.leave(lambda left: states.append(pickle.dumps(left)))
    holder.execute("ROLLBACK")
    holder.close()
    left: Left = pickle.loads(states[0])  # noqa: S301
    assert ([each.key for each in left.waiting], left.lost_calls) == (
        ["proxy:0", "proxy:1", "proxy:2", "gap:proxy:3"],
        2,
    )
    assert recording.finish(WAIT_SECONDS) == 0
    for note in noted.notes:
        left.take(pickle.loads(note))  # noqa: S301
    assert (left.waiting, left.lost_calls) == ([], 2)
    before = await recorded_in(database_url)
    again = Recording(settings, Destination(None, "one", "/here", "run"), left=pickle.loads(states[0]))  # noqa: S301
    assert again.finish(WAIT_SECONDS) == 0
    after = await recorded_in(database_url)
    assert [each["seq"] for each in after.calls] == [each["seq"] for each in before.calls]
    assert len(after.messages) == len(before.messages) == 1


def test_states_are_left_now_and_then_and_never_grow_with_the_traffic() -> None:
    source, target = os.pipe()
    recorder = Recorder(read_options(["--copies", "--run", "run"]), Notebook(target))
    notes: list[Note] = []

    def read() -> None:
        with os.fdopen(source, "rb") as pipe:
            notes.extend(read_notes(pipe))

    reading = threading.Thread(target=read)
    reading.start()
    line = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"' + b"x" * 65_000 + b'"}}\n'
    for _ in range(100):
        recorder.take(Copy(Kind.TO_CLIENT, 0, 0, line))
    os.close(target)
    reading.join()
    assert len(notes) == 100 // -(-STATE_EVERY_BYTES // len(line))
    assert all(each.told is Told.STATE and len(each.data) < 2_000 for each in notes)
    assert [each.seen for each in notes] == sorted({each.seen for each in notes})


def question(number: int) -> bytes:
    return b'{"id":%d,"method":"tools/call","params":{"name":"echo","arguments":{"nth":%d}}}\n' % (number, number)


def answer(number: int) -> bytes:
    return b'{"id":%d,"result":{}}\n' % number


@pytest.mark.parametrize("seen", [0, 1, 3])
def test_a_call_has_the_same_number_whatever_was_missed_before_it(seen: int) -> None:
    batch = b"[" + question(3).strip() + b"," + question(4)[:-1] + b"]\n"
    lines = [question(0), b" \r\n", question(1) + question(2), batch, question(5)[:10], question(5)[10:], question(6)]
    whole, torn = Observer(1_000), Observer(1_000)
    for line in lines:
        list(whole.see(Copy(Kind.TO_SERVER, 0, 0, line)))
    for line in lines[:seen]:
        list(torn.see(Copy(Kind.TO_SERVER, 0, 0, line)))
    missed = len(b"".join(lines[seen:5]))
    list(torn.see(Copy(Kind.GAP_TO_SERVER, 0, 0, missed.to_bytes(8, "little"))))
    for line in lines[5:]:
        list(torn.see(Copy(Kind.TO_SERVER, 0, 0, line)))
    numbers = {each.request_id: each.number for each in whole.end(0, 0)}
    assert len(set(numbers.values())) == 7
    after_the_gap = {each.request_id: each.number for each in torn.end(0, 0)}
    assert 6 in after_the_gap
    assert after_the_gap.items() <= numbers.items()


def record_copies(url: str, *copies: Copy) -> None:
    """Let a process record copies, as one of many of the same relay."""
    subprocess.run(
        [*RECORD, "--copies", "--run", "run", "--wait", "60"],
        input=b"".join(map(pack_copy, copies)),
        stdout=subprocess.DEVNULL,
        env=environment_of(url),
        check=True,
        timeout=WAIT_SECONDS,
    )


async def test_a_call_is_not_recorded_again_where_copies_of_before_it_are_kept_no_more(database_url: str) -> None:
    calls = [
        copy
        for number in range(4)
        for copy in (Copy(Kind.TO_SERVER, 0, 0, question(number)), Copy(Kind.TO_CLIENT, 0, 0, answer(number)))
    ]
    end = Copy(Kind.END, 0, 0, b"")
    record_copies(database_url, *calls[:6], end)
    gaps = [gap(each.kind, len(each.data)) for each in calls[:2]]
    # It cannot know that the gap ends with a line, and lets go of the next one too.
    record_copies(database_url, Copy(Kind.BEGIN, 0, 0, b""), *gaps, *calls[2:], end)
    recorded = await recorded_in(database_url)
    assert numbers_of(recorded) == [0, 1, 2, 3]
    assert len(recorded.messages) == 1


# The one that hands over


READER = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from server.relay.copies import Kind, pack_copy, read_copies
from server.relay.kept import Kept
from server.relay.notes import Notebook, Told
notebook, log, seen = Notebook(1), open(sys.argv[2], "ab", buffering=0), 0
for copy in read_copies(sys.stdin.buffer):
    log.write(pack_copy(copy))
    seen += copy.kind <= Kind.END
    if copy.data == b"state":
        notebook.write(Told.STATE, b"a state", seen)
    if copy.data == b"note":
        notebook.write(Told.NOTE, b"a note")
    if copy.data == b"die":
        os.kill(os.getpid(), 9)
    if copy.data == b"nonsense" and not os.path.exists("once"):
        open("once", "w").close()
        os.write(1, bytes([255]) + bytes(12))
        signal.pause()
    if copy.data == b"once" and not os.path.exists("once"):
        open("once", "w").close()
        os._exit(4)
    if copy.kind is Kind.END:
        notebook.write(Told.FINISHED)
        if os.path.exists("stay"):
            notebook.close()
            signal.pause()
        os._exit(0)
"""


class Readers:
    """Starts processes that read copies, each into a file of its own."""

    def __init__(self, folder: Path, code: str = READER) -> None:
        self._folder = folder
        self._code = code
        self.logs: list[Path] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> Started:
        """Start one."""
        self.logs.append(self._folder / f"log{len(self.logs)}")
        home = Path(__file__).parents[3]
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", self._code, str(home), str(self.logs[-1])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd=self._folder,
        )
        self.processes.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdin, process.stdout:
            return Started(process, os.dup(process.stdin.fileno()), os.dup(process.stdout.fileno()))

    def read(self, number: int) -> list[tuple[Kind, bytes | int]]:
        """Return what one of them read, which has ended."""
        self.processes[number].wait(WAIT_SECONDS)
        copies = read_copies(io.BytesIO(self.logs[number].read_bytes()))
        return [(each.kind, missing_from(each) if each.kind in _GAPS else each.data) for each in copies]


_GAPS = (Kind.GAP_TO_SERVER, Kind.GAP_TO_CLIENT)
BEGIN = (Kind.BEGIN, b"")
END = (Kind.END, b"")


def to_server(data: bytes) -> tuple[Kind, bytes]:
    return Kind.TO_SERVER, data


def hand_over(readers: Readers, *data: bytes, kept_bytes: int = 1_000, pauses: int = 4) -> tuple[Copies, list[str]]:
    """Hand copies over to processes, of which each that ends is followed by another; return what was said."""
    copies, said = Copies(), list[str]()
    handover = Handover(copies, readers.start, said.append, (0.0,) * pauses, Kept(kept_bytes))
    for each in data:
        handover.add(Kind.TO_SERVER, each)
    handover.end()
    assert handover.finish(WAIT_SECONDS)
    return copies, said


def test_the_next_process_gets_the_state_the_notes_since_and_the_copies_since(tmp_path: Path) -> None:
    readers = Readers(tmp_path)
    data = [b"a", b"note", b"state", b"note", b"b", b"once", b"c"]
    _, said = hand_over(readers, *data)
    assert readers.read(0)[:7] == [BEGIN, *map(to_server, data[:6])]
    left = [(Kind.STATE, b"a state"), (Kind.NOTE, b"a note"), BEGIN]
    assert readers.read(1) == [*left, *map(to_server, data[3:]), END]
    assert len(readers.logs) == 2
    assert said == [
        "the process that records ended with code 4; another is started, and given what may not be recorded yet"
    ]


def test_of_what_is_kept_for_the_next_process_the_oldest_is_let_go_and_counted(tmp_path: Path) -> None:
    readers = Readers(tmp_path)
    hand_over(readers, b"a", b"bb", b"cc", b"once", kept_bytes=6)
    assert readers.read(1) == [BEGIN, (Kind.GAP_TO_SERVER, 3), to_server(b"cc"), to_server(b"once"), END]


def test_what_ends_each_process_that_is_given_it_is_left_out(tmp_path: Path) -> None:
    readers = Readers(tmp_path)
    copies, said = hand_over(readers, b"a", b"die", b"b")
    assert len(readers.logs) == 5
    begin, (kind, missed), *rest, end = readers.read(4)
    assert (begin, kind, end) == (BEGIN, Kind.GAP_TO_SERVER, END)
    assert isinstance(missed, int)
    # What came after it may have been handed over before the end was seen.
    assert (missed, rest) in ((5, []), (4, [to_server(b"b")]))
    assert said[1].startswith(f"{missed} bytes of traffic, with the tool calls in them, are left out")
    assert not copies.is_given_up


def test_a_process_that_ends_at_once_is_not_started_for_ever(tmp_path: Path) -> None:
    readers = Readers(tmp_path, "raise SystemExit(3)")
    copies, said = hand_over(readers, b"tools/call" * 3, pauses=3)
    assert len(readers.logs) == 4
    assert copies.is_given_up
    assert said[-1] == (
        "the process that records ended with code 3, 4 times in a row: nothing is recorded from here on, the calls pass"
    )
    copies.add(Kind.TO_SERVER, b"tools/call")
    assert (copies.calls_seen, copies.calls_left_out) == (3, 1)


def test_a_process_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    readers = Readers(tmp_path)
    refusals = iter([OSError(24, "Too many open files")])

    def start() -> Started:
        for each in refusals:
            raise each
        return readers.start()

    said = list[str]()
    handover = Handover(Copies(), start, said.append, (0.0,))
    handover.add(Kind.TO_CLIENT, b"a")
    handover.end()
    assert handover.finish(WAIT_SECONDS)
    assert readers.read(0) == [BEGIN, (Kind.TO_CLIENT, b"a"), END]
    assert said == [
        "nothing is recorded: Too many open files; another is started, and given what may not be recorded yet"
    ]


def test_a_process_that_tells_what_cannot_be_understood_is_followed_by_another(tmp_path: Path) -> None:
    readers = Readers(tmp_path)
    _, said = hand_over(readers, b"a", b"nonsense", b"b")
    assert readers.read(1) == [BEGIN, *map(to_server, [b"a", b"nonsense", b"b"]), END]
    assert said == [f"{ENDED}, and given what may not be recorded yet"]
    assert readers.processes[0].poll() == -signal.SIGKILL


@linux
def test_a_process_whose_pipe_takes_nothing_is_followed_by_another(tmp_path: Path) -> None:
    readers, refusals = Readers(tmp_path), iter(["/dev/full"])

    def start() -> Started:
        started = readers.start()
        for each in refusals:
            full = os.open(each, os.O_WRONLY)
            os.dup2(full, started.stdin)
            os.close(full)
            os.kill(started.process.pid, signal.SIGSTOP)
        return started

    said = list[str]()
    handover = Handover(Copies(), start, said.append, (0.0,) * 4)
    handover.add(Kind.TO_SERVER, b"a")
    handover.end()
    assert handover.finish(WAIT_SECONDS)
    assert readers.read(1) == [BEGIN, to_server(b"a"), END]
    assert said == [f"{ENDED}, and given what may not be recorded yet"]


def test_what_passes_after_the_end_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "stay").touch()
    readers = Readers(tmp_path)
    handover = Handover(Copies(), readers.start, print, (0.0,) * 4)
    handover.end()
    # More than a pipe holds, and nobody reads any more.
    handover.add(Kind.TO_SERVER, b"x" * 2_000_000)
    assert handover.finish(WAIT_SECONDS)
    readers.processes[0].kill()
    assert readers.read(0) == [BEGIN, END]
