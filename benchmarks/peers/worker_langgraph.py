# mypy: ignore-errors
# It runs in an environment of its own: its packages are not in ours.
"""LangGraph's AsyncSqliteSaver: each process puts checkpoints into one thread, each the child of its own last one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from benchmarks.peers.load import Plan, Store, run

THREAD = {"configurable": {"thread_id": "shared", "checkpoint_ns": ""}}


class LangGraph(Store):
    """Appends a checkpoint whose only channel holds the text."""

    def __init__(self, saver: AsyncSqliteSaver) -> None:
        self._saver = saver
        self._newest = THREAD
        self._step = 0

    async def create(self) -> str:
        # Any first call makes the tables.
        assert await self._saver.aget_tuple(THREAD) is None
        return ""

    async def append(self, text: str) -> None:
        self._step += 1
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = {"message": text}
        checkpoint["channel_versions"] = {"message": self._step}
        metadata = {"source": "loop", "step": self._step, "parents": {}}
        self._newest = await self._saver.aput(self._newest, checkpoint, metadata, checkpoint["channel_versions"])

    async def read(self) -> list[str]:
        newest_first = [found.checkpoint["channel_values"]["message"] async for found in self._saver.alist(THREAD)]
        return newest_first[::-1]


@asynccontextmanager
async def open_langgraph(plan: Plan) -> AsyncIterator[Store]:
    async with AsyncSqliteSaver.from_conn_string(plan.store) as saver:
        yield LangGraph(saver)


if __name__ == "__main__":
    run(open_langgraph)
