"""The load that every store gets, and how a worker takes its part of it.

A worker is one process with one client. It runs in the environment of its peer, so this file imports nothing but the
standard library. What is to be done comes as JSON in its only argument. What was done goes to its standard output, one
JSON value a line; an appending worker first says READY there, and begins when a line comes in.
"""

import asyncio
import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from typing import Any

READY = "ready"
CREATE, APPEND, READ, PACE = "create", "append", "read", "pace"

_LENGTH = 400
_LAST = 50
_MOST_TRIES = 100
_LONGEST_ERROR = 70


@dataclass(frozen=True)
class Plan:
    """What a worker is to do: `store` is the path of the file, `handle` what creating it returned."""

    task: str
    store: str
    command: list[str]
    mode: str = ""
    handle: str = ""
    process: int = 0
    appends: int = 0


@dataclass(frozen=True)
class Appended:
    """What one worker was told: the numbers that were acknowledged, in that order, and what failed."""

    acknowledged: list[int]
    errors: int
    first_error: str | None


class Store(ABC):
    """One client of a store."""

    @abstractmethod
    async def create(self) -> str:
        """Make what is shared by all, and return what the others need to find it."""

    @abstractmethod
    async def append(self, text: str) -> None:
        """Append a text; returns when the store says that it has it, and raises when it says anything else."""

    @abstractmethod
    async def read(self) -> list[str]:
        """Return every text there is, in the order in which the store gives them."""

    async def fill(self, texts: Sequence[str]) -> None:
        """Append many texts in this order, in the quickest way that the store has."""
        for text in texts:
            await self.append(text)

    async def last(self, count: int) -> list[str]:
        """Return the last texts, in the way that the store has for it."""
        return (await self.read())[-count:]

    async def settle(self) -> None:
        """Do what the store has put off, so that it does not fall into another's turn."""
        return

    async def recover(self, error: Exception) -> bool:
        """Return whether the append is to be tried again, as the store's documentation asks after this error."""
        del error
        return False


Open = Callable[[Plan], AbstractAsyncContextManager[Store]]


def text_of(process: int, number: int) -> str:
    """Return the text of one append; no other has the same."""
    start = f"Append {number} of process {process}: "
    return (start + "what was said is to be found again. " * _LENGTH)[:_LENGTH]


def describe(error: BaseException) -> str:
    """Return the type of an error and the beginning of its text, on one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_LONGEST_ERROR]}{'…' * (len(text) > _LONGEST_ERROR)}"


def run(open_store: Open) -> None:
    """Do what the command line says, with the store that the function opens."""
    asyncio.run(_run(open_store, Plan(**json.loads(sys.argv[1]))))


async def _run(open_store: Open, plan: Plan) -> None:
    if plan.task == APPEND:
        await _append(open_store, plan)
        return
    if plan.task == PACE:
        await _pace(open_store, plan)
        return
    async with open_store(plan) as store:
        _say(await (store.create() if plan.task == CREATE else store.read()))


async def _append(open_store: Open, plan: Plan) -> None:
    acknowledged: list[int] = []
    errors: list[str] = []
    opened = False
    try:
        async with open_store(plan) as store:
            opened = True
            try:
                # As a run of an agent begins; whoever opens its files late has done so afterwards.
                await store.read()
            except Exception as error:
                errors.append(describe(error))
            await _wait_for_the_others()
            for number in range(plan.appends):
                await _append_one(store, plan, number, acknowledged, errors)
            # Before the client is closed: closing is no part of the load.
            _say(_appended(acknowledged, errors))
    except Exception as error:
        if opened:
            raise
        # One that cannot even be opened appends nothing, while the others do.
        errors.append(describe(error))
        await _wait_for_the_others()
        _say(_appended(acknowledged, errors))


async def _append_one(store: Store, plan: Plan, number: int, acknowledged: list[int], errors: list[str]) -> None:
    for _ in range(_MOST_TRIES):
        try:
            await store.append(text_of(plan.process, number))
        except Exception as error:
            errors.append(describe(error))
            if not await store.recover(error):
                return
        else:
            acknowledged.append(number)
            return


async def _pace(open_store: Open, plan: Plan) -> None:
    """Do what each line that comes in asks for, and say how long each call took, in seconds; end with the lines."""
    async with open_store(plan) as store:
        numbers = iter(range(10**9))

        async def append() -> None:
            await store.append(text_of(plan.process, next(numbers)))

        async def last() -> None:
            await store.last(_LAST)

        _say(READY)
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            match order["do"]:
                case "fill":
                    await store.fill([text_of(plan.process, next(numbers)) for _ in range(order["count"])])
                    await store.settle()
                    _say({"found": len(await store.last(_LAST))})
                case "append":
                    _say(await _timed(append, order["calls"]))
                case "last":
                    _say(await _timed(last, order["calls"]))
                case "together":
                    told = await _together(append, order["tasks"], order["seconds"])
                    await store.settle()
                    _say(told)


async def _timed(call: Callable[[], Awaitable[None]], calls: int) -> list[float]:
    taken: list[float] = []
    for _ in range(calls):
        began = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - began)
    return taken


async def _together(call: Callable[[], Awaitable[None]], tasks: int, seconds: float) -> dict[str, Any]:
    taken: list[float] = []
    errors: list[str] = []
    start = time.perf_counter()

    async def task() -> None:
        while (began := time.perf_counter()) < start + seconds:
            try:
                await call()
            except Exception as error:
                errors.append(describe(error))
            else:
                taken.append(time.perf_counter() - began)

    await asyncio.gather(*(task() for _ in range(tasks)))
    return {"rate": len(taken) / (time.perf_counter() - start), "seconds": taken, "errors": len(errors)}


async def _wait_for_the_others() -> None:
    _say(READY)
    await asyncio.to_thread(sys.stdin.readline)


def _appended(acknowledged: list[int], errors: list[str]) -> dict[str, Any]:
    return asdict(Appended(acknowledged, len(errors), errors[0] if errors else None))


def _say(value: Any) -> None:
    print(json.dumps(value), flush=True)
