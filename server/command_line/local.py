"""Doing something as the local user, from the command line."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from server.record import Caller, Record
from server.settings import read_settings

Result = TypeVar("Result")


def as_local_user(action: Callable[[Caller], Awaitable[Result]]) -> Result:
    """Open the record that the settings name, run the action, and close it; raises the errors of the house."""

    async def run() -> Result:
        record = Record(read_settings())
        try:
            return await action(await record.caller("command line"))
        finally:
            await record.close()

    return asyncio.run(run())
