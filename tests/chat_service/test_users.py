"""Users: one for each name or token, seen by nobody else, deleted with everything of theirs."""

import asyncio

import pytest

from chat_service.service import ChatService
from models.database import Database
from models.errors import Conflict, NotFound
from models.ids import UserId, is_id
from models.inputs import NewUser, UserChanges
from tests.support import asking, count_all_rows, done, new_session, said

pytestmark = pytest.mark.anyio


class Clock:
    """A clock that moves on by a second each time it is read."""

    def __init__(self) -> None:
        self.second = 0

    def __call__(self) -> str:
        self.second += 1
        return f"2026-01-31T12:00:{self.second:02}.000000Z"


async def test_a_name_is_created_once_and_found_again(database: Database) -> None:
    service = ChatService(database, clock=Clock())
    created = await service.get_or_create_user(NewUser(username="ada", email="ada@example.org", display_name="Ada"))
    assert is_id(created["id"])
    assert created == {
        "id": created["id"],
        "username": "ada",
        "email": "ada@example.org",
        "display_name": "Ada",
        "created_at": "2026-01-31T12:00:01.000000Z",
        "last_seen_at": "2026-01-31T12:00:01.000000Z",
    }
    found = await service.get_or_create_user(NewUser(username="ada"))
    assert found == created | {"last_seen_at": "2026-01-31T12:00:02.000000Z"}
    assert await service.get_user(UserId(created["id"])) == found


async def test_a_name_that_many_ask_for_at_once_is_created_once(service: ChatService) -> None:
    answers = await asyncio.gather(*(service.get_or_create_user(NewUser(username="ada")) for _ in range(20)))
    assert len({user["id"] for user in answers}) == 1


async def test_names_are_told_apart_to_the_letter(service: ChatService) -> None:
    names = ["ada", "Ada", "ada ", "аda", "åda", "a\u030ada", "🧮", "' OR 1=1 --", "%"]
    users = [await service.get_or_create_user(NewUser(username=name)) for name in names]
    assert len({user["id"] for user in users}) == len(names)
    assert [user["username"] for user in users] == names


async def test_a_token_is_known_by_issuer_and_subject_whatever_its_name(service: ChatService) -> None:
    first = await service.get_or_create_user(NewUser(username="ada", issuer="https://one", subject="1"))
    renamed = await service.get_or_create_user(NewUser(username="countess", issuer="https://one", subject="1"))
    assert renamed["id"] == first["id"]
    others = [
        NewUser(username="b", issuer="https://one", subject="2"),
        NewUser(username="c", issuer="https://two", subject="1"),
    ]
    for other in others:
        assert (await service.get_or_create_user(other))["id"] != first["id"]


async def test_nobody_becomes_the_user_of_a_token_by_taking_the_name(service: ChatService) -> None:
    await service.get_or_create_user(NewUser(username="ada", issuer="https://one", subject="1"))
    for intruder in (NewUser(username="ada"), NewUser(username="ada", issuer="https://two", subject="1")):
        with pytest.raises(Conflict, match="username belongs to another user"):
            await service.get_or_create_user(intruder)


async def test_a_token_does_not_become_a_local_user_by_taking_the_name(service: ChatService) -> None:
    await service.get_or_create_user(NewUser(username="ada"))
    with pytest.raises(Conflict, match="username belongs to another user"):
        await service.get_or_create_user(NewUser(username="ada", issuer="https://one", subject="1"))


async def test_what_is_given_is_changed_and_null_clears(service: ChatService) -> None:
    user = await service.get_or_create_user(NewUser(username="ada", email="ada@example.org", display_name="Ada"))
    user_id = UserId(user["id"])
    assert await service.update_user(user_id, UserChanges()) == user
    changed = await service.update_user(user_id, UserChanges(display_name="Countess"))
    assert changed == user | {"display_name": "Countess"}
    cleared = await service.update_user(user_id, UserChanges(email=None))
    assert cleared == changed | {"email": None}
    assert await service.get_user(user_id) == cleared


async def test_deleting_a_user_removes_everything_of_theirs_and_nothing_else(
    service: ChatService, database: Database, user_id: UserId, stranger_id: UserId
) -> None:
    for owner, sessions in ((user_id, 3), (stranger_id, 1)):
        for _ in range(sessions):
            session_id = await new_session(service, owner)
            await service.add_messages(owner, session_id, [said(), asking("call")])
            await service.add_tool_usage(owner, session_id, done(tool_call_id="call"))
    receipt = await service.delete_user(user_id)
    assert receipt == {"deleted": user_id, "sessions": 3, "messages": 6, "tool_usages": 3, "receipt": 1}
    there = {name: count for name, count in (await count_all_rows(database)).items() if count}
    assert there == {"users": 1, "chat_sessions": 1, "messages": 2, "tool_usages": 1, "tool_call_references": 1}
    with pytest.raises(NotFound):
        await service.get_user(user_id)
    with pytest.raises(NotFound):
        await service.delete_user(user_id)
    with pytest.raises(NotFound):
        await service.get_user_sessions(user_id)
    assert len((await service.get_user_sessions(stranger_id))["sessions"]) == 1


async def test_a_deleted_name_is_a_new_user_when_it_comes_back(service: ChatService, user_id: UserId) -> None:
    await service.delete_user(user_id)
    assert (await service.get_or_create_user(NewUser(username="ada")))["id"] != user_id


async def test_deleting_a_user_is_told_to_those_who_follow_their_sessions(
    service: ChatService, user_id: UserId
) -> None:
    sessions = {await new_session(service, user_id) for _ in range(2)}
    told: set[tuple[str, str]] = set()
    service.events.subscribe(lambda event: told.add((event.session_id, event.change)))
    await service.delete_user(user_id)
    assert told == {(session_id, "deleted") for session_id in sessions}
