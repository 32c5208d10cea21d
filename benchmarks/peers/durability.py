"""What is still there when several processes append to one store: `python -m benchmarks.peers.durability`.

The load is the same for each: P processes, each with a client of its own on the same file, append N texts of 400 bytes
each, one after the other, and note which of them were acknowledged: the call returned without an error. The store is
made beforehand by another process, and all have opened it and read it once before any begins, as a run of an agent
does. What failed is not repeated. At the end a fresh process reads everything back with the store's own functions. Each
round has a fresh file, and the stores take turns.

Every store runs as its documentation shows it for a file on one machine, with no setting changed:

- ours: each client starts the server over stdio, as MCP clients do; one session, a message a call, idempotency keys.
- server-memory: the official memory server, started the same way by the same client, with MEMORY_FILE_PATH; an entity
  a call. Its documentation speaks of one memory file, and each client that is configured with it starts a process.
- langgraph: AsyncSqliteSaver.from_conn_string; a checkpoint a call into one thread. By design one run at a time
  works on a thread: a checkpoint is a whole state, and processes that run side by side make branches, of which the
  newest alone is what the next run sees. What is counted are all checkpoints that `alist` gives, which is the most that
  can be said for it, and each holds only its own text rather than the whole state. It warns of its use in production.
- openai-agents: SQLiteSession with a file; `add_items` with one item. Nothing is said of several processes.
- google-adk: DatabaseSessionService on sqlite+aiosqlite; an event a call. By design one process at a time works on a
  session: whoever has not seen the newest event is refused as stale, before anything is written. Without more, a
  process keeps the session that it got first. In google-adk-reload it gets the session again and repeats the append,
  as the error asks, at most 100 times; each refusal counts as an error. It is the only one that repeats anything.

Several clients on one session are what happens when a person has two of them open, so that is the load even where the
design is for one. "stored" counts acknowledged appends that were found, "unacknowledged" those found though the call
had failed; "misordered" those that came back before one that the same process had appended earlier. "seconds" runs from
the common start to the last acknowledgement. It is no comparison of speed: ours and server-memory answer over a pipe
from a process of their own, the others are libraries in the process itself, and server-memory does not wait for the
disk. No process is killed and no power cut here: what is compared is only what processes do to each other.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.peers.load import APPEND, CREATE, READ, READY, Appended, Plan, describe, text_of
from benchmarks.peers.stores import ADK, LANGGRAPH, MEMORY, OPENAI, OURS, Peer, ask, end, line, start
from tests.clients.environments import Failed, needs_npm

_SECONDS_FOR_A_ROUND = 300.0

PEERS = (
    OURS,
    Peer("server-memory", "worker_server_memory", MEMORY),
    Peer("langgraph", "worker_langgraph", LANGGRAPH),
    Peer("openai-agents", "worker_openai_agents", OPENAI),
    Peer("google-adk", "worker_google_adk", ADK),
    Peer("google-adk-reload", "worker_google_adk", ADK, "reload"),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one round."""

    acknowledged: int
    stored: int
    lost: int
    duplicated: int
    misordered: int
    unacknowledged: int
    errors: int
    seconds: float
    first_error: str | None


