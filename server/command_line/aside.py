"""An event loop on a thread of its own: the main thread reads lines and hears signals, whatever is being awaited."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

Result = TypeVar("Result")


class Aside:
    """Runs coroutines beside the thread that asks for them."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="beside the terminal")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def start(
        self, coroutine: Coroutine[Any, Any, Result], at_end: Callable[[asyncio.Task[Result]], None]
    ) -> asyncio.Task[Result]:
        """Start a coroutine and return its task; `at_end` is called on the other thread, however it ends."""

        async def begin() -> asyncio.Task[Result]:
            task = asyncio.create_task(coroutine)
            task.add_done_callback(at_end)
            return task

        return self.run(begin())

    def cancel(self, task: asyncio.Task[Any]) -> None:
        """Cancel a task that was started here."""
        self._loop.call_soon_threadsafe(task.cancel)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
