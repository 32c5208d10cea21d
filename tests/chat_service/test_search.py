"""Search: finds what a scan of everything finds, shows why, reads on without gaps, and never shows somebody else's."""

import asyncio
import unicodedata
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, update

from chat_service import appends, tool_usage
from chat_service.candidates import BLOCK
from chat_service.deletions import is_anything_left
from chat_service.service import ChatService
from chat_service.work import Work
from models.database import Database
from models.errors import Invalid, NotFound
from models.ids import SessionId, UserId, new_id
from models.inputs import NewMessage, NewToolUsage, TextPart
from models.shapes import MessageDict, SearchHitDict, ToolUsageDict
from models.tables import tool_usages
from tests.conftest import url_of
from tests.support import PROPERTY, asking, done, fill, new_session, new_user, said, watch_statements

pytestmark = pytest.mark.anyio

INDEXES = ("message_search", "tool_usage_search")

# A scan of everything, written from what the documentation says and not from the code.


def words_of(text: str) -> list[str]:
    """Letters, digits and marks make words, without case and accents; scripts without spaces have words of one."""
    words: list[str] = []
    word = ""
    for each in unicodedata.normalize("NFC", text):
        if not ("LNM".find(unicodedata.category(each)[0]) >= 0):
            words, word = [*words, word], ""
        elif is_spaceless(each):
            words, word = [*words, word, each], ""
        else:
            word += unicodedata.normalize("NFD", each)[0].lower()
    return [each for each in [*words, word] if each]


def is_spaceless(character: str) -> bool:
    return unicodedata.name(character, "").startswith(("CJK", "HIRAGANA", "KATAKANA", "THAI", "HANGUL"))


def camel_words_of(text: str) -> list[list[str]]:
    """The parts of each camelCase name: split before a capital after a small letter or digit, and before its end."""
    names, run = [], ""
    for each in [*text, " "]:
        if each.isascii() and each.isalnum():
            run += each
            continue
        parts: list[str] = []
        part = ""
        for place, letter in enumerate(run):
            after = run[place + 1 : place + 2]
            begins = letter.isupper() and part and (not part[-1].isupper() or (after.islower() and part[-1].isupper()))
            if begins or (part and part[-1].isdigit() and letter.isalpha()):
                parts, part = [*parts, part], ""
            part += letter
        parts = [*parts, part]
        if is_camel(run):
            names.append([each.lower() for each in parts])
        run = ""
    return names


def is_camel(run: str) -> bool:
    small_to_large = any((a.islower() or a.isdigit()) and b.isupper() for a, b in pairwise(run))
    acronym = any(a.isupper() and b.isupper() and c.islower() for a, b, c in zip(run, run[1:], run[2:], strict=False))
    return small_to_large or acronym


def holds(words: Sequence[str], phrase: Sequence[str]) -> bool:
    return any(list(words[start : start + len(phrase)]) == phrase for start in range(len(words)))


def texts_of(entry: MessageDict | ToolUsageDict) -> list[str]:
    """The fields of an entry that are searched; a phrase stands within one of them."""
    if "message_type" in entry:
        return ["\n".join([entry["content"], *(part["content"] for part in entry["parts"] or ())])]
    said = [*strings_in(entry["arguments"]), *strings_in(entry["result"]), entry["error"] or ""]
    return [entry["tool_name"], entry["server_name"] or "", "\n".join(said)]


def strings_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for key, inner in value.items() for text in (key, *strings_in(inner))]
    return [] if value is None else [str(value)]


def finds(entry: MessageDict | ToolUsageDict, term: str, *, is_phrase: bool) -> bool:
    texts = texts_of(entry)
    if any(holds(words_of(text), words_of(term)) for text in texts):
        return True
    if is_phrase:
        return False
    parts = camel_words_of(term)[0] if is_camel(term) and term.isascii() and term.isalnum() else words_of(term)
    return any(holds(name, parts) for text in texts for name in camel_words_of(text))


