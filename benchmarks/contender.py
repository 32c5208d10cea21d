"""One of several processes that append to one session: says when it is ready, begins at a word, tells what it saw."""

import asyncio
import json
import sys
import time
from typing import Any

from benchmarks.databases import text_of
from chat_service.service import ChatService
from models.database import Database
from models.errors import ChatError
from models.ids import SessionId, UserId
from models.inputs import NewMessage


async def contend(order: dict[str, Any]) -> None:
    """Append one by one for so many seconds."""
    user_id, session_id = UserId(order["user"]), SessionId(order["session"])
    taken: list[float] = []
    errors = 0
    async with Database(order["url"]) as database:
        service = ChatService(database)
        await service.get_session(user_id, session_id)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        end = time.perf_counter() + order["seconds"]
        while (began := time.perf_counter()) < end:
            try:
                await service.add_message(user_id, session_id, NewMessage(role="user", content=text_of(len(taken))))
            except ChatError:
                errors += 1
            taken.append(time.perf_counter() - began)
    print(json.dumps({"seconds": taken, "errors": errors}), flush=True)


if __name__ == "__main__":
    asyncio.run(contend(json.loads(sys.argv[1])))
