"""Reading back: the last 50 entries and a long session whole; by hand, through ChatService, through MCP."""

import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import cycle

from benchmarks.by_hand import ByHand, by_hand
from benchmarks.databases import Databases, Place, any_of
from benchmarks.measure import Call, in_turn
from benchmarks.report import Report, timings_table
from benchmarks.scale import Scale
from benchmarks.wire import BARE, HELLO, OURS, Wire, connected
from chat_service.limits import MAX_PAGE
from chat_service.service import ChatService
from models.database import Database
from models.ids import SessionId

_LAST = 50


async def run(databases: Databases, scale: Scale) -> Report:
    """Measure all of it."""
    report = Report()
    for part in (_last, _flat, _last_through_mcp, _whole):
        await part(databases, scale, report)
    return report


async def _last(databases: Databases, scale: Scale, report: Report) -> None:
    place = databases.large("history")
    async with AsyncExitStack() as stack:
        hand = stack.enter_context(by_hand(place.path))
        service = ChatService(await stack.enter_async_context(Database(place.url)))
        takes: dict[str, Call] = {}
        floors: dict[str, str] = {}
        sample = any_of(place)
        for what, sessions in (
            ("one session", [place.others[0]]),
            ("a session of 10,000", [place.long]),
            ("another session each time", sample),
        ):
            floor, ours = f"by hand, {what}", f"ChatService, {what}"
            floors |= {floor: floor, ours: floor}
            takes[floor] = _last_by_hand(hand, sessions)
            takes[ours] = _last_of(service, place, sessions)
        timings = await in_turn(takes, scale.rounds, scale.calls)
    title = f"The last {_LAST} entries, in a database of {scale.messages:,} messages in {scale.sessions:,} sessions"
    report.tables.append(timings_table(title, timings, floors))
    report.figures["history.last"] = max(
        timings[f"ChatService, {what}"].over(timings[f"by hand, {what}"])
        for what in ("one session", "a session of 10,000")
    )


async def _flat(databases: Databases, scale: Scale, report: Report) -> None:
    async with AsyncExitStack() as stack:
        takes: dict[str, Call] = {}
        names = "in a database of 1,000 messages", f"in a database of {scale.messages:,} messages"
        for name, place in zip(names, (databases.small("history"), databases.large("history")), strict=True):
            service = ChatService(await stack.enter_async_context(Database(place.url)))
            takes[name] = _last_of(service, place, [place.others[0]])
        timings = await in_turn(takes, scale.rounds, scale.calls)
    title = f"Reading the last {_LAST} entries stays flat, ChatService"
    report.tables.append(timings_table(title, timings, dict.fromkeys(names, names[0])))
    report.figures["history.flat"] = timings[names[1]].over(timings[names[0]])


async def _last_through_mcp(databases: Databases, scale: Scale, report: Report) -> None:
    place = databases.large("history")
    async with AsyncExitStack() as stack:
        hello = await stack.enter_async_context(connected(HELLO))
        bare = await stack.enter_async_context(connected(BARE))
        ours = await stack.enter_async_context(connected(OURS, place.environment))
        session = {"session_id": place.others[0]}
        takes: dict[str, Call] = {
            "a tool that does nothing": lambda: hello.call("nothing", {}),
            "the same on the SDK's low-level server": lambda: bare.call("nothing", {}),
            "get_session_history, concise": lambda: ours.call("get_session_history", session),
            "get_session_history, detailed": lambda: ours.call(
                "get_session_history", {**session, "detail": "detailed"}
            ),
        }
        timings = await in_turn(takes, scale.rounds, scale.calls)
    floor = "a tool that does nothing"
    title = f"The last {_LAST} entries through MCP over stdio, as many of them as one result holds"
    report.tables.append(timings_table(title, timings, dict.fromkeys(takes, floor)))
    report.figures["history.mcp"] = timings["get_session_history, concise"].over(timings[floor])


async def _whole(databases: Databases, scale: Scale, report: Report) -> None:
    place = databases.large("history")
    async with AsyncExitStack() as stack:
        hand = stack.enter_context(by_hand(place.path))
        service = ChatService(await stack.enter_async_context(Database(place.url)))
        ours = await stack.enter_async_context(connected(OURS, place.environment))
        count = len(await hand.all(place.long))
        assert await _read_whole(service, place) == await _read_whole_through_mcp(ours, place) == count
        takes: dict[str, Call] = {
            "by hand": lambda: hand.all(place.long),
            f"ChatService, in pages of {MAX_PAGE}": lambda: _read_whole(service, place),
            "get_session_history, detailed, in results of 20,000 characters": lambda: _read_whole_through_mcp(
                ours, place
            ),
        }
        timings = await in_turn(takes, max(3, scale.rounds // 4), 1)
    title = f"A session of {count:,} entries read whole"
    report.tables.append(timings_table(title, timings, dict.fromkeys(takes, "by hand")))
    report.figures["history.whole"] = timings[f"ChatService, in pages of {MAX_PAGE}"].over(timings["by hand"])


def _last_by_hand(hand: ByHand, sessions: Sequence[SessionId]) -> Call:
    turns = cycle(sessions)
    return lambda: hand.last(next(turns), _LAST)


def _last_of(service: ChatService, place: Place, sessions: Sequence[SessionId]) -> Call:
    turns = cycle(sessions)
    return lambda: service.get_session_history(place.user_id, next(turns), _LAST)


async def _read_whole(service: ChatService, place: Place) -> int:
    after_seq = read = 0
    while True:
        window = await service.get_session_history(place.user_id, place.long, MAX_PAGE, after_seq=after_seq)
        read += len(window["entries"])
        after_seq = window["after_seq"]
        if not window["newer"]:
            return read


async def _read_whole_through_mcp(wire: Wire, place: Place) -> int:
    after_seq = read = 0
    while True:
        asked = {"session_id": place.long, "after_seq": after_seq, "detail": "detailed"}
        window = json.loads(await wire.call("get_session_history", asked))["result"]["structuredContent"]
        read += len(window["entries"])
        after_seq = window["after_seq"]
        if not window["newer"]:
            return read
