"""What must be reached: ratios within one run, and what the run has seen of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.report import Column, Table


@dataclass(frozen=True)
class Target:
    """A bound on one of the figures; `at_least` where it is the least, else it is the most."""

    figure: str
    what: str
    bound: float
    at_least: bool = False
    strictly: bool = False

    def is_reached(self, seen: float) -> bool:
        """Tell whether a figure keeps to the bound."""
        if self.strictly:
            return seen > self.bound if self.at_least else seen < self.bound
        return seen >= self.bound if self.at_least else seen <= self.bound

    @property
    def words(self) -> str:
        """The bound in words."""
        side = "at least" if self.at_least else "at most"
        if self.strictly:
            side = "more than" if self.at_least else "less than"
        return f"{side} {self.bound:g}"


TARGETS = (
    Target("append.service", "ChatService append ÷ the transaction by hand", 3),
    Target("append.mcp", "append through MCP stdio ÷ a tool that does nothing", 1.6),
    Target("append.tasks.16.one", "16 tasks on one session, rate ÷ ungrouped", 4, at_least=True),
    Target("append.tasks.16.each", "16 tasks, a session each, rate ÷ ungrouped", 4, at_least=True),
    Target("append.tasks.64.one", "64 tasks on one session, rate ÷ ungrouped", 6, at_least=True),
    Target("append.tasks.64.each", "64 tasks, a session each, rate ÷ ungrouped", 6, at_least=True),
    Target("append.lone", "a lone caller ÷ ungrouped", 1.06),
    Target("append.batch", "a batch of 100 ÷ 100 single appends", 0.05),
    Target("append.flat", "append in the large database ÷ in one of 1,000", 1.15),
    Target("append.processes.errors", "four processes: errors", 0),
    Target("append.processes.fairness", "four processes: slowest ÷ fastest", 0.4, at_least=True),
    Target("append.processes.longest", "four processes: longest wait, seconds", 0.5, strictly=True),
    Target("history.last", "last 50 ÷ by hand", 6),
    Target("history.mcp", "last 50 through MCP stdio ÷ a tool that does nothing", 1.6),
    Target("history.whole", "10,000 entries ÷ by hand", 2),
    Target("history.flat", "last 50 in the large database ÷ in one of 1,000", 1.15),
    Target("cold.handshake", "start to the handshake ÷ the SDK's hello-world", 1.3),
    Target("cold.first_tool", "start to the first tool's answer ÷ the SDK's hello-world", 1.5),
    Target("cold.memory", "memory after it ÷ the SDK's hello-world", 1.35),
    Target("peers.append.openai-sqlalchemy", "append: OpenAI Agents SQLAlchemySession ÷ ours", 5, at_least=True),
    Target("peers.append.google-adk", "append: ADK DatabaseSessionService ÷ ours", 8, at_least=True),
    Target("peers.append.openai-sqlite", "append: OpenAI Agents SQLiteSession ÷ ours", 1, at_least=True),
    Target("peers.tasks.openai-sqlite", "16 tasks: ours ÷ OpenAI Agents SQLiteSession, rate", 6, at_least=True),
    Target("peers.last", "last 50: the fastest peer ÷ ours", 1, at_least=True, strictly=True),
    Target("peers.bytes", "bytes on disk ÷ the text, messages of 400 bytes", 1.3),
)


def held_against(figures: Mapping[str, float]) -> Table:
    """Return what must be reached beside what was seen; what was not run is left out."""
    table = Table("What must be reached", (Column("must be"), Column("seen", 3), Column("")))
    for target in TARGETS:
        seen = figures.get(target.figure)
        if seen is not None:
            verdict = "reached" if target.is_reached(seen) else "NOT reached"
            table.rows.append([target.what, target.words, seen, verdict])
    return table
