"""The command `usage`: aligned totals for people, JSON for programs, and stored names shown harmlessly."""

import asyncio
import json

import pytest
from pydantic import ValidationError
from rich.text import Text

from chat_service.service import ChatService
from models.database import Database
from models.errors import Invalid, NotFound
from models.ids import SessionId, new_id
from models.inputs import NewMessage, Usage
from tests.server.test_command_line import environment, invoke, refused, run
from tests.support import done, new_session, new_user

__all__ = ["environment"]

HOSTILE = "\x1b[2J\x1b]0;owned\x07read\u202efile\nsecond line [bold]x[/bold]"


@pytest.fixture
def session_id(database_url: str) -> SessionId:
    async def store() -> SessionId:
        async with Database(database_url) as database:
            service = ChatService(database, clock=lambda: "2026-01-31T23:30:00.000000Z")
            user_id = await new_user(service, "ada")
            session_id = await new_session(service, user_id)
            costs = Usage(input_tokens=1_234_567, output_tokens=5)
            answers = [
                NewMessage(role="assistant", content="yes", model=HOSTILE, usage=costs),
                NewMessage(role="assistant", content="no", model="small"),
            ]
            await service.add_messages(user_id, session_id, answers)
            await service.add_tool_usage(user_id, session_id, done(HOSTILE, server_name="files", duration_ms=1_500))
            await service.add_tool_usage(user_id, session_id, done("write", error="no"))
            return session_id

    return asyncio.run(store())


def test_nothing_counted_is_said(environment: dict[str, str]) -> None:
    assert "nothing counted yet" in run(environment, "usage")
    assert "nothing counted in that time" in run(environment, "usage", "--by", "tool", "--since", "2026-01-01")


def test_totals_are_aligned_and_end_in_a_line_of_all(environment: dict[str, str], session_id: SessionId) -> None:
    lines = [line.rstrip() for line in run(environment, "usage").splitlines()]
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1, "the last column is flush right"
    assert lines[0].startswith("model ")
    assert lines[-1].split() == ["all", "2", "1", "1,234,567", "5"]
    assert session_id in run(environment, "usage", "--by", "session")


def test_a_cache_and_reasoning_have_columns_where_any_answer_tells_of_them(
    environment: dict[str, str], session_id: SessionId, database_url: str
) -> None:
    async def store(**counts: int) -> None:
        async with Database(database_url) as database:
            service = ChatService(database)
            message = NewMessage(role="assistant", content="yes", model="cached", usage=Usage(**counts))
            await service.add_message(await new_user(service, "ada"), session_id, message)

    plain = ["messages", "without", "figures", "input", "tokens", "output", "tokens"]
    assert run(environment, "usage").splitlines()[0].split()[1:] == plain
    asyncio.run(store(input_tokens=4, output_tokens=1, cache_read_tokens=30_000, reasoning_tokens=0))
    lines = [line.rstrip() for line in run(environment, "usage").splitlines()]
    assert lines[0].split()[1:] == [*plain, "cache", "read"]
    assert len({len(line) for line in lines}) == 1
    assert ["cached", "1", "0", "4", "1", "30,000"] in [line.split() for line in lines]
    assert lines[-1].split() == ["all", "3", "1", "1,234,571", "6", "30,000"]
    asyncio.run(store(cache_write_tokens=7, reasoning_tokens=8))
    lines = run(environment, "usage", "--by", "session").splitlines()
    assert lines[0].split()[-5:] == ["cache", "read", "cache", "written", "reasoning"]
    assert lines[-1].split() == ["all", "4", "1", "1,234,571", "6", "30,000", "7", "8"]