def main() -> int:
    """Run what the arguments name, print a table, and return how to exit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.durability", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", metavar="NAME", choices=[peer.name for peer in PEERS], action="append")
    parser.add_argument("--processes", type=int, default=4, help="how many append at the same time")
    parser.add_argument("--appends", type=int, default=50, help="how many each of them appends")
    parser.add_argument("--rounds", type=int, default=3, help="how often each store is taken")
    arguments = parser.parse_args()
    peers = [peer for peer in PEERS if arguments.only is None or peer.name in arguments.only]
    needing = [peer.name for peer in peers if needs_npm(peer.environment)]
    if needing and not (shutil.which("npm") and shutil.which("node")):
        print(f"npm is needed for {', '.join(needing)}: install Node.js, or name others with --only.", file=sys.stderr)
        return 1
    for peer in peers:
        print(f"{peer.name}: setting up", file=sys.stderr, flush=True)
        peer.environment.set_up()
    outcomes: dict[str, list[Outcome]] = {peer.name: [] for peer in peers}
    failed: dict[str, str] = {}
    for index in range(arguments.rounds):
        for peer in peers:
            print(f"{peer.name}: round {index + 1}", file=sys.stderr, flush=True)
            try:
                outcomes[peer.name].append(asyncio.run(_round(peer, arguments.processes, arguments.appends)))
            except (Failed, TimeoutError) as failure:
                failed[peer.name] = describe(failure)
    print(
        f"{arguments.processes} processes × {arguments.appends} appends of {len(text_of(0, 0))} bytes to one store; "
        f"a value for each of {arguments.rounds} rounds, or one where all are the same"
    )
    _print_table(peers, outcomes)
    for name, why in failed.items():
        print(f"{name} did not end a round: {why}")
    return 1 if failed else 0


async def _round(peer: Peer, processes: int, appends: int) -> Outcome:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        plan = Plan(CREATE, (Path(folder) / "store").as_posix(), peer.command, peer.mode)
        async with asyncio.timeout(_SECONDS_FOR_A_ROUND):
            handle = await ask(peer, plan)
            plan = replace(plan, handle=handle, task=APPEND, appends=appends)
            appended, seconds = await _append(peer, [replace(plan, process=index) for index in range(processes)])
            first_errors = [each.first_error for each in appended if each.first_error is not None]
            errors = sum(each.errors for each in appended)
            try:
                found = await ask(peer, replace(plan, task=READ))
            except Failed as failure:
                # What cannot be read is lost to its users.
                found, errors = [], errors + 1
                first_errors.append(f"reading back: {failure}")
    return _outcome(appended, found, errors, first_errors[0] if first_errors else None, seconds)


def _outcome(
    appended: Sequence[Appended], found: Sequence[str], errors: int, first_error: str | None, seconds: float
) -> Outcome:
    counted = Counter(found)
    places = {text: place for place, text in reversed(list(enumerate(found)))}
    acknowledged: set[str] = set()
    misordered = 0
    for process, each in enumerate(appended):
        texts = [text_of(process, number) for number in each.acknowledged]
        acknowledged.update(texts)
        latest = -1
        for text in texts:
            place = places.get(text)
            if place is None:
                continue
            misordered += place < latest
            latest = max(latest, place)
    stored = len(acknowledged & counted.keys())
    return Outcome(
        acknowledged=len(acknowledged),
        stored=stored,
        lost=len(acknowledged) - stored,
        duplicated=counted.total() - len(counted),
        misordered=misordered,
        unacknowledged=len(counted.keys() - acknowledged),
        errors=errors,
        seconds=seconds,
        first_error=first_error,
    )


async def _append(peer: Peer, plans: Sequence[Plan]) -> tuple[list[Appended], float]:
    """Let all workers begin together; return what each was told, and the seconds until the last one was done."""
    processes: list[Process] = []
    try:
        for plan in plans:
            processes.append(await start(peer, plan))  # noqa: PERF401 - each is known, and ended, once it runs.
        for process in processes:
            if await line(process) != READY:
                raise Failed("a worker did something else before it was ready")
        began = time.perf_counter()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")
        reports = await asyncio.gather(*map(line, processes))
        seconds = time.perf_counter() - began
        for process in processes:
            await end(process)
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return [Appended(**report) for report in reports], seconds


def _print_table(peers: Sequence[Peer], outcomes: dict[str, list[Outcome]]) -> None:
    counts = ("acknowledged", "stored", "lost", "duplicated", "misordered", "unacknowledged", "errors")
    rows = [["store", "version", *counts, "seconds", "first error"]]
    for peer in peers:
        taken = outcomes[peer.name]
        cells = [_cell([str(getattr(outcome, count)) for outcome in taken]) for count in counts]
        seconds = _cell([f"{outcome.seconds:.1f}" for outcome in taken])
        first_error = next((outcome.first_error for outcome in taken if outcome.first_error), "-")
        rows.append([peer.name, peer.version, *cells, seconds, first_error])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _cell(values: Sequence[str]) -> str:
    return " / ".join(values if len(set(values)) > 1 else values[:1]) or "-"


if __name__ == "__main__":
    sys.exit(main())
