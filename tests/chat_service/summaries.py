"""Summaries made in plain Python of entries as they were read, to hold the service's own against."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from math import ceil
from typing import Any

Entry = dict[str, Any]
COUNTS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")


def summary_of_tools(records: Iterable[Entry]) -> dict[str, Any]:
    """Return what summarize_tool_usage returns of these records."""
    groups: dict[tuple[str, str | None], list[Entry]] = defaultdict(list)
    for record in records:
        groups[record["tool_name"], record["server_name"]].append(record)
    tools = [
        {
            "tool_name": tool,
            "server_name": server,
            **_outcomes(calls),
            "total_duration_ms": sum(call["duration_ms"] or 0.0 for call in calls),
            "p50_duration_ms": _percentile(calls, 50),
            "p95_duration_ms": _percentile(calls, 95),
            "last_used_at": max(call["started_at"] or call["created_at"] for call in calls),
        }
        for (tool, server), calls in groups.items()
    ]
    tools.sort(key=lambda tool: (-tool["calls"], tool["tool_name"], tool["server_name"] or ""))
    everything = [call for calls in groups.values() for call in calls]
    return {**_outcomes(everything), "tools": tools, "left_out": 0}


def summary_of_tokens(messages: Iterable[Entry], by: str, offset_minutes: int = 0) -> dict[str, Any]:
    """Return what summarize_token_usage returns of these messages, its totals by name."""
    name_of: dict[str, Callable[[Entry], Any]] = {
        "model": lambda message: message["model"],
        "day": lambda message: _day(message, offset_minutes),
        "session": lambda message: message["session_id"],
    }
    answers = [each for each in messages if each["message_type"] == "assistant" or each["usage"] is not None]
    groups: dict[str | None, list[Entry]] = defaultdict(list)
    for message in answers:
        groups[name_of[by](message)].append(message)
    totals = {name: _costs(each) for name, each in groups.items()}
    return {"by": by, **_costs(answers), "totals": totals, "left_out": 0}


def _outcomes(calls: list[Entry]) -> dict[str, int]:
    statuses = [call["status"] for call in calls]
    return {"calls": len(calls), "errors": statuses.count("error"), "unknown": statuses.count("unknown")}


def _percentile(calls: list[Entry], percent: int) -> float | None:
    known = sorted(call["duration_ms"] for call in calls if call["duration_ms"] is not None)
    return known[ceil(len(known) * percent / 100) - 1] if known else None


def _day(message: Entry, offset_minutes: int) -> str:
    said = (message["message_metadata"] or {}).get("timestamp") if message["author"] == "import" else None
    moment = datetime.fromisoformat(said or message["created_at"])
    return (moment + timedelta(minutes=offset_minutes)).date().isoformat()


def _costs(messages: list[Entry]) -> dict[str, int]:
    usages = [message["usage"] or {} for message in messages]
    return {
        "messages": len(messages),
        "without_figures": sum(not usage for usage in usages),
        **{name: sum(usage.get(name, 0) for usage in usages) for name in COUNTS},
    }
