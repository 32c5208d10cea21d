"""How large a run is: the same benchmarks in seconds, in minutes, or longer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Counts of a run.

    `rounds` × `calls` timings are taken of each alternative; a load of concurrent tasks runs for `seconds`, `turns`
    times. `messages` and `sessions` are those of the large database.
    """

    name: str
    messages: int
    sessions: int
    rounds: int
    calls: int
    turns: int
    seconds: float
    process_seconds: float
    starts: int
    peer_sizes: tuple[int, ...]
    peer_rounds: int


SMALL = Scale("small", 50_000, 500, 5, 10, 3, 0.1, 1.0, 3, (10, 1_000), 2)
NORMAL = Scale("normal", 1_000_000, 10_000, 40, 10, 9, 0.3, 4.0, 15, (10, 1_000), 30)
FULL = Scale("full", 1_000_000, 10_000, 200, 10, 25, 0.5, 10.0, 40, (10, 1_000, 10_000), 60)
