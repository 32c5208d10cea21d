# mypy: ignore-errors
# It runs in an environment of its own: its packages are not in ours.
"""LangGraph's AsyncSqliteSaver as a graph uses it: each checkpoint is the whole state, a list of messages."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from benchmarks.peers.load import Plan, Store, run

THREAD = {"configurable": {"thread_id": "shared", "checkpoint_ns": ""}}
MOST_STEPS = 1_000


class LangGraphState(Store):
    """Appends a text to the state, and puts the state."""

    def __init__(self, saver: AsyncSqliteSaver) -> None:
        self._saver = saver
        self._newest = THREAD
        self._step = 0
        self._texts: list[str] = []

    async def create(self) -> str:
        assert await self._saver.aget_tuple(THREAD) is None
        return ""

    async def append(self, text: str) -> None:
        self._texts.append(text)
        await self._put()

    async def fill(self, texts: Sequence[str]) -> None:
        # Ten thousand states, each whole, would fill the disk: of so many only the last is put.
        if len(texts) > MOST_STEPS:
            self._texts += texts
            await self._put()
        else:
            await super().fill(texts)

    async def read(self) -> list[str]:
        found = await self._saver.aget_tuple(THREAD)
        return found.checkpoint["channel_values"]["messages"]

    async def _put(self) -> None:
        self._step += 1
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = {"messages": self._texts}
        checkpoint["channel_versions"] = {"messages": self._step}
        metadata = {"source": "loop", "step": self._step, "parents": {}}
        self._newest = await self._saver.aput(self._newest, checkpoint, metadata, checkpoint["channel_versions"])


@asynccontextmanager
async def open_langgraph_state(plan: Plan) -> AsyncIterator[Store]:
    async with AsyncSqliteSaver.from_conn_string(plan.store) as saver:
        yield LangGraphState(saver)


if __name__ == "__main__":
    run(open_langgraph_state)
