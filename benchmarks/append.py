"""Appending: by hand, through ChatService, through MCP; one message, or a batch."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import cycle, islice

from benchmarks.by_hand import ByHand, by_hand
from benchmarks.databases import Databases, Place, any_of, text_of
from benchmarks.measure import Call, in_turn
from benchmarks.report import Column, Report, Table, microseconds, timings_table
from benchmarks.scale import Scale
from benchmarks.wire import BARE, HELLO, OURS, connected
from chat_service.service import ChatService
from models.database import Database
from models.ids import SessionId
from models.inputs import NewMessage

_BATCHES = (1, 10, 100)
_TASKS = (1, 16, 64)
_PROCESSES = 4


async def run(databases: Databases, scale: Scale) -> Report:
    """Measure all of it."""
    report = Report()
    for part in (_one_at_a_time, _flat, _through_mcp, _in_batches):
        await part(databases, scale, report)
    return report


def append_to(service: ChatService, place: Place, sessions: Sequence[SessionId], size: int = 1) -> Call:
    """Make the call that appends so many messages to the sessions by turns."""
    turns, numbers = cycle(sessions), iter(range(10**9))

    async def one() -> None:
        await service.add_message(place.user_id, next(turns), message_of(next(numbers)))

    async def several() -> None:
        messages = [message_of(number) for number in islice(numbers, size)]
        await service.add_messages(place.user_id, next(turns), messages)

    return one if size == 1 else several


def message_of(number: int) -> NewMessage:
    """Make a message of 400 bytes."""
    return NewMessage(role="user", content=text_of(number))


async def _one_at_a_time(databases: Databases, scale: Scale, report: Report) -> None:
    async with AsyncExitStack() as stack:
        hand_place, place = databases.large("hand"), databases.large("service")
        hand = stack.enter_context(by_hand(hand_place.path))
        service = ChatService(await stack.enter_async_context(Database(place.url)))
        takes: dict[str, Call] = {}
        floors: dict[str, str] = {}
        for what, sessions in (
            ("a session that begins with 10", [place.short]),
            ("a session of 10,000", [place.long]),
            ("another session each time", any_of(place)),
        ):
            floor, ours = f"by hand, {what}", f"ChatService, {what}"
            floors |= {floor: floor, ours: floor}
            takes[floor] = _append_by_hand(hand, sessions)
            takes[ours] = append_to(service, place, sessions)
        timings = await in_turn(takes, scale.rounds, scale.calls)
    title = f"One append, one caller, in a database of {scale.messages:,} messages"
    report.tables.append(timings_table(title, timings, floors))
    report.figures["append.service"] = max(timings[name].over(timings[floor]) for name, floor in floors.items())


async def _flat(databases: Databases, scale: Scale, report: Report) -> None:
    async with AsyncExitStack() as stack:
        takes: dict[str, Call] = {}
        names = "in a database of 1,000 messages", f"in a database of {scale.messages:,} messages"
        for name, place in zip(names, (databases.small("service"), databases.large("service")), strict=True):
            service = ChatService(await stack.enter_async_context(Database(place.url)))
            takes[name] = append_to(service, place, [place.others[0]])
        timings = await in_turn(takes, scale.rounds, scale.calls)
    report.tables.append(timings_table("Appending stays flat, ChatService", timings, dict.fromkeys(names, names[0])))
    report.figures["append.flat"] = timings[names[1]].over(timings[names[0]])


async def _through_mcp(databases: Databases, scale: Scale, report: Report) -> None:
    async with AsyncExitStack() as stack:
        place = databases.large("server")
        hello = await stack.enter_async_context(connected(HELLO))
        bare = await stack.enter_async_context(connected(BARE))
        ours = await stack.enter_async_context(connected(OURS, place.environment))
        numbers = iter(range(10**9))

        def add() -> Call:
            async def call() -> None:
                message = {"role": "user", "content": text_of(next(numbers))}
                await ours.call("add_messages", {"session_id": place.long, "messages": [message]})

            return call

        takes: dict[str, Call] = {
            "a tool that does nothing": lambda: hello.call("nothing", {}),
            "the same on the SDK's low-level server": lambda: bare.call("nothing", {}),
            "add_messages": add(),
        }
        timings = await in_turn(takes, scale.rounds, scale.calls)
    floors = dict.fromkeys(takes, "a tool that does nothing")
    report.tables.append(timings_table("One append through MCP over stdio", timings, floors))
    report.figures["append.mcp"] = timings["add_messages"].over(timings["a tool that does nothing"])


async def _in_batches(databases: Databases, scale: Scale, report: Report) -> None:
    async with AsyncExitStack() as stack:
        place = databases.large("hand")
        hand = stack.enter_context(by_hand(place.path))
        service_place = databases.large("service")
        service = ChatService(await stack.enter_async_context(Database(service_place.url)))
        takes: dict[str, Call] = {}
        for size in _BATCHES:
            takes[f"by hand, {size}"] = _append_by_hand(hand, [place.long], size)
            takes[f"ChatService, {size}"] = append_to(service, service_place, [service_place.long], size)
        timings = await in_turn(takes, scale.rounds, scale.calls)
    columns = (
        Column("median µs"),
        Column("p95 µs"),
        Column("p99 µs"),
        Column("× floor", 2),
        Column("× as many alone", 3),
    )
    table = Table("One transaction of so many messages", columns)
    for kind in ("by hand", "ChatService"):
        for size in _BATCHES:
            taken = timings[f"{kind}, {size}"]
            ratios = taken.over(timings[f"by hand, {size}"]), taken.over(timings[f"{kind}, 1"]) / size
            table.rows.append([f"{kind}, {size}", *microseconds(taken), *ratios])
    report.tables.append(table)
    report.figures["append.batch"] = timings["ChatService, 100"].over(timings["ChatService, 1"]) / 100


def _append_by_hand(hand: ByHand, sessions: Sequence[SessionId], size: int = 1) -> Call:
    turns, numbers = cycle(sessions), iter(range(10**9))

    async def call() -> None:
        await hand.append(next(turns), [text_of(number) for number in islice(numbers, size)])

    return call