def fits(entry: MessageDict | ToolUsageDict, asked: dict[str, Any]) -> bool:
    is_message = "message_type" in entry
    role = entry.get("message_type", "tool")
    names = [] if is_message else [words_of(name) for name in texts_of(entry)[:2]]
    return (
        all(finds(entry, word, is_phrase=False) for word in asked["words"])
        and all(finds(entry, phrase, is_phrase=True) for phrase in asked["phrases"])
        and not any(finds(entry, word, is_phrase=False) for word in asked["excluded"])
        and (not asked["roles"] or role in asked["roles"])
        and (not asked["tools"] or any(holds(name, words_of(tool)) for tool in asked["tools"] for name in names))
        and (asked["session"] is None or entry["session_id"] == asked["session"])
        and (asked["after"] is None or entry["created_at"] >= asked["after"])
        and (asked["before"] is None or entry["created_at"] < asked["before"])
    )


WORDS = """
alpha ALPHA Beta session_key getUserName userName name HTTPServer http Café naïve cafe\u0301 x.py
src/models/x.py a1 v2.0 日本語 本 テキスト ภาษาไทย ไทย 한국어 sha256Sum utf8 OR NEAR 42
"""
VOCABULARY = st.sampled_from(WORDS.split())
GLUE = st.sampled_from([" ", " ", " ", ".", "/", "-", "_", "\n", ", ", "", '"', "*", ":", "😀"])


@st.composite
def sentences(draw: Callable[[Any], Any]) -> str:
    words = draw(st.lists(VOCABULARY, min_size=1, max_size=6))
    return "".join(part for word in words for part in (word, draw(GLUE)))


MESSAGES = st.builds(
    lambda role, content, parts: NewMessage(
        role=role, content=content, parts=[TextPart(type="text", content=part) for part in parts] or None
    ),
    st.sampled_from(["user", "assistant", "system", "tool"]),
    sentences(),
    st.lists(sentences(), max_size=2),
)
USAGES = st.builds(
    NewToolUsage,
    tool_name=VOCABULARY,
    server_name=st.none() | VOCABULARY,
    arguments=st.dictionaries(VOCABULARY, sentences(), max_size=2),
    result=st.none() | sentences(),
    error=st.none() | sentences(),
)
ASKED = st.fixed_dictionaries(
    {
        "words": st.lists(VOCABULARY, max_size=2),
        "phrases": st.lists(st.lists(VOCABULARY, min_size=1, max_size=2).map(" ".join), max_size=1),
        "excluded": st.lists(VOCABULARY, max_size=1),
        "roles": st.lists(st.sampled_from(["user", "assistant", "system", "tool"]), max_size=2),
        "tools": st.lists(VOCABULARY, max_size=2),
        "session": st.none() | st.integers(0, 1),
        "after": st.none() | st.integers(0, 8),
        "before": st.none() | st.integers(0, 8),
    }
)


def written(asked: dict[str, Any]) -> str:
    """Write a query down."""
    return " ".join(
        [
            *asked["words"],
            *(f'"{phrase}"' for phrase in asked["phrases"]),
            *(f"-{word}" for word in asked["excluded"]),
            *(f"role:{role}" for role in asked["roles"]),
            *(f"tool:{tool}" for tool in asked["tools"]),
            *(f"{name}:{asked[name]}" for name in ("session", "after", "before") if asked[name] is not None),
        ]
    )


def hit_keys(hits: Sequence[SearchHitDict]) -> list[tuple[str, int]]:
    return [(hit["session_id"], hit["seq"]) for hit in hits]


async def search_all(service: ChatService, user_id: UserId, query: str, limit: int = 20) -> list[SearchHitDict]:
    """Read every page."""
    hits: list[SearchHitDict] = []
    cursor = None
    while True:
        page = await service.search_history(user_id, query, limit, cursor)
        assert len(page["hits"]) <= limit
        hits += page["hits"]
        cursor = page["next_cursor"]
        if cursor is None:
            return hits


