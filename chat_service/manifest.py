"""The manifest of a context: what it holds of its session, what it leaves out, and the calls that read the rest."""

from collections.abc import Iterable, Sequence

from chat_service.limits import MAX_PAGE
from chat_service.turns import Turn
from models.ids import SessionId
from models.shapes import CutDict, LeftOutDict, ManifestDict


def manifest_of(session_id: SessionId, last_seq: int, turns: Sequence[Turn], *, with_reasoning: bool) -> ManifestDict:
    """Return the manifest of a window of these turns; `with_reasoning` where its shape gives reasoning."""
    shown = ranges({seq for turn in turns for seq in turn.seqs})
    left_out = [_left_out(session_id, *gap) for gap in gaps(shown, last_seq)]
    count = sum(gap["entries"] for gap in left_out)
    calls = [call for turn in turns for call in turn.calls]
    return {
        "last_seq": last_seq,
        "entries_shown": last_seq - count,
        "entries_left_out": count,
        "shown": shown,
        "left_out": left_out,
        "cut": [_cut(session_id, seq) for seq in sorted({seq for turn in turns for seq in turn.cut_seqs})],
        "corrected": [[turn.seq, turn.read_seq] for turn in turns if turn.read_seq != turn.seq],
        "reasoning_left_out": [] if with_reasoning else [turn.seq for turn in turns if turn.reasoning.text],
        "tool_names": {call.name: call.given_name for call in calls if call.given_name not in (None, call.name)},
        "tool_call_ids": {call.id: call.given_id for call in calls if call.given_id not in (None, call.id)},
    }


def ranges(seqs: Iterable[int]) -> list[list[int]]:
    """Write numbers as ranges, both ends included."""
    found: list[list[int]] = []
    for seq in sorted(seqs):
        if found and found[-1][1] == seq - 1:
            found[-1][1] = seq
        else:
            found.append([seq, seq])
    return found


def gaps(shown: Sequence[Sequence[int]], last: int) -> list[tuple[int, int]]:
    """Return the ranges from 1 to the last that are in none of these."""
    ends = [0, *(each[1] for each in shown)]
    beginnings = [*(each[0] for each in shown), last + 1]
    return [(end + 1, begin - 1) for end, begin in zip(ends, beginnings, strict=True) if begin - end > 1]


def _left_out(session_id: SessionId, first: int, last: int) -> LeftOutDict:
    entries = last - first + 1
    arguments = {"session_id": session_id, "after_seq": first - 1, "limit": min(entries, MAX_PAGE)}
    return {
        "first_seq": first,
        "last_seq": last,
        "entries": entries,
        "read": {"tool": "get_session_history", "arguments": arguments},
    }


def _cut(session_id: SessionId, seq: int) -> CutDict:
    return {
        "seq": seq,
        "read": {"tool": "get_session_history", "arguments": {"session_id": session_id, "entry_seq": seq}},
    }