@pytest.mark.parametrize("columns", [200, 90, 20])
@pytest.mark.parametrize("by", ["model", "tool"])
def test_a_terminal_cuts_names_and_titles_but_no_number(
    by: str, columns: int, environment: dict[str, str], session_id: SessionId, database_url: str
) -> None:
    async def store() -> None:
        async with Database(database_url) as database:
            service = ChatService(database)
            user_id = await new_user(service, "ada")
            counts = dict.fromkeys(Usage.model_fields, 1_234_567)
            message = NewMessage(role="assistant", content="yes", model="a-model-with-a-name", usage=Usage(**counts))
            await service.add_message(user_id, session_id, message)
            await service.add_tool_usage(user_id, session_id, done("a-tool", duration_ms=1_234_567))

    asyncio.run(store())
    terminal = {**environment, "FORCE_COLOR": "1", "COLUMNS": str(columns)}
    lines = [line.rstrip() for line in Text.from_ansi(run(terminal, "usage", "--by", by)).plain.splitlines()]
    [row] = [line for line in lines if line.startswith("a-model-wit" if by == "model" else "a-tool")]
    assert row.count("1,234,567") == (5 if by == "model" else 3)
    assert row.startswith(("a-model-with-a-name ", "a-tool ") if columns == 200 else ("a-model-wit", "a-tool "))
    assert len(row) <= columns or columns == 20, "a terminal that is narrower than the numbers breaks the lines itself"


def test_the_id_of_a_session_is_never_cut(environment: dict[str, str], session_id: SessionId) -> None:
    terminal = {**environment, "FORCE_COLOR": "1", "COLUMNS": "60"}
    assert f"\n{session_id} " in Text.from_ansi(run(terminal, "usage", "--by", "session")).plain


@pytest.mark.parametrize("by", ["model", "tool"])
def test_a_hostile_name_is_one_line_that_a_terminal_shows(
    by: str, environment: dict[str, str], session_id: SessionId
) -> None:
    shown = run(environment, "usage", "--by", by, "--session", session_id)
    assert "readfile second line [bold]x[/bold]" in shown
    assert not any(unwanted in shown for unwanted in ("\x1b", "\x07", "\u202e", "owned"))
    assert len(shown.splitlines()) == 4


def test_a_day_is_that_of_the_offset_also_where_a_range_names_it(
    environment: dict[str, str], session_id: SessionId
) -> None:
    assert "2026-01-31" in run(environment, "usage", "--by", "day")
    assert "2026-02-01" in run(environment, "usage", "--by", "day", "--utc-offset", "60", "--since", "2026-02-01")
    assert "nothing" in run(environment, "usage", "--by", "day", "--since", "2026-02-01")
    assert "nothing" in run(environment, "usage", "--until", "2026-01-31T23:30:00Z")


def test_json_is_what_the_service_returns(environment: dict[str, str], session_id: SessionId) -> None:
    tokens = json.loads(run(environment, "usage", "--json"))
    assert tokens["totals"][0] == {
        "name": HOSTILE, "messages": 1, "without_figures": 0, "input_tokens": 1_234_567, "output_tokens": 5,
        "cache_read_tokens": 0, "cache_write_tokens": 0, "reasoning_tokens": 0,
    }  # fmt: skip
    tools = json.loads(run(environment, "usage", "--by", "tool", "--json"))
    assert [tool["tool_name"] for tool in tools["tools"]] == [HOSTILE, "write"]
    assert tools["errors"] == 1


def test_what_cannot_be_is_refused(environment: dict[str, str], session_id: SessionId) -> None:
    assert str(refused(environment, "usage", "--since", "yesterday")).startswith("since is no day or time")
    assert isinstance(refused(environment, "usage", "--until", "2026-02-30"), Invalid)
    assert isinstance(refused(environment, "usage", "--session", new_id()), NotFound)
    assert isinstance(refused(environment, "usage", "--by", "tool", "--session", "x"), Invalid)
    turned = invoke(environment, "usage", "--since", "2026-02-02", "--until", "2026-02-01").exception
    assert isinstance(turned, ValidationError)
    for arguments in (("--by", "colour"), ("--utc-offset", "841"), ("--utc-offset", "x")):
        assert invoke(environment, "usage", *arguments).exit_code == 2
