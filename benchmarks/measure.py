"""Alternatives taken in turn, so that what else the machine does hits all of them alike; the ratio is what counts.

A ratio is the median of the ratios that each round gave by itself: what slows a whole round down is not in it.
"""

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

Call = Callable[[], Awaitable[object]]
"""One call of an alternative; what it returns is not looked at."""

Load = Callable[[float], Awaitable[list[float]]]
"""A load that runs for so many seconds, and returns how long each of its calls took."""

_WARM_UP = 20


@dataclass(frozen=True)
class Timings:
    """How long the calls of one alternative took, in seconds, round by round."""

    rounds: Sequence[Sequence[float]]

    @cached_property
    def _ordered(self) -> list[float]:
        return sorted(second for each in self.rounds for second in each)

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self._ordered)

    def percentile(self, percent: float) -> float:
        """Return what so many of a hundred calls did not exceed."""
        return self._ordered[min(len(self._ordered) - 1, int(len(self._ordered) * percent / 100))]

    def over(self, floor: "Timings") -> float:
        """Return how many times the floor's these are."""
        pairs = zip(self.rounds, floor.rounds, strict=True)
        return statistics.median(statistics.median(mine) / statistics.median(other) for mine, other in pairs)


@dataclass(frozen=True)
class Rate:
    """Calls a second, turn by turn, and how long the calls took."""

    turns: Sequence[float]
    timings: Timings
    settled: Sequence[float] = ()
    """The same, where what the calls had put off is done and its time counted."""

    @property
    def per_second(self) -> float:
        """The middle one."""
        return statistics.median(self.turns)

    @property
    def settled_per_second(self) -> float:
        """The middle one with what was put off."""
        return statistics.median(self.settled)

    def over(self, other: "Rate") -> float:
        """Return how many times the other's rate this is."""
        return statistics.median(mine / its for mine, its in zip(self.turns, other.turns, strict=True))


async def in_turn(takes: Mapping[str, Call], rounds: int, calls: int) -> dict[str, Timings]:
    """Warm each up, then take each `calls` times a round, one after the other, the order turned about every round."""
    for take in takes.values():
        for _ in range(min(_WARM_UP, rounds * calls)):
            await take()
    seconds: dict[str, list[list[float]]] = {name: [] for name in takes}
    for index in range(rounds):
        order = list(takes.items())
        for name, take in order if index % 2 == 0 else reversed(order):
            seconds[name].append([])
            for _ in range(calls):
                began = time.perf_counter()
                await take()
                seconds[name][-1].append(time.perf_counter() - began)
    return {name: Timings(taken) for name, taken in seconds.items()}


async def rates_in_turn(loads: Mapping[str, Load], rounds: int, seconds: float, settle: Call) -> dict[str, Rate]:
    """Run each load for so many seconds a round, one after the other, the order turned about every round.

    After each, `settle` does what its calls have put off, so that it does not fall into another's turn.
    """
    rates: dict[str, list[float]] = {name: [] for name in loads}
    settled: dict[str, list[float]] = {name: [] for name in loads}
    taken: dict[str, list[list[float]]] = {name: [] for name in loads}
    for load in loads.values():
        await load(seconds / 4)
        await settle()
    for index in range(rounds):
        order = list(loads.items())
        for name, load in order if index % 2 == 0 else reversed(order):
            began = time.perf_counter()
            calls = await load(seconds)
            rates[name].append(len(calls) / (time.perf_counter() - began))
            await settle()
            settled[name].append(len(calls) / (time.perf_counter() - began))
            taken[name].append(calls)
    return {name: Rate(rates[name], Timings(taken[name]), settled[name]) for name in loads}