class Minutes:
    """A clock that goes on a minute at each look."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> str:
        self.now += 1
        return f"2026-01-31T{self.now // 60 % 24:02}:{self.now % 60:02}:00.000000Z"


def test_search_finds_what_a_scan_of_everything_finds(tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        database = runner.run(Database(url_of(tmp_path / "chat.db")).open())
        service = ChatService(database, clock=Minutes())

        @PROPERTY
        @given(st.lists(MESSAGES | USAGES, min_size=1, max_size=8), st.lists(ASKED, min_size=1, max_size=6))
        def property_holds(entries: list[NewMessage | NewToolUsage], questions: list[dict[str, Any]]) -> None:
            runner.run(compare(service, entries, questions))

        try:
            property_holds()
        finally:
            runner.run(database.close())


async def compare(
    service: ChatService, entries: list[NewMessage | NewToolUsage], questions: list[dict[str, Any]]
) -> None:
    # A user of their own each time, in the one index that they all share.
    user_id = await new_user(service, new_id())
    session_ids = [await new_session(service, user_id), await new_session(service, user_id)]
    stored: list[MessageDict | ToolUsageDict] = []
    for number, entry in enumerate(entries):
        session_id = session_ids[number % 3 == 0]
        if isinstance(entry, NewMessage):
            stored.append(await service.add_message(user_id, session_id, entry))
        else:
            stored.append(await service.add_tool_usage(user_id, session_id, entry))
    for question in questions:
        asked = dict(question)
        asked["session"] = None if asked["session"] is None else session_ids[asked["session"]]
        for edge in ("after", "before"):
            if asked[edge] is not None:
                asked[edge] = stored[asked[edge] % len(stored)]["created_at"]
        if not any(asked[name] for name in asked if name != "excluded"):
            with pytest.raises(Invalid, match="query"):
                await service.search_history(user_id, written(asked))
            continue
        expected = {(entry["session_id"], entry["seq"]) for entry in stored if fits(entry, asked)}
        found = hit_keys(await search_all(service, user_id, written(asked), limit=3))
        assert len(found) == len(set(found))
        assert set(found) == expected, written(asked)


HOSTILE = (
    '"', '""""', "'", "a'b", 'a"b', '"; DROP TABLE messages; --', "NEAR(secret word)", "NEAR/2", "text:secret",
    "owner:u1", "{text}:secret", "owner : u2", "- {owner} : u1", "secret*", "*", "^secret", "secret + word", "(((((",
    ")", "AND", "OR",
    "NOT secret", "secret NOT word", "u2 OR secret", "\x01secret\x02\x1b[31m", "\ufeffsecret", "%", "_",
    "\\", "secret\\", "a" * 2_000, "\u01c0", "session:'", "-" * 500, '"' * 501, "é" * 1_999, "日" * 2_000, "rowid:1",
    "tool:\"'\"", "role:user) OR (owner:u2", "tool:x\") OR owner:(\"u2", "secret " * 32, "secret " * 10_000, "-secret",
    "😀", "\0",
)  # fmt: skip


async def test_a_hostile_query_is_an_answer_or_a_clear_refusal_and_shows_nobody_elses(
    service: ChatService, user_id: UserId, stranger_id: UserId
) -> None:
    for each in (user_id, stranger_id):
        session_id = await new_session(service, each)
        await service.add_message(each, session_id, said(f"secret word u1 u2 owner {each}"))
        await service.add_tool_usage(each, session_id, done("x", arguments={"secret": "word u2"}))
    for query in HOSTILE:
        try:
            page = await service.search_history(user_id, query)
        except Invalid as error:
            answer = str(error)
        else:
            answer = f"query {page}"
        assert answer.startswith("query")
        assert stranger_id not in answer


