"""The whole ChatService against a model of plain dicts: whatever is called in whatever order, both say the same.

The model knows what the promises say and nothing of how they are kept. Each rule calls the service, asks the model, and
compares results, refusals and events; entries of the session that was touched are read back each time, everything at
the end. Another database is one more entry in `ENGINES`: a function that opens a service on an empty database.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from pydantic import BaseModel

from chat_service.events import Event
from chat_service.service import ChatService
from chat_service.tokens import count_message, count_tool_usage, estimate_tokens
from models.database import Database
from models.errors import ChatError, Conflict, Invalid, NotFound
from models.ids import SessionId, UserId, new_id, to_timestamp
from models.inputs import NewMessage, NewSession, NewToolUsage, NewUser, SessionChanges, ToolCallPart, UserChanges
from tests.chat_service.summaries import summary_of_tools
from tests.conftest import empty_database
from tests.reliability.scale import figure, is_large, patient, scale, seed
from tests.support import TEXTS, Gate

Clock = Callable[[], str]
Engine = Callable[[Path, Clock], AbstractAsyncContextManager[ChatService]]
Item = dict[str, Any]
Returned = TypeVar("Returned")


@asynccontextmanager
async def on_sqlite(folder: Path, clock: Clock) -> AsyncIterator[ChatService]:
    """Open a service on a file of its own."""
    path = folder / f"{new_id()}.db"
    try:
        async with Database(empty_database(path), readers=1) as database:
            yield ChatService(database, clock=clock)
    finally:
        for ending in ("", "-wal", "-shm", "-journal"):
            path.with_name(path.name + ending).unlink(missing_ok=True)


ENGINES: dict[str, Engine] = {"sqlite": on_sqlite}


# The model


class Model:
    """What the record holds: users, their sessions, and the entries of each, all as the dicts that the service gives.

    A method returns what the service has to return, or raises what it has to raise, and notes the events that it has
    to tell; where it raises, it has changed nothing.
    """

    def __init__(self) -> None:
        self.receipts = 0
        self.users: dict[str, Item] = {}
        self.tokens: dict[str, tuple[str | None, str | None]] = {}
        self.sessions: dict[str, Item] = {}
        self.session_keys: dict[str, tuple[str, NewSession]] = {}
        self.entries: dict[str, list[Item]] = {}
        self.entry_keys: dict[str, dict[str, tuple[BaseModel, int]]] = {}
        self.asked: dict[str, dict[str, int]] = {}
        self.usages_in_order: list[Item] = []
        self.events: list[Event] = []

    # Users

    def see_user(self, new_user: NewUser, user_id: str, now: str) -> Item:
        token = (new_user.issuer, new_user.subject)
        for user in self.users.values():
            theirs = self.tokens[user["id"]]
            if theirs == token and (token[0] is not None or user["username"] == new_user.username):
                user["last_seen_at"] = now
                return user
        if any(user["username"] == new_user.username for user in self.users.values()):
            raise Conflict
        assert user_id not in self.users
        self.tokens[user_id] = token
        self.users[user_id] = {
            "id": user_id,
            "username": new_user.username,
            "email": new_user.email,
            "display_name": new_user.display_name,
            "created_at": now,
            "last_seen_at": now,
        }
        return self.users[user_id]

    def get_user(self, user_id: str) -> Item:
        if user_id not in self.users:
            raise NotFound
        return self.users[user_id]

    def update_user(self, user_id: str, changes: UserChanges) -> Item:
        self.get_user(user_id).update(changes.model_dump(exclude_unset=True))
        return self.users[user_id]

    def delete_user(self, user_id: str) -> Item:
        self.get_user(user_id)
        mine = self._of(user_id)
        receipt = {
            "deleted": user_id,
            "sessions": len(mine),
            "messages": sum(session["message_count"] for session in mine),
            "tool_usages": sum(session["tool_usage_count"] for session in mine),
            "receipt": self._next_receipt(),
        }
        for session in mine:
            self._tell(session["id"], "deleted")
            self._forget(session["id"])
        del self.users[user_id], self.tokens[user_id]
        return receipt

    def _next_receipt(self) -> int:
        self.receipts += 1
        return self.receipts

    # Sessions

    def create_session(self, user_id: str, new_session: NewSession, session_id: str, now: str) -> Item:
        self.get_user(user_id)
        for first_id, (owner, first) in self.session_keys.items():
            if owner == user_id and first.idempotency_key == new_session.idempotency_key is not None:
                if first != new_session:
                    raise Conflict
                return self.sessions[first_id]
        for session in self._of(user_id):
            if (session["source"], session["source_id"]) == (new_session.source, new_session.source_id) != (None, None):
                raise Conflict
        assert session_id not in self.sessions
        self.session_keys[session_id] = (user_id, new_session)
        given = new_session.model_dump(exclude={"idempotency_key"})
        return self._begin(session_id, given | {"user_id": user_id, "created_at": now})

    def get_session(self, user_id: str, session_id: str) -> Item:
        session = self.sessions.get(session_id)
        if session is None or session["user_id"] != user_id:
            raise NotFound
        return session

    def update_session(self, user_id: str, session_id: str, changes: SessionChanges) -> Item:
        session = self.get_session(user_id, session_id)
        given = changes.model_dump(exclude_unset=True)
        if given.get("status", "active") is None:
            raise Invalid
        if given.get("status") == "active" and session["merged_into"]:
            raise Conflict
        if given:
            session.update(given)
            self._tell(session_id, "updated")
        return session

    def fork_session(
        self, user_id: str, session_id: str, at_seq: int | None, title: str | None, fork_id: str, now: str
    ) -> Item:
        parent = self.get_session(user_id, session_id)
        if parent["merged_into"]:
            raise Conflict
        last_seq = parent["last_seq"] if at_seq is None else at_seq
        if last_seq > parent["last_seq"]:
            raise Invalid
        given = {name: parent[name] for name in ("user_id", "session_data", "client")}
        given |= {"title": title or parent["title"], "last_seq": last_seq, "created_at": now}
        fork = self._begin(fork_id, given | {"forked_from": session_id, "forked_from_seq": last_seq})
        # What is inherited stays as it is now, and names nothing past the fork point.
        inherited = [dict(entry) for entry in self.entries[session_id][:last_seq]]
        for entry in inherited:
            if (entry.get("message_seq") or 0) > last_seq:
                entry["message_seq"] = None
            for part in entry.get("parts") or ():
                self.asked[fork_id][part["id"]] = entry["seq"]
        self.entries[fork_id] = inherited
        return fork

    def merge_sessions(self, user_id: str, source_id: str, target_id: str, now: str) -> Item:
        both = source, target = self.get_session(user_id, source_id), self.get_session(user_id, target_id)
        parents = {session["forked_from"] for session in self.sessions.values()}
        if source is target or any(
            session["status"] != "active" or session["forked_from"] or session["id"] in parents for session in both
        ):
            raise Conflict
        offset = target["last_seq"]
        for entry in self.entries[source_id]:
            seq = entry["seq"] + offset
            entry |= {"id": f"{target_id}:{seq}", "session_id": target_id, "seq": seq}
            for name in ("message_seq", "replaces_seq"):
                if entry.get(name) is not None:
                    entry[name] += offset
        self.entries[target_id] += self.entries[source_id]
        for key, (given, seq) in self.entry_keys[source_id].items():
            self.entry_keys[target_id].setdefault(key, (given, seq + offset))
        self.asked[target_id] |= {call: seq + offset for call, seq in self.asked[source_id].items()}
        self.entries[source_id], self.entry_keys[source_id], self.asked[source_id] = [], {}, {}
        for count in ("last_seq", "message_count", "tool_usage_count"):
            target[count] += source[count]
            source[count] = 0
        target["last_append_at"] = now
        source |= {"status": "archived", "merged_into": target_id}
        self._tell(target_id, "appended", target["last_seq"])
        self._tell(source_id, "updated")
        return target

    def delete_session(self, user_id: str, session_id: str, with_forks: bool) -> Item:
        self.get_session(user_id, session_id)
        doomed = [session_id]
        if with_forks:
            # A fork comes after its parent.
            doomed += [one for one in self.sessions if self._descends(one, session_id)]
        sessions = [self.sessions[one] for one in doomed]
        for one in doomed:
            self._tell(one, "deleted")
        if not with_forks:
            for fork in self.sessions.values():
                if fork["forked_from"] == session_id:
                    self._give_own_copy(self.sessions[session_id], fork)
        for one in doomed:
            self._forget(one)
        return {
            "deleted": session_id,
            "sessions": len(sessions),
            "messages": sum(session["message_count"] for session in sessions),
            "tool_usages": sum(session["tool_usage_count"] for session in sessions),
            "receipt": self._next_receipt(),
        }

    def active_session(self, user_id: str, client: str | None, workspace: str | None) -> Item:
        active = [
            session
            for session in self._of(user_id)
            if session["status"] == "active"
            and client in (None, session["client"])
            and workspace in (None, (session["session_data"] or {}).get("workspace"))
        ]
        # Of those of one moment the last created.
        active.reverse()
        newest = max(active, key=lambda session: session["last_append_at"] or session["created_at"], default=None)
        if newest is None:
            self.get_user(user_id)
        return {"session": newest, "other_active": max(0, len(active) - 1)}

    def list_sessions(self, user_id: str, query: str | None, status: str | None) -> list[Item]:
        self.get_user(user_id)
        return [
            session
            for session in reversed(self._of(user_id))
            if (not query or query.lower() in (session["title"] or "").lower()) and status in (None, session["status"])
        ]

    # Entries

    def add_messages(
        self, user_id: str, session_id: str, batch: list[NewMessage], expected_seq: int | None, now: str
    ) -> list[Item]:
        keys = [message.idempotency_key for message in batch if message.idempotency_key is not None]
        if len(set(keys)) < len(keys) or 0 < len(keys) < len(batch):
            raise Invalid
        first = self._replay(user_id, session_id, batch)
        if first is not None:
            return first
        session = self._open_for_append(user_id, session_id, expected_seq, [message.replaces_seq for message in batch])
        stored = [self._append_message(session, message, now) for message in batch]
        self._tell(session_id, "appended", session["last_seq"])
        return stored

    def add_tool_usage(
        self, user_id: str, session_id: str, usage: NewToolUsage, expected_seq: int | None, now: str
    ) -> Item:
        first = self._replay(user_id, session_id, [usage])
        if first is not None:
            return first[0]
        session = self._open_for_append(user_id, session_id, expected_seq, [usage.message_seq])
        message_seq = usage.message_seq or self.asked[session_id].get(usage.tool_call_id or "")
        given = usage.model_dump(exclude={"idempotency_key", "started_at", "message_seq", "status"})
        record = self._append(session, usage, now, "tool_usage_count") | given
        record |= {
            "message_seq": message_seq,
            "started_at": None if usage.started_at is None else to_timestamp(usage.started_at),
            "status": usage.status or ("success" if usage.error is None else "error"),
            "token_count": count_tool_usage(estimate_tokens, usage),
        }
        self.entries[session_id].append(record)
        self.usages_in_order.append(record)
        self._tell(session_id, "appended", session["last_seq"])
        return record

    def history(self, user_id: str, session_id: str, limit: int, before: int | None, after: int | None) -> Item:
        session = self.get_session(user_id, session_id)
        entries = self.entries[session_id]
        if after is not None:
            older = sum(entry["seq"] <= after for entry in entries)
            window = entries[older : older + limit]
        else:
            reachable = [entry for entry in entries if before is None or entry["seq"] < before]
            window = reachable[-limit:]
            older = len(reachable) - len(window)
        return {
            "session": session,
            "older": older,
            "newer": len(entries) - older - len(window),
            "before_seq": older + 1 if older else None,
            "after_seq": older + len(window),
            "entries": window,
        }

    def messages(self, user_id: str, session_id: str, limit: int, before: int | None, after: int | None) -> Item:
        self.get_session(user_id, session_id)
        said = [entry for entry in self.entries[session_id] if "message_type" in entry]
        if after is not None:
            found = [entry for entry in said if entry["seq"] > after]
            page, more = found[:limit], len(found) > limit
        else:
            found = [entry for entry in said if before is None or entry["seq"] < before]
            page, more = found[-limit:], len(found) > limit
        backward = bool(page) and (more or after is not None)
        forward = bool(page) and (more or after is None)
        return {
            "messages": page,
            "before_seq": page[0]["seq"] if backward else None,
            "after_seq": page[-1]["seq"] if forward else None,
        }

    def tool_usages(
        self, user_id: str, session_id: str | None, tool_name: str | None, status: str | None
    ) -> list[Item]:
        if session_id is None:
            self.get_user(user_id)
            records = [record for record in self.usages_in_order if record["user_id"] == user_id]
        else:
            self.get_session(user_id, session_id)
            records = [entry for entry in self.entries[session_id] if "tool_name" in entry]
        return [
            record
            for record in reversed(records)
            if tool_name in (None, record["tool_name"]) and status in (None, record["status"])
        ]

    def summary(self, user_id: str, session_id: str | None) -> Item:
        return summary_of_tools(self.tool_usages(user_id, session_id, None, None))

    # Inside

    def _of(self, user_id: str) -> list[Item]:
        return [session for session in self.sessions.values() if session["user_id"] == user_id]

    def _begin(self, session_id: str, given: Item) -> Item:
        self.entries[session_id], self.entry_keys[session_id], self.asked[session_id] = [], {}, {}
        nothing = dict.fromkeys(
            ("last_append_at", "source", "source_id", "forked_from", "forked_from_seq", "merged_into")
        )
        counts = {"last_seq": 0, "message_count": 0, "tool_usage_count": 0}
        self.sessions[session_id] = {"id": session_id, "status": "active"} | counts | nothing | given
        self._tell(session_id, "created", self.sessions[session_id]["last_seq"])
        return self.sessions[session_id]

    def _descends(self, session_id: str, from_id: str) -> bool:
        parent = self.sessions[session_id]["forked_from"]
        return parent is not None and (parent == from_id or self._descends(parent, from_id))

    def _give_own_copy(self, parent: Item, fork: Item) -> None:
        for one in self.sessions:
            if one == fork["id"] or self._descends(one, fork["id"]):
                for entry in self.entries[one]:
                    if entry["session_id"] == parent["id"]:
                        entry |= {"id": f"{fork['id']}:{entry['seq']}", "session_id": fork["id"]}
        first = parent["forked_from_seq"] or 0
        for entry in self.entries[fork["id"]][first : fork["forked_from_seq"]]:
            fork["message_count" if "message_type" in entry else "tool_usage_count"] += 1
            if "tool_name" in entry:
                self.usages_in_order.append(entry)
        is_fork = parent["forked_from"] is not None
        fork["forked_from"] = parent["forked_from"]
        fork["forked_from_seq"] = min(first, fork["forked_from_seq"]) if is_fork else None
        self._tell(fork["id"], "updated")

    def _forget(self, session_id: str) -> None:
        self.usages_in_order = [one for one in self.usages_in_order if one["session_id"] != session_id]
        for kept in (self.sessions, self.session_keys, self.entries, self.entry_keys, self.asked):
            kept.pop(session_id, None)

    def _tell(self, session_id: str, change: Any, last_seq: int | None = None) -> None:
        owner = UserId(self.sessions[session_id]["user_id"])
        self.events.append(Event(owner, SessionId(session_id), change, last_seq))

    def _replay(self, user_id: str, session_id: str, inputs: list[Any]) -> list[Item] | None:
        if self.sessions.get(session_id, {}).get("user_id") != user_id:
            return None
        used = self.entry_keys[session_id]
        if not any(one.idempotency_key in used for one in inputs):
            return None
        for one in inputs:
            if one.idempotency_key not in used or used[one.idempotency_key][0] != one:
                raise Conflict
        return [self.entries[session_id][used[one.idempotency_key][1] - 1] for one in inputs]

    def _open_for_append(
        self, user_id: str, session_id: str, expected_seq: int | None, referred: list[int | None]
    ) -> Item:
        session = self.get_session(user_id, session_id)
        said = {entry["seq"] for entry in self.entries[session_id] if "message_type" in entry}
        if not said.issuperset(seq for seq in referred if seq is not None):
            raise Invalid
        if session["status"] != "active" or expected_seq not in (None, session["last_seq"]):
            raise Conflict
        return session

    def _append(self, session: Item, given: NewMessage | NewToolUsage, now: str, count: str) -> Item:
        seq = len(self.entries[session["id"]]) + 1
        session |= {"last_seq": seq, "last_append_at": now, count: session[count] + 1}
        if given.idempotency_key is not None:
            self.entry_keys[session["id"]][given.idempotency_key] = (given, seq)
        return {
            "id": f"{session['id']}:{seq}",
            "session_id": session["id"],
            "user_id": session["user_id"],
            "seq": seq,
            "created_at": now,
        }

    def _append_message(self, session: Item, message: NewMessage, now: str) -> Item:
        given = message.model_dump(exclude={"idempotency_key", "role", "parts", "usage"})
        stored = self._append(session, message, now, "message_count") | given
        stored |= {
            "message_type": message.role,
            "parts": [part.model_dump(exclude_none=True) for part in message.parts] if message.parts else None,
            "usage": None if message.usage is None else message.usage.model_dump(exclude_none=True),
        }
        if message.token_count is None:
            stored["token_count"] = count_message(estimate_tokens, message)
        self.entries[session["id"]].append(stored)
        for part in message.parts or ():
            assert isinstance(part, ToolCallPart)
            self.asked[session["id"]][part.id] = stored["seq"]
            for entry in self.entries[session["id"]][session["forked_from_seq"] or 0 :]:
                if entry.get("tool_call_id") == part.id and entry["message_seq"] is None:
                    entry["message_seq"] = stored["seq"]
        return stored


# What is called


CALLS = st.sampled_from(["call-1", "call-2", "call-3"])
KEYS = st.sampled_from(["key-1", "key-2", "key-3", "key-4", "key-5"])
DATA = st.none() | st.dictionaries(st.sampled_from(["workspace", "other"]), st.sampled_from(["here", "there"]))
TITLES = st.none() | st.sampled_from(["Alpha", "alphabet", "100%", "a_b", "Beta"])
USERNAMES = st.sampled_from(["ada", "grace", "mallory"])
PICKS = st.integers(0, 11)
"""Which of the users or sessions there are, or were: counted round."""

NEW_USERS = st.builds(NewUser, username=USERNAMES, email=st.none() | st.just("a@example.org")) | st.builds(
    NewUser, username=USERNAMES, issuer=st.just("issuer"), subject=st.sampled_from(["one", "two"])
)
NEW_SESSIONS = st.builds(
    NewSession,
    title=TITLES,
    session_data=DATA,
    client=st.none() | st.sampled_from(["one", "two"]),
    idempotency_key=st.none() | st.sampled_from(["key-1", "key-2"]),
) | st.builds(NewSession, source=st.just("import"), source_id=st.sampled_from(["1", "2"]), title=TITLES)
ROLES = st.sampled_from(["system", "user", "assistant", "tool"])
PARTS = st.none() | st.lists(st.builds(ToolCallPart, type=st.just("tool_call"), id=CALLS), max_size=2)
MESSAGES = st.builds(
    NewMessage,
    role=ROLES,
    content=TEXTS.filter(bool),
    parts=PARTS,
    kind=st.sampled_from(["message", "summary", "pin"]),
    message_metadata=DATA,
    token_count=st.none() | st.integers(0, 9),
) | st.builds(
    NewMessage, role=ROLES, content=st.just("edit"), kind=st.just("replacement"), replaces_seq=st.integers(1, 6)
)
USAGES = st.builds(
    NewToolUsage,
    tool_name=st.sampled_from(["read", "write"]),
    arguments=st.dictionaries(st.just("path"), TEXTS, max_size=1),
    result=st.none() | TEXTS | st.integers(0, 9),
    error=st.none() | st.just("failed"),
    status=st.none() | st.sampled_from(["cancelled", "unknown"]),
    duration_ms=st.none() | st.integers(0, 9).map(float),
    tool_call_id=st.none() | CALLS,
    message_seq=st.none() | st.integers(1, 6),
    idempotency_key=st.none() | KEYS,
)
LIMITS = st.integers(1, 4)
EDGES = st.tuples(st.sampled_from(["none", "before", "after"]), st.integers(1, 9))
EXPECTED = st.sampled_from([None, None, None, 0, 0, -1, 1])
"""How far expected_seq is from the session's last seq, where it is given."""


