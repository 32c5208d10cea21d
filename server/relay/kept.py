"""What another process would need in the place of the one that records: what that left, and the copies since."""

from collections import deque

from server.relay.copies import Copy, Kind, gap, missing_from

KEPT_BYTES = 32 * 1_048_576
"""So many bytes of copies are kept at most; of more, the oldest would be missing for the next process."""


class Kept:
    """Keeps copies that were handed over; who shares it between threads lets one at a time use it."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._limit = limit
        self._state = b""
        self._notes: list[bytes] = []
        self._copies: deque[Copy] = deque()
        self._bytes = 0
        # Of the copies that the present process was given, so many are no longer kept.
        self._let_go = 0
        self._missing = [0, 0]

    @property
    def has_copies(self) -> bool:
        """Tell whether any copy is kept."""
        return bool(self._copies)

    def add(self, copy: Copy) -> None:
        """Keep a copy, and let go of the oldest where that is too much."""
        self._copies.append(copy)
        self._bytes += len(copy.data)
        while self._bytes > self._limit:
            self._miss(self._forget_the_oldest())

    def add_note(self, note: bytes) -> None:
        """Keep what the present process tells."""
        self._notes.append(note)

    def begin_with(self, state: bytes, seen: int) -> None:
        """Keep a state, which stands for all that was told and for the first so many copies that were given."""
        if seen < self._let_go:
            # Of what is missing, it stands for a part that nobody knows.
            return
        self._state = state
        self._notes.clear()
        self._missing = [0, 0]
        while self._let_go < seen:
            self._forget_the_oldest()

    def leave_out(self) -> int:
        """Let go of all copies but the end, and return how many bytes are missing with them."""
        end = [copy for copy in self._copies if copy.kind is Kind.END]
        while self._copies:
            self._miss(self._forget_the_oldest())
        self._copies.extend(end)
        return sum(self._missing)

    def for_another(self) -> deque[Copy]:
        """Return all that a process is to be given that takes the present one's place; it is the present one then."""
        self._let_go = 0
        for kind in (Kind.TO_CLIENT, Kind.TO_SERVER):
            if self._missing[kind]:
                # From now on it is one of the copies that are handed over.
                self._copies.appendleft(gap(kind, self._missing[kind]))
                self._bytes += len(self._copies[0].data)
        self._missing = [0, 0]
        left = [Copy(Kind.STATE, 0, 0, self._state)] if self._state else []
        left += [Copy(Kind.NOTE, 0, 0, note) for note in self._notes]
        return deque([*left, Copy(Kind.BEGIN, 0, 0, b""), *self._copies])

    def _forget_the_oldest(self) -> Copy:
        copy = self._copies.popleft()
        self._bytes -= len(copy.data)
        self._let_go += 1
        return copy

    def _miss(self, copy: Copy) -> None:
        if copy.kind in (Kind.TO_SERVER, Kind.TO_CLIENT):
            self._missing[copy.kind] += len(copy.data)
        elif copy.kind in (Kind.GAP_TO_SERVER, Kind.GAP_TO_CLIENT):
            self._missing[copy.kind - Kind.GAP_TO_SERVER] += missing_from(copy)