async def test_what_another_user_has_is_never_found_and_their_session_is_not_there(
    service: ChatService, user_id: UserId, stranger_id: UserId
) -> None:
    session_id = await new_session(service, user_id, title="Mine")
    await service.add_message(user_id, session_id, said("a rare orchid"))
    await service.add_tool_usage(user_id, session_id, done("orchid"))
    for query in ("orchid", "role:user", "tool:orchid", "after:2000-01-01", "orchid OR mine"):
        assert (await service.search_history(stranger_id, query))["hits"] == []
    with pytest.raises(NotFound) as foreign:
        await service.search_history(stranger_id, f"orchid session:{session_id}")
    with pytest.raises(NotFound) as absent:
        await service.search_history(stranger_id, f"orchid session:{new_id()}")
    assert str(foreign.value) == str(absent.value)
    assert len((await service.search_history(user_id, f"orchid session:{session_id}"))["hits"]) == 2


async def test_a_hit_says_where_it_is_and_marks_why(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id, title="Gardening")
    message = await service.add_message(user_id, session_id, said("before " * 50 + "a Café\nin  bloom" + " after" * 50))
    usage = await service.add_tool_usage(user_id, session_id, done("readFile", result={"text": "line\nbloom"}))
    hits = {hit["seq"]: hit for hit in (await service.search_history(user_id, "bloom"))["hits"]}
    assert hits[1] == {
        "session_id": session_id,
        "session_title": "Gardening",
        "seq": 1,
        "entry_type": "message",
        "role": "user",
        "tool_name": None,
        "created_at": message["created_at"],
        "said_at": None,
        "snippet": hits[1]["snippet"],
    }
    assert " a Café in **bloom** after " in hits[1]["snippet"]
    assert len(hits[1]["snippet"]) < 300
    assert hits[1]["snippet"].startswith("…")
    assert hits[1]["snippet"].endswith("…")
    assert (hits[2]["entry_type"], hits[2]["role"], hits[2]["tool_name"]) == ("tool_usage", None, "readFile")
    assert hits[2]["created_at"] == usage["created_at"]
    assert hits[2]["snippet"] == 'readFile {} {"text":"line **bloom**"}'
    (accent,) = (await service.search_history(user_id, "CAFE"))["hits"]
    assert "**Café**" in accent["snippet"]