@st.composite
def batches(draw: st.DrawFn) -> list[NewMessage]:
    """Make a batch: mostly without keys or with one on each message, at times with doubles or gaps among them."""
    batch = draw(st.lists(MESSAGES, min_size=1, max_size=4))
    how = draw(st.sampled_from(["none", "none", "some", "all", "all", "all"]))
    if how == "none":
        return batch
    unique = how == "all"
    one = KEYS if unique else st.none() | KEYS
    keys: list[str | None] = draw(st.lists(one, min_size=len(batch), max_size=len(batch), unique=unique))
    return [message.model_copy(update={"idempotency_key": key}) for message, key in zip(batch, keys, strict=True)]


Append = Callable[[], None]


class ServiceMachine(RuleBasedStateMachine):
    """Calls the service and asks the model; `engine` and `folder` are set by the test."""

    engine: Engine
    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.heard: list[Event] = []
        self.user_ids: list[UserId] = []
        self.session_ids: list[SessionId] = []
        self.touched: tuple[UserId, SessionId] | None = None
        self.appends: list[Append] = []
        self.moments = itertools.count(1)
        self.now = ""
        self.runner = asyncio.Runner()
        self.opened = type(self).engine(self.folder, lambda: self.now)
        self.service = self.runner.run(self._enter())
        self.service.events.subscribe(self.heard.append)

    async def _enter(self) -> ChatService:
        return await self.opened.__aenter__()

    async def _leave(self) -> None:
        await self.opened.__aexit__(None, None, None)

    def teardown(self) -> None:
        try:
            self._compare_everything()
        finally:
            self.runner.run(self._leave())
            self.runner.close()

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.see_user(NewUser(username="ada"))
        self.see_user(NewUser(username="grace"))
        self.create_session(0, NewSession(title="Alpha"))
        self.create_session(1, NewSession())
        self.create_session(0, NewSession())
        # Most of what can happen happens to sessions that hold something.
        for which in (0, 0, 2):
            self.add_messages(1, which, data.draw(batches()), None)
            self.add_tool_usage(1, which, data.draw(USAGES), None)
        self.fork_session(1, 0, data.draw(st.none() | st.integers(0, 6)), None)

    # Users

    @rule(new_user=NEW_USERS)
    def see_user(self, new_user: NewUser) -> None:
        result = self._call(self.service.get_or_create_user(new_user))
        user_id = UserId(_id_of(result))
        self._compare(result, lambda: self.model.see_user(new_user, user_id, self.now))
        if user_id and user_id not in self.user_ids:
            self.user_ids.append(user_id)

    @rule(who=PICKS, email=st.none() | st.just("b@example.org"), clear=st.booleans())
    def update_user(self, who: int, email: str | None, clear: bool) -> None:
        user_id = self._user(who)
        changes = UserChanges(email=email) if email or clear else UserChanges()
        self._compare(
            self._call(self.service.update_user(user_id, changes)), lambda: self.model.update_user(user_id, changes)
        )
        self._compare(self._call(self.service.get_user(user_id)), lambda: self.model.get_user(user_id))

    @rule(who=PICKS, really=st.integers(0, 5))
    def delete_user(self, who: int, really: int) -> None:
        user_id = self._user(who)
        # Seldom: little can be told of an empty record.
        if not really:
            result = self._call(self.service.delete_user(user_id))
            self._compare(result, lambda: self.model.delete_user(user_id))

    # Sessions

    @rule(who=PICKS, new_session=NEW_SESSIONS)
    def create_session(self, who: int, new_session: NewSession) -> None:
        user_id = self._user(who)
        result = self._call(self.service.create_chat_session(user_id, new_session))
        session_id = SessionId(_id_of(result))
        self._compare(result, lambda: self.model.create_session(user_id, new_session, session_id, self.now))
        if session_id and session_id not in self.session_ids:
            self.session_ids.append(session_id)

    @rule(
        who=PICKS,
        which=PICKS,
        given=st.fixed_dictionaries(
            {},
            optional={"title": TITLES, "session_data": DATA, "status": st.sampled_from(["active", "archived", None])},
        ),
    )
    def update_session(self, who: int, which: int, given: dict[str, Any]) -> None:
        user_id, session_id = self._both(who, which)
        changes = SessionChanges(**given)
        self._compare(
            self._call(self.service.update_session(user_id, session_id, changes)),
            lambda: self.model.update_session(user_id, session_id, changes),
        )

    @rule(who=PICKS, which=PICKS, really=st.integers(0, 2), with_forks=st.booleans())
    def delete_session(self, who: int, which: int, really: int, with_forks: bool) -> None:
        user_id, session_id = self._both(who, which)
        if not really:
            result = self._call(self.service.delete_session(user_id, session_id, with_forks=with_forks))
            self._compare(result, lambda: self.model.delete_session(user_id, session_id, with_forks))

    @rule(who=PICKS, which=PICKS, at_seq=st.none() | st.integers(0, 6), title=TITLES)
    def fork_session(self, who: int, which: int, at_seq: int | None, title: str | None) -> None:
        user_id, session_id = self._both(who, which)
        result = self._call(self.service.fork_session(user_id, session_id, at_seq, title))
        fork_id = SessionId(_id_of(result))
        self._compare(result, lambda: self.model.fork_session(user_id, session_id, at_seq, title, fork_id, self.now))
        if fork_id:
            self.session_ids.append(fork_id)
            self.touched = (user_id, fork_id)

    @rule(who=PICKS, which=PICKS, other=PICKS)
    def merge_sessions(self, who: int, which: int, other: int) -> None:
        user_id, source_id = self._both(who, which)
        mine = [one for one in self.session_ids if self.model.sessions.get(one, {}).get("user_id") == user_id]
        # Mostly two of one user; now and then whatever comes.
        target_id = mine[other % len(mine)] if mine and who % 4 else self._both(who, other)[1]
        result = self._call(self.service.merge_sessions(user_id, source_id, target_id))
        self._compare(result, lambda: self.model.merge_sessions(user_id, source_id, target_id, self.now))
        self.touched = (user_id, target_id)

    @rule(who=PICKS, which=PICKS)
    def get_session(self, who: int, which: int) -> None:
        user_id, session_id = self._both(who, which)
        result = self._call(self.service.get_session(user_id, session_id))
        self._compare(result, lambda: self.model.get_session(user_id, session_id))

    @rule(
        who=PICKS, client=st.none() | st.sampled_from(["one", "two"]), workspace=st.none() | st.sampled_from(["here"])
    )
    def get_active_session(self, who: int, client: str | None, workspace: str | None) -> None:
        user_id = self._user(who)
        result = self._call(self.service.get_active_session(user_id, client, workspace))
        self._compare(result, lambda: self.model.active_session(user_id, client, workspace))

    @rule(
        who=PICKS,
        query=st.none() | st.sampled_from(["ALPHA", "%", "_", "a", ""]),
        status=st.none() | st.sampled_from(["active", "archived"]),
        limit=LIMITS,
    )
    def list_sessions(self, who: int, query: str | None, status: Any, limit: int) -> None:
        user_id = self._user(who)
        pages = self._walk(
            "sessions", lambda cursor: self.service.get_user_sessions(user_id, query, status, limit, cursor), limit
        )
        self._compare(pages, lambda: self.model.list_sessions(user_id, query, status))

    # Entries

    @rule(who=PICKS, which=PICKS, batch=batches(), off=EXPECTED)
    def add_messages(self, who: int, which: int, batch: list[NewMessage], off: int | None) -> None:
        user_id, session_id = self._both(who, which)
        expected_seq = self._expected(session_id, off)

        def append() -> None:
            result = self._call(self.service.add_messages(user_id, session_id, batch, expected_seq))
            self._compare(result, lambda: self.model.add_messages(user_id, session_id, batch, expected_seq, self.now))

        append()
        self.appends.append(append)

    @rule(who=PICKS, which=PICKS, usage=USAGES, off=EXPECTED)
    def add_tool_usage(self, who: int, which: int, usage: NewToolUsage, off: int | None) -> None:
        user_id, session_id = self._both(who, which)
        expected_seq = self._expected(session_id, off)

        def append() -> None:
            result = self._call(self.service.add_tool_usage(user_id, session_id, usage, expected_seq))
            self._compare(result, lambda: self.model.add_tool_usage(user_id, session_id, usage, expected_seq, self.now))

        append()
        self.appends.append(append)

    @rule(
        wishes=st.lists(st.tuples(PICKS, PICKS, batches() | USAGES, EXPECTED), min_size=2, max_size=5),
        twice=st.booleans(),
    )
    def append_together(self, wishes: list[tuple[int, int, Any, int | None]], twice: bool) -> None:
        calls: list[Coroutine[Any, Any, Any]] = []
        asked: list[Callable[[str], Any]] = []
        for who, which, given, off in wishes * (1 + twice):
            user_id, session_id = self._both(who, which)
            expected_seq = self._expected(session_id, off)
            is_usage = isinstance(given, NewToolUsage)
            add = self.service.add_tool_usage if is_usage else self.service.add_messages
            model = self.model.add_tool_usage if is_usage else self.model.add_messages
            calls.append(add(user_id, session_id, given, expected_seq))
            asked.append(partial(model, user_id, session_id, given, expected_seq))
        results = self._call(self._waiting_together(calls))
        assert isinstance(results, list)
        for result, ask in zip(results, asked, strict=True):
            self._compare(result, partial(ask, self.now))

    async def _waiting_together(self, calls: list[Coroutine[Any, Any, Any]]) -> list[Any]:
        """Make calls that wait for the writer at once; return what each returned, or the kind of its refusal."""
        gate = Gate()
        first = asyncio.create_task(self.service.transaction(lambda work: gate(work.connection)))
        await gate.begun.wait()
        tasks = [asyncio.create_task(call) for call in calls]
        gate.open_after_what_waits()
        await asyncio.wait([first, *tasks])
        return [_kind_of(task.exception()) or task.result() for task in tasks]

    @rule(which=st.integers(0, 30))
    def repeat_an_earlier_append(self, which: int) -> None:
        if self.appends:
            self.appends[-1 - which % len(self.appends)]()

    @rule(who=PICKS, which=PICKS, limit=LIMITS, edge=EDGES)
    def read_history(self, who: int, which: int, limit: int, edge: tuple[str, int]) -> None:
        user_id, session_id = self._both(who, which)
        before, after = _edge(edge)
        result = self._call(self.service.get_session_history(user_id, session_id, limit, before, after))
        self._compare(result, lambda: self.model.history(user_id, session_id, limit, before, after))

    @rule(who=PICKS, which=PICKS, limit=LIMITS, edge=EDGES)
    def read_messages(self, who: int, which: int, limit: int, edge: tuple[str, int]) -> None:
        user_id, session_id = self._both(who, which)
        before, after = _edge(edge)
        result = self._call(self.service.get_session_messages(user_id, session_id, limit, before, after))
        self._compare(result, lambda: self.model.messages(user_id, session_id, limit, before, after))

    @rule(
        who=PICKS,
        which=st.none() | PICKS,
        tool_name=st.none() | st.sampled_from(["read", "write"]),
        status=st.none() | st.sampled_from(["success", "error"]),
        limit=LIMITS,
    )
    def list_tool_usage(self, who: int, which: int | None, tool_name: str | None, status: Any, limit: int) -> None:
        user_id, session_id = (self._user(who), None) if which is None else self._both(who, which)
        pages = self._walk(
            "tool_usages",
            lambda cursor: self.service.get_session_tool_usage(user_id, session_id, tool_name, status, limit, cursor),
            limit,
        )
        self._compare(pages, lambda: self.model.tool_usages(user_id, session_id, tool_name, status))
        result = self._call(self.service.summarize_tool_usage(user_id, session_id))
        self._compare(result, lambda: self.model.summary(user_id, session_id))

    # After each rule

    @invariant()
    def what_happened_was_told(self) -> None:
        assert self.heard == self.model.events

    @invariant()
    def the_touched_session_is_dense_and_as_the_model_has_it(self) -> None:
        if self.touched is not None:
            user_id, session_id = self.touched
            self.touched = None
            self._compare_session(user_id, session_id)

    def _compare_everything(self) -> None:
        for user_id in self.user_ids:
            self._compare(self._call(self.service.get_user(user_id)), partial(self.model.get_user, user_id))
            for session_id in self.session_ids:
                self._compare_session(user_id, session_id)

    def _compare_session(self, user_id: UserId, session_id: SessionId) -> None:
        result = self._call(self.service.get_session_history(user_id, session_id, 500))
        self._compare(result, lambda: self.model.history(user_id, session_id, 500, None, None))
        if isinstance(result, dict):
            seqs = [entry["seq"] for entry in result["entries"]]
            session = result["session"]
            assert seqs == list(range(1, session["last_seq"] + 1))
            own = [entry for entry in result["entries"] if entry["session_id"] == session_id]
            assert session["message_count"] + session["tool_usage_count"] == len(own)

    def _call(self, call: Coroutine[Any, Any, Returned]) -> Returned | type[ChatError]:
        """Make a call at a new moment, and return what it returned or the kind of its refusal."""
        moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(milliseconds=next(self.moments))
        self.now = to_timestamp(moment)
        try:
            return self.runner.run(call)
        except ChatError as error:
            return type(error)

    def _compare(self, result: Any, ask: Callable[[], Any]) -> None:
        try:
            expected = ask()
        except ChatError as error:
            expected = type(error)
        assert result == expected

    def _walk(
        self, name: str, page_after: Callable[[str | None], Coroutine[Any, Any, Any]], limit: int
    ) -> list[Item] | type[ChatError]:
        found: list[Item] = []
        cursor: str | None = None
        while True:
            page = self._call(page_after(cursor))
            if isinstance(page, type):
                return page
            found += page[name]
            cursor = page["next_cursor"]
            assert len(page[name]) == limit or (cursor is None and len(page[name]) < limit)
            if cursor is None:
                return found

    def _user(self, who: int) -> UserId:
        return self.user_ids[who % len(self.user_ids)]

    def _both(self, who: int, which: int) -> tuple[UserId, SessionId]:
        session_id = self.session_ids[which % len(self.session_ids)]
        # Mostly the owner; now and then whoever comes.
        owner = self.model.sessions.get(session_id, {}).get("user_id")
        user_id = UserId(owner) if owner is not None and who % 4 else self._user(who)
        self.touched = (user_id, session_id)
        return user_id, session_id

    def _expected(self, session_id: SessionId, off: int | None) -> int | None:
        return None if off is None else max(0, self.model.sessions.get(session_id, {}).get("last_seq", 0) + off)


