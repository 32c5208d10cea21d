"""What waits to be recorded, and what of it one process that records leaves to the next."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from models.ids import SessionId, utc_now

if TYPE_CHECKING:
    from models.inputs import NewToolUsage


@dataclass(slots=True, eq=False)
class Waiting:
    """An entry that is to be written, into the session that was chosen for it when that was first tried."""

    entry: "NewToolUsage"
    client: str | None
    size: int
    session_id: SessionId | None = None

    @property
    def key(self) -> str:
        """Its name among all that one relay records."""
        return self.entry.idempotency_key or ""


@dataclass(slots=True, eq=False)
class Gap:
    """Calls that are not recorded, and when they passed; once it is closed it stays as it is.

    `keys` names what it counts, as far as another process might count that again.
    """

    key: str
    calls: int = 0
    missed_bytes: int = 0
    since: str = field(default_factory=utc_now)
    until: str = ""
    session_id: SessionId | None = None
    is_closed: bool = False
    keys: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Chosen:
    """A note: the sessions that entries go into, told before they are written."""

    sessions: dict[str, SessionId]


@dataclass(slots=True)
class Settled:
    """A note: what is recorded, or counted in a gap that is."""

    keys: list[str]


@dataclass(slots=True)
class Left:
    """What a process that records leaves to the next; `sessions` and `settled` are of what that will be given again."""

    waiting: list[Waiting | Gap] = field(default_factory=list)
    lost_calls: int = 0
    lost_bytes: int = 0
    sessions: dict[str, SessionId] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)

    def take(self, note: Chosen | Settled | Gap) -> None:
        """Bring it up to date with a note of after."""
        if isinstance(note, Chosen):
            self.sessions |= note.sessions
        elif isinstance(note, Settled):
            self.settled.update(note.keys)
        else:
            self._take_gap(note)
        for each in self.waiting:
            each.session_id = self.sessions.get(each.key, each.session_id)
        self.waiting = [each for each in self.waiting if each.key not in self.settled]

    def _take_gap(self, gap: Gap) -> None:
        before = next((each for each in self.waiting if each.key == gap.key), None)
        earlier = before if isinstance(before, Gap) else Gap(gap.key)
        self.lost_calls += gap.calls - earlier.calls
        self.lost_bytes += gap.missed_bytes - earlier.missed_bytes
        self.settled.update(gap.keys)
        if before is None:
            self.waiting.append(gap)
        else:
            self.waiting[self.waiting.index(before)] = gap