async def test_what_was_imported_is_of_the_time_that_its_source_says(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    times = ["2024-05-01T10:00:00+02:00", "yesterday", None]
    imported = [
        NewMessage(role="user", content="orchid", author="import", message_metadata={"timestamp": time})
        for time in times
    ]
    by_an_agent = NewMessage(role="user", content="orchid", message_metadata={"timestamp": times[0]})
    await service.add_messages(user_id, session_id, [*imported, by_an_agent])
    began = "2023-12-31T23:59:59.500000Z"
    await service.add_tool_usage(user_id, session_id, done("orchid", origin="import", started_at=began))
    await service.add_tool_usage(user_id, session_id, done("orchid"))
    hits = {hit["seq"]: hit for hit in await search_all(service, user_id, "orchid", limit=3)}
    assert {seq: hit["said_at"] for seq, hit in hits.items()} == {
        1: "2024-05-01T08:00:00.000000Z",
        **dict.fromkeys((2, 3, 4, 6)),
        5: began,
    }
    assert all(hit["created_at"] > "2026" for hit in hits.values())

    async def seqs(query: str) -> set[int]:
        return {hit["seq"] for hit in await search_all(service, user_id, query, limit=3)}

    assert await seqs("orchid before:2024-05-01T08:00:01Z") == {1, 5}
    assert await seqs("before:2024-05-01T08:00:00Z") == {5}
    assert await seqs("orchid after:2024-05-01T08:00:00Z before:2024-06-01") == {1}
    assert await seqs("orchid after:2024-06-01") == {2, 3, 4, 6}


async def test_a_snippet_is_bounded_and_found_at_the_end_of_the_longest_entry(
    service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    await service.add_message(user_id, session_id, said("x " * 500_000 + "needle"))
    (hit,) = (await service.search_history(user_id, "needle"))["hits"]
    assert hit["snippet"].endswith("**needle**")
    assert len(hit["snippet"]) < 300


async def test_the_entry_that_says_it_more_often_comes_first_and_of_equals_the_newest(
    service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    texts = ["orchid and much else besides", "orchid orchid orchid", "orchid and much else besides", "nothing"]
    await service.add_messages(user_id, session_id, [said(text) for text in texts])
    assert [hit["seq"] for hit in (await service.search_history(user_id, "orchid"))["hits"]] == [2, 3, 1]


@pytest.mark.parametrize("limit", [1, 7, 500])
async def test_pages_read_on_past_several_blocks_without_gaps_or_doubles(
    limit: int, service: ChatService, user_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    count = 2 * BLOCK + 30 if limit > 1 else BLOCK // 2
    await fill(service, user_id, session_id, 2 * count)
    found = hit_keys(await search_all(service, user_id, f"number session:{session_id}", limit))
    assert sorted(found) == [(session_id, seq) for seq in range(1, 2 * count + 1)]
    # A newer block comes before an older one.
    assert min(seq for _, seq in found[: 2 * BLOCK]) > max((seq for _, seq in found[2 * BLOCK :]), default=0)


async def test_what_is_appended_while_one_reads_on_moves_nothing(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    await fill(service, user_id, session_id, 600)
    found: list[tuple[str, int]] = []
    cursor = None
    while True:
        page = await service.search_history(user_id, "number", 50, cursor)
        found += hit_keys(page["hits"])
        if not found[60:]:
            await service.add_messages(user_id, session_id, [said("number new")] * 20)
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(found) == len(set(found))
    assert set(found) == {(session_id, seq) for seq in range(1, 601)}


async def test_a_cursor_is_bound_to_its_query_and_its_user(
    service: ChatService, user_id: UserId, stranger_id: UserId
) -> None:
    session_id = await new_session(service, user_id)
    await fill(service, user_id, session_id, 10)
    cursor = (await service.search_history(user_id, "number", 2))["next_cursor"]
    assert cursor is not None
    for user, query, given_cursor in (
        (user_id, "numbers", cursor),
        (stranger_id, "number", cursor),
        (user_id, "number", cursor[:-2]),
        (user_id, "number", "x"),
        (user_id, "number", "A" * len(cursor)),
    ):
        with pytest.raises(Invalid, match="cursor"):
            await service.search_history(user, query, 2, given_cursor)


async def test_deleting_a_session_or_a_user_leaves_nothing_of_theirs_in_the_index(database: Database) -> None:
    service = ChatService(database)
    kept_user, user_id = await new_user(service, "ada"), await new_user(service, "grace")
    empty = await database.read(index_bytes)
    sessions = [await new_session(service, user_id) for _ in range(3)]
    for number, session_id in enumerate(sessions):
        await service.add_messages(user_id, session_id, [said(f"canary{number} getCanaryName 秘密")] * 40)
        await service.add_tool_usage(user_id, session_id, done(f"canary{number}tool", result="canary 秘密"))
    await database.index()
    assert b"canary" in await database.read(index_bytes)
    await service.delete_session(user_id, sessions[0])
    after_session = await database.read(index_bytes)
    assert b"canary0" not in after_session
    assert len(await search_all(service, user_id, "canary1")) == 40
    assert len(await search_all(service, user_id, "canary")) == 82
    await service.delete_user(user_id)
    await service.finish_deletions()
    left = await database.read(index_bytes)
    for word in (b"canary", "秘".encode(), "密".encode(), b"username"):
        assert word not in left
    assert len(left) < len(after_session)
    assert b"canary" not in empty
    assert await search_all(service, kept_user, "canary") == []
    await database.read(check_indexes)


@pytest.mark.parametrize("query", ["number", "tool:read number"])
async def test_what_is_being_deleted_hides_nothing_else(service: ChatService, user_id: UserId, query: str) -> None:
    kept_id, doomed_id = [await new_session(service, user_id) for _ in range(2)]
    await fill(service, user_id, kept_id, 2 * BLOCK + 100)
    await fill(service, user_id, doomed_id, 4_000)
    before = hit_keys(await search_all(service, user_id, f"{query} session:{kept_id}", 50))
    assert len(before) >= BLOCK
    await service.delete_session(user_id, doomed_id)
    assert await service.snapshot(is_anything_left), "most is there still"
    assert hit_keys(await search_all(service, user_id, query, 50)) == before
    await service.finish_deletions()
    assert hit_keys(await search_all(service, user_id, query, 50)) == before


async def test_an_append_that_is_refused_or_rolled_back_is_not_found(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)

    def append_and_fail(work: Work) -> None:
        appends.add(work, user_id, session_id, [said("ghost")])
        tool_usage.add(work, user_id, session_id, done("ghost"))
        raise Invalid("no")

    with pytest.raises(Invalid):
        await service.transaction(append_and_fail)
    assert (await service.search_history(user_id, "ghost"))["hits"] == []


async def test_entries_that_move_to_another_session_are_found_there(database: Database, service: ChatService) -> None:
    user_id = await new_user(service)
    source, target = await new_session(service, user_id), await new_session(service, user_id)
    await service.add_message(user_id, source, said("wanderer"))
    await service.add_tool_usage(user_id, source, done("wanderer"))

    def move(connection: Connection) -> None:
        for entries in ("messages", "tool_usages"):
            connection.exec_driver_sql(f"UPDATE {entries} SET session_key = session_key + 1")  # noqa: S608
        connection.exec_driver_sql("UPDATE chat_sessions SET last_seq = 2")

    await database.write(move)
    found = hit_keys(await search_all(service, user_id, f"wanderer session:{target}"))
    assert sorted(found) == [(target, 1), (target, 2)]
    assert await search_all(service, user_id, f"wanderer session:{source}") == []
    await database.read(check_indexes)


async def test_what_is_merged_is_found_in_its_new_session_and_the_index_stays_as_it_is(
    database: Database, service: ChatService, user_id: UserId
) -> None:
    first, second, third = [await new_session(service, user_id) for _ in range(3)]
    await service.add_messages(user_id, first, [said("wanderer one"), asking("call")])
    await service.add_tool_usage(user_id, first, done("wanderer", tool_call_id="call"))
    await service.add_message(user_id, second, said("wanderer two"))
    await service.add_message(user_id, third, said("wanderer three"))
    await database.index()
    before = await database.read(index_bytes)
    await service.merge_sessions(user_id, first, second)
    assert await database.read(index_bytes) == before
    await service.add_message(user_id, second, said("wanderer four"))
    assert len(await search_all(service, user_id, f"wanderer session:{second}")) == 4
    await service.merge_sessions(user_id, second, third)
    for session_id, found in ((first, []), (second, []), (third, [1, 2, 3, 5, 6])):
        hits = hit_keys(await search_all(service, user_id, f"wanderer session:{session_id}"))
        assert sorted(hits) == [(third, seq) for seq in found]
    fork_id = SessionId((await service.fork_session(user_id, third, 5))["id"])
    assert len(await search_all(service, user_id, f"wanderer session:{fork_id}")) == 4
    for session_id in (first, second):
        await service.delete_session(user_id, session_id)
    assert len(await search_all(service, user_id, f"wanderer session:{third}")) == 5
    await service.delete_session(user_id, third)
    assert len(await search_all(service, user_id, f"wanderer session:{fork_id}")) == 4, "its copy is indexed as its own"
    await service.delete_session(user_id, fork_id)
    await service.finish_deletions()
    assert b"wanderer" not in await database.read(index_bytes)
    await database.read(check_indexes)


async def test_searching_takes_a_fixed_number_of_statements_whatever_there_is(database_url: str) -> None:
    async with Database(database_url, readers=1) as database:
        service = ChatService(database)
        user_id = await new_user(service)
        statements = await watch_statements(database)
        for entries in (10, 3_000):
            session_id = await new_session(service, user_id)
            await fill(service, user_id, session_id, entries)
            await service.search_history(user_id, "what is new is indexed by the first search")
            for query, expected in (
                ("number", 5),
                (f"number session:{session_id}", 7),
                ("number role:user", 3),
                ("absent", 3),
                ("number after:2000-01-01", 5),
            ):
                statements.clear()
                # So many that the page has hits of both kinds: for a kind without any none are read.
                await service.search_history(user_id, query, 2 * BLOCK)
                assert len(statements) == expected, (query, statements)


async def test_what_a_part_says_is_found_and_what_only_refers_is_not(service: ChatService, user_id: UserId) -> None:
    session_id = await new_session(service, user_id)
    parts: list[Any] = [
        {"type": "text", "content": "spoken"},
        {"type": "reasoning", "content": "pondered"},
        {"type": "blob", "content": "YmxvYg", "mime_type": "image/png"},
    ]
    await service.add_message(user_id, session_id, NewMessage(role="assistant", content="plain", parts=parts))
    for query, count in (("spoken", 1), ("pondered plain", 1), ("YmxvYg", 0), ("image", 0), ("reasoning", 0)):
        assert len((await service.search_history(user_id, query))["hits"]) == count, query


def index_bytes(connection: Connection) -> bytes:
    """Return every block of the indexes."""
    blocks: list[bytes] = []
    for index in INDEXES:
        for table in ("data", "idx"):
            rows = connection.exec_driver_sql(f"SELECT * FROM {index}_{table}")  # noqa: S608
            blocks += [value for row in rows for value in row if isinstance(value, bytes)]
    return b"".join(blocks)


def check_indexes(connection: Connection) -> None:
    """Fail where an index is not sound."""
    assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"


def test_the_scan_itself_knows_words() -> None:
    assert words_of("Café_x 日本a") == ["cafe", "x", "日", "本", "a"]
    assert camel_words_of("getHTTPServer2Go foo") == [["get", "http", "server2", "go"]]


async def test_what_a_fork_inherits_is_found_once_under_the_parent_also_where_only_the_fork_is_searched(
    service: ChatService, user_id: UserId
) -> None:
    parent = await new_session(service, user_id)
    await service.add_messages(user_id, parent, [said(f"orchid {number}") for number in range(1, 6)])
    fork = SessionId((await service.fork_session(user_id, parent, 3))["id"])
    grandchild = SessionId((await service.fork_session(user_id, fork, 2))["id"])
    await service.add_message(user_id, fork, said("orchid of the fork"))
    await service.add_message(user_id, grandchild, said("orchid of its fork"))

    async def found(query: str) -> set[tuple[str, int]]:
        hits = (await service.search_history(user_id, query, 100))["hits"]
        assert len({(hit["session_id"], hit["seq"]) for hit in hits}) == len(hits)
        return {(hit["session_id"], hit["seq"]) for hit in hits}

    first = {(parent, seq) for seq in (1, 2, 3)}
    assert await found("orchid") == first | {(parent, 4), (parent, 5), (fork, 4), (grandchild, 3)}
    assert await found(f"orchid session:{fork}") == first | {(fork, 4)}
    assert await found(f"orchid session:{grandchild}") == {(parent, 1), (parent, 2), (grandchild, 3)}
    await service.delete_session(user_id, parent)
    assert await found("orchid") == {(fork, seq) for seq in (1, 2, 3, 4)} | {(grandchild, 3)}
    assert await found(f"orchid session:{grandchild}") == {(fork, 1), (fork, 2), (grandchild, 3)}


async def test_what_a_tool_call_says_is_found_as_it_is_after_a_change(database: Database, service: ChatService) -> None:
    user_id = await new_user(service)
    session_id = await new_session(service, user_id)
    await service.add_tool_usage(user_id, session_id, done(result="pending orchid"))
    change = update(tool_usages).values(result="finished tulip")
    await database.write(lambda connection: connection.execute(change).rowcount)
    assert (await service.search_history(user_id, "orchid"))["hits"] == []
    assert len((await service.search_history(user_id, "tulip"))["hits"]) == 1
    await service.delete_session(user_id, session_id)
    assert (await service.search_history(user_id, "tulip"))["hits"] == []