def _kind_of(error: BaseException | None) -> type[ChatError] | None:
    if error is not None and not isinstance(error, ChatError):
        raise error
    return None if error is None else type(error)


def _id_of(result: Any) -> str:
    return "" if isinstance(result, type) else str(result["id"])


def _edge(edge: tuple[str, int]) -> tuple[int | None, int | None]:
    kind, seq = edge
    return (seq if kind == "before" else None), (seq - 1 if kind == "after" else None)


@patient
@pytest.mark.parametrize("engine", ENGINES)
def test_the_service_and_a_model_of_plain_dicts_say_the_same_whatever_is_called(tmp_path: Path, engine: str) -> None:
    machines: Iterator[int] = itertools.count()

    class Machine(ServiceMachine):
        def __init__(self) -> None:
            next(machines)
            super().__init__()

    Machine.engine = staticmethod(ENGINES[engine])
    Machine.folder = tmp_path
    sequences = scale(200, 20_000)
    run_state_machine_as_test(
        seeded(seed())(Machine),
        settings=settings(
            max_examples=sequences,
            stateful_step_count=scale(20, 50),
            deadline=None,
            database=None,
            print_blob=False,
            verbosity=Verbosity.normal,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
    seen = next(machines)
    assert seen >= sequences
    figure("stateful model", {"sequences": seen, "divergences": 0, "engine": engine, "large": is_large()})
