"""Events: after the commit, in order, to every listener; and a listener that fails disturbs nobody."""

import asyncio
from typing import Any

import pytest

from chat_service.events import Event, Events
from chat_service.service import ChatService
from models.database import Database
from models.errors import ChatError
from models.ids import SessionId, UserId, new_id
from models.inputs import NewSession, SessionChanges, UserChanges
from tests.support import done, hear, new_session, new_user, said

pytestmark = pytest.mark.anyio


async def test_each_change_of_a_session_is_told(service: ChatService, user_id: UserId) -> None:
    heard = hear(service)
    session_id = await new_session(service, user_id)
    await service.add_messages(user_id, session_id, [said(), said()])
    await service.add_tool_usage(user_id, session_id, done())
    await service.update_session(user_id, session_id, SessionChanges(title="New"))
    await service.delete_session(user_id, session_id)
    assert heard == [
        Event(user_id, session_id, "created", 0),
        Event(user_id, session_id, "appended", 2),
        Event(user_id, session_id, "appended", 3),
        Event(user_id, session_id, "updated", None),
        Event(user_id, session_id, "deleted", None),
    ]


async def test_what_changes_nothing_tells_nothing(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id, idempotency_key="k")
    heard = hear(service)
    await service.create_chat_session(user_id, NewSession(idempotency_key="k"))
    await service.update_session(user_id, session_id, SessionChanges())
    await service.update_user(user_id, UserChanges(email="a@example.org"))
    await service.get_session_history(user_id, session_id)
    refused: list[Any] = [
        service.add_message(user_id, session_id, said(), expected_seq=5),
        service.add_message(user_id, session_id, said("edit", kind="replacement", replaces_seq=5)),
        service.delete_session(UserId(new_id()), session_id),
        service.update_session(user_id, session_id, SessionChanges(status=None)),
    ]
    for call in refused:
        with pytest.raises(ChatError):
            await call
    assert heard == []


async def test_an_event_comes_after_its_commit(database_url: str) -> None:
    async with Database(database_url) as database, Database(database_url) as other:
        service, elsewhere = ChatService(database), ChatService(other)
        user_id = await new_user(service)
        session_id = await new_session(service, user_id)
        reading: list[asyncio.Task[Any]] = []

        def read_again(event: Event) -> None:
            reading.append(asyncio.create_task(elsewhere.get_session_history(user_id, session_id)))

        service.events.subscribe(read_again)
        for number in range(5):
            await service.add_message(user_id, session_id, said(str(number)))
            history = await reading[-1]
            assert [entry["seq"] for entry in history["entries"]] == list(range(1, number + 2))


async def test_events_come_in_the_order_of_the_timeline(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    heard = hear(service)
    await asyncio.gather(*(service.add_message(user_id, session_id, said()) for _ in range(100)))
    assert [event.last_seq for event in heard] == list(range(1, 101))


async def test_an_event_is_told_before_its_caller_is_answered(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    heard = hear(service)
    for number in range(1, 6):
        await service.add_message(user_id, session_id, said())
        assert len(heard) == number


async def test_a_failing_listener_disturbs_neither_the_caller_nor_the_others(
    service: ChatService, user_id: UserId, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: Event) -> None:
        raise ValueError("the secret text of somebody")

    service.events.subscribe(fail)
    heard = hear(service)
    session_id = await new_session(service, user_id)
    assert (await service.add_message(user_id, session_id, said()))["seq"] == 1
    assert [event.change for event in heard] == ["created", "appended"]
    assert caplog.messages == ["a listener failed with ValueError"] * 2
    assert "secret" not in caplog.text


def test_a_listener_hears_until_it_unsubscribes() -> None:
    events, event = Events(), Event(UserId("u"), SessionId(new_id()), "updated")
    first: list[Event] = []
    second: list[Event] = []
    end_first = events.subscribe(first.append)
    events.subscribe(second.append)
    events.publish([event])
    end_first()
    events.publish([event, event])
    assert (len(first), len(second)) == (1, 3)


def test_a_listener_may_unsubscribe_while_it_hears() -> None:
    events, event = Events(), Event(UserId("u"), SessionId(new_id()), "updated")
    heard: list[str] = []

    def hear_once(event: Event) -> None:
        heard.append("once")
        end()

    end = events.subscribe(hear_once)
    events.subscribe(lambda event: heard.append("always"))
    events.publish([event, event])
    assert heard == ["once", "always", "always"]
