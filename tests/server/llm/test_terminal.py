"""The conversation in a terminal: a real process on a real pseudo-terminal, and the same through a pipe."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from models.errors import ChatError
from models.ids import new_id
from server.command_line.main import build
from server.command_line.terminal import Growing, printable
from tests.server.llm.provider import Provider, Says, provided
from tests.server.llm.pseudo_terminal import CTRL_D, PROMPT, PseudoTerminal, terminal
from tests.server.llm.test_chat import ADD, KEY, entries, helped, outline, spoken
from tests.server.support import COMMAND, tools_of

pytestmark = pytest.mark.anyio

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x9b5m\u202e end"
STEER = ("\x1b]0", "\x1b[2J", "\x1b[31m", "\x9b", "\u202e", "\x07")


def environment_of(database_url: str, provider: Provider, **more: object) -> dict[str, str]:
    """Return the environment of a command that asks the scripted provider."""
    settings = {
        "database_url": database_url,
        "user": "ada",
        "model": "openai:scripted",
        "model_url": provider.url + "/v1",
    }
    variables = {f"MCP_CHAT_{name.upper()}": str(value) for name, value in {**settings, **more}.items()}
    return {**variables, "OPENAI_API_KEY": KEY, "NO_PROXY": "127.0.0.1", "TERM": "xterm", "NO_COLOR": "1"}


def piped(environment: Mapping[str, str], question: str | bytes, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Pipe a question through the command."""
    given = question.encode() if isinstance(question, str) else question
    ended = subprocess.run(
        [sys.executable, str(COMMAND), "chat", *arguments],
        env={**os.environ, **environment},
        input=given,
        capture_output=True,
        check=False,
        timeout=60,
    )
    return subprocess.CompletedProcess(ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode())


def invoked(environment: Mapping[str, str], question: str | bytes, *arguments: str) -> Result:
    """Do the same in this process."""
    return CliRunner().invoke(build(), ["chat", *arguments], env=dict(environment), input=question)


@contextmanager
def piping(environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Pipe a question through the command, which goes on meanwhile."""
    with subprocess.Popen(
        [sys.executable, str(COMMAND), "chat"],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(b"Hello")
        process.stdin.close()
        process.stdin = None
        yield process


@contextmanager
def at_terminal(database_url: str, *script: Says, **more: object) -> Iterator[tuple[Provider, PseudoTerminal]]:
    """Begin a conversation in a terminal with the scripted provider."""
    with provided(*script) as provider, terminal(environment_of(database_url, provider, **more), "chat") as person:
        person.until(PROMPT)
        yield provider, person


def said_to(person: PseudoTerminal, question: str, answer: str) -> None:
    """Ask at the prompt, and wait for the answer and the next prompt."""
    person.enter(question)
    person.until(f"{answer}{PROMPT}")


def session_in(shown: str) -> str:
    """Return the id of the session that the last line names."""
    return shown.split("--session ")[-1].split()[0]


async def test_a_person_talks_with_the_model_and_sees_the_tools_at_work(database_url: str, tmp_path: Path) -> None:
    script = (Says(["Let me see."], [ADD, ("x", "no_such_tool", {})]), Says(["It is ", "five."]))
    with provided(*script) as provider:
        environment = environment_of(database_url, provider, upstream_file=helped(tmp_path))
        with terminal(environment, "chat") as person:
            person.until(PROMPT)
            person.enter("How much?")
            person.until('Let me see.\n· helper: add {"a":2,"b":3} → success, ')
            person.until("ms\n· no_such_tool {} → error, 0 ms\nIt is five." + PROMPT)
            person.type(CTRL_D)
            assert person.wait() == 0
            session_id = session_in(person.since())
    async with tools_of(database_url) as tools:
        stored = outline(await entries(tools, session_id))
        (session,) = (await tools.answer("list_sessions"))["sessions"]
    assert session["title"] == "How much?"
    assert stored == [
        "user: How much?",
        "assistant: Let me see.",
        "add: success",
        "no_such_tool: error",
        "assistant: It is five.",
    ]


async def test_the_answer_is_seen_before_its_end_and_ctrl_c_stops_it_and_not_the_program(database_url: str) -> None:
    with at_terminal(database_url, Says(["So far"], hold=True), Says(["And on."]), Says(["Anew."])) as (
        provider,
        person,
    ):
        person.enter("Count")
        person.until("So far")
        assert not provider.let_go.is_set()
        person.interrupt()
        person.until(f"stopped; what was said is on record, /retry goes on{PROMPT}")
        said_to(person, "/retry", "And on.")
        said_to(person, "/retry", "every question has been answered")
        said_to(person, "More", "Anew.")
        person.type(CTRL_D)
        assert person.wait() == 0
        session_id = session_in(person.since())
    async with tools_of(database_url) as tools:
        stored = outline(await entries(tools, session_id))
    assert stored == [
        "user: Count",
        "assistant: So far",
        "system: [The answer was interrupted: it was cancelled.]",
        "assistant: And on.",
        "user: More",
        "assistant: Anew.",
    ]


async def test_ctrl_c_during_a_tool_call_cancels_the_call_and_the_session_goes_on(
    database_url: str, tmp_path: Path
) -> None:
    script = (Says(["Wait."], [("call_1", "wait", {})]), Says(["Good."]))
    with at_terminal(database_url, *script, upstream_file=helped(tmp_path)) as (provider, person):
        person.enter("Go")
        person.until("helper: wait {}")
        person.interrupt()
        person.until(f"/retry goes on{PROMPT}")
        said_to(person, "Never mind", "Good.")
        person.enter("/quit")
        assert person.wait() == 0
        session_id = session_in(person.since())
    async with tools_of(database_url) as tools:
        stored = outline(await entries(tools, session_id))
    assert stored[2] in ("wait: cancelled", "wait: unknown")
    assert (len(stored), stored[-1]) == (6, "assistant: Good.")
    calls = [said for said in spoken(provider.asked[-1]) if said[0] in ("call", "result")]
    assert [said[0] for said in calls] == ["call", "result"]


def test_ctrl_c_clears_a_line_and_ends_at_an_empty_one_when_it_comes_again(database_url: str) -> None:
    with at_terminal(database_url) as (provider, person):
        person.type("half a question")
        person.until("half a question")
        person.interrupt()
        person.until(f"Ctrl-C once more, or Ctrl-D, ends{PROMPT}")
        person.type("another")
        person.until("another")
        person.interrupt()
        person.until(f"Ctrl-C once more, or Ctrl-D, ends{PROMPT}")
        person.interrupt()
        assert person.wait() == 0
        assert "--session" not in person.shown, "nothing was asked, so nothing was begun"
        assert provider.asked == []


def test_lines_between_quotation_marks_and_pasted_ones_are_one_question(database_url: str) -> None:
    with at_terminal(database_url, Says(["Two."]), Says(["Pasted."])) as (provider, person):
        person.enter('"""first')
        person.until("\n… ")
        said_to(person, 'second"""', "Two.")
        said_to(person, "\x1b[200~third\nfourth\x1b[201~", "Pasted.")
        person.type(CTRL_D)
        assert person.wait() == 0
    questions = [said[1] for body in provider.asked for said in spoken(body)[-1:]]
    assert questions == ["first\nsecond", "third\nfourth"]


def test_a_provider_that_fails_is_one_line_and_the_conversation_goes_on(database_url: str) -> None:
    script = (*[Says(status=429)] * 3, Says(["Half"], cut=True), Says(status=401), Says(["Whole."]))
    with provided(*script) as provider, terminal(environment_of(database_url, provider), "chat") as person:
        person.until(PROMPT)
        said_to(person, "One", "provider answered 429: too many requests, or the quota is used up; /retry asks again")
        person.enter("Two")
        shown = person.until(PROMPT)
        assert "Half\nno answer: " in shown
        assert shown.count("\n") == 3
        said_to(person, "Three", "no answer: the model's provider answered 401: its key was refused; /retry asks again")
        said_to(person, "Four", "Whole.")
        person.type(CTRL_D)
        assert person.wait() == 0
        assert KEY not in person.shown


async def test_one_conversation_of_a_terminal_another_client_and_the_terminal_again(database_url: str) -> None:
    with provided(Says(["Noted."]), Says(["You said blue."])) as provider:
        environment = environment_of(database_url, provider)
        with terminal(environment, "chat") as person:
            person.until(PROMPT)
            said_to(person, "Remember what comes.", "Noted.")
            person.type(CTRL_D)
            assert person.wait() == 0
            session_id = session_in(person.since())
        async with tools_of(database_url) as tools:
            more = [{"role": "user", "content": "My colour is blue."}, {"role": "assistant", "content": "Blue it is."}]
            await tools.answer("add_messages", session_id=session_id, messages=more)
            await tools.answer("update_session", session_id=session_id, title="Colours")
        with terminal(environment, "chat", "--session", session_id) as person:
            person.until("Colours\n")
            person.until("> Remember what comes.\nNoted.\n\n> My colour is blue.\nBlue it is.\n")
            person.until(PROMPT)
            said_to(person, "Which colour?", "You said blue.")
            person.type("\x1b[A")
            person.until("Which colour?")
            person.type("\x1b[A")
            person.until("My colour is blue.")
            person.interrupt()
            person.until(PROMPT)
            person.type(CTRL_D)
            assert person.wait() == 0
        async with tools_of(database_url) as tools:
            stored = await entries(tools, session_id)
    expected = [
        ("user", "Remember what comes."),
        ("assistant", "Noted."),
        ("user", "My colour is blue."),
        ("assistant", "Blue it is."),
        ("user", "Which colour?"),
    ]
    assert spoken(provider.asked[1]) == expected
    assert [(entry["role"], entry["content"]) for entry in stored] == [*expected, ("assistant", "You said blue.")]


async def test_what_models_and_tools_say_cannot_steer_the_terminal(database_url: str, tmp_path: Path) -> None:
    pieces = [HOSTILE[number : number + 1] for number in range(len(HOSTILE))]
    script = (Says(pieces, [("call_1", "repeat", {"text": HOSTILE})]), Says([HOSTILE]))
    with provided(*script) as provider:
        environment = environment_of(database_url, provider, upstream_file=helped(tmp_path))
        async with tools_of(database_url) as tools:
            session_id = await tools.new_session(title=f"Title {HOSTILE}")
            await tools.say(session_id, f"Stored {HOSTILE}")
        with terminal(environment, "chat", "--session", session_id) as person:
            person.until("Stored red5m end")
            person.until(PROMPT)
            person.enter("Go")
            person.until("Go\nred5m end\n· helper: repeat")
            person.until(PROMPT)
            person.type(CTRL_D)
            assert person.wait() == 0
            assert not any(each in person.shown for each in STEER)
        provider.script[:] = [Says([HOSTILE])]
        assert invoked(environment, "Go", "--session", session_id).stdout == printable(HOSTILE) + "\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1_000])
def test_a_text_in_pieces_is_shown_as_the_whole_is(size: int) -> None:
    text = f"a{HOSTILE}b\x1b\\c\x1b(Bd\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\ e\x1b[1"
    growing = Growing()
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert "".join(map(growing.more, pieces)) == printable(text.removesuffix("\x1b[1"))


async def test_a_piped_question_prints_the_answer_alone(database_url: str, tmp_path: Path) -> None:
    script = (Says(["Let me see. "], [ADD]), Says(["It is\nfive."]), Says(["Still."]))
    with provided(*script) as provider:
        environment = environment_of(database_url, provider, upstream_file=helped(tmp_path))
        first = piped(environment, "How much?\n", "--idempotency-key", "k")
        again = invoked(environment, "How much?\n", "--idempotency-key", "k")
        session_id = first.stderr.split("session ")[-1].strip()
        second = invoked(environment, "Sure?", "--session", session_id)
    assert (first.returncode, first.stdout) == (0, "It is\nfive.\n")
    assert (again.exit_code, again.stdout) == (0, "It is\nfive.\n")
    assert (second.exit_code, second.stdout) == (0, "Still.\n")
    assert "· helper: add" in first.stderr
    assert [said[1] for said in spoken(provider.asked[-1]) if said[0] == "user"] == ["How much?", "Sure?"]
    assert len(provider.asked) == 3
    assert "\x1b" not in first.stdout + first.stderr


async def test_a_piped_question_that_fails_prints_nothing_but_why(database_url: str) -> None:
    with provided(Says(["Half"], cut=True)) as provider:
        failed = piped(environment_of(database_url, provider), "Hello")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "The answer was interrupted: the model's" in failed.stderr
    assert "`mcp-chat-server chat --session` goes on there" in failed.stderr
    assert "Traceback" not in failed.stderr


async def test_a_piped_question_that_is_stopped_keeps_what_was_said(database_url: str) -> None:
    with provided(Says(["So far"], hold=True)) as provider, piping(environment_of(database_url, provider)) as process:
        await asyncio.to_thread(provider.held.wait, 60)
        process.send_signal(signal.SIGINT)
        output, _ = await asyncio.to_thread(process.communicate, timeout=60)
        assert (process.returncode, output) == (130, b"")
    async with tools_of(database_url) as tools:
        (session,) = (await tools.answer("list_sessions"))["sessions"]
        stored = outline(await entries(tools, session["id"]))
    assert stored[0] == "user: Hello"
    assert stored[-1] == "system: [The answer was interrupted: it was cancelled.]"


def test_what_cannot_be_asked_is_refused_before_anything_is_stored(database_url: str, tmp_path: Path) -> None:
    with provided() as provider:
        environment = environment_of(database_url, provider)
        assert refusal_of(environment, "x", "--session", new_id()).startswith("You have no session")
        assert refusal_of(environment, "x", "--model", "openai:dear").startswith(
            "model: this server asks openai:scripted"
        )
        assert refusal_of(environment, "  \n").startswith("There is no question")
        assert refusal_of(environment, b"\xff\xfe").startswith("The question is not UTF-8")
        google = {"MCP_CHAT_MODEL": "google:x", "MCP_CHAT_MODEL_URL": "", "GOOGLE_API_KEY": ""}
        assert "GOOGLE_API_KEY" in refusal_of({**environment, **google}, "x")
        without_key = {name: value for name, value in environment.items() if name != "MCP_CHAT_MODEL_URL"}
        assert "OPENAI_API_KEY" in refusal_of({**without_key, "OPENAI_API_KEY": ""}, "x")
        without_model = {name: value for name, value in environment.items() if name != "MCP_CHAT_MODEL"}
        assert refusal_of(without_model, "x").startswith("No model is set up: install mcp-chat-server[chat], then set")
        assert provider.asked == []


def refusal_of(environment: Mapping[str, str], question: str | bytes, *arguments: str) -> str:
    """Return why a piped question is refused."""
    result = invoked(environment, question, *arguments)
    assert isinstance(result.exception, ChatError)
    assert result.output == ""
    return str(result.exception)


def test_commands_and_sessions_that_are_not_there_are_told_in_a_line(database_url: str) -> None:
    with provided(Says(["Here."])) as provider:
        environment = environment_of(database_url, provider, other_models=json.dumps(["openai:other"]))
        with terminal(environment, "chat", "--session", new_id()) as person:
            assert person.wait() == 1
            assert "You have no session" in person.shown
        with terminal(environment, "chat") as person:
            person.until(PROMPT)
            said_to(person, "/nonsense", "there is no such command; /help tells those there are")
            said_to(person, "/model dear", "allows more.")
            said_to(person, "/model openai:other", "openai:other (others: openai:other)")
            said_to(person, "/etc/hosts says what?", "Here.")
            said_to(person, "/session", "")
            person.type(CTRL_D)
            assert person.wait() == 0
        assert provider.asked[0]["model"] == "other"


async def test_a_terminal_that_goes_away_leaves_what_was_said_on_record(database_url: str) -> None:
    with at_terminal(database_url, Says(["So far"], hold=True)) as (_, person):
        person.enter("Hello")
        person.until("So far")
        person.hang_up()
        assert person.process.wait(60) == 128 + signal.SIGHUP
    async with tools_of(database_url) as tools:
        (session,) = (await tools.answer("list_sessions"))["sessions"]
        stored = outline(await entries(tools, session["id"]))
    assert stored == [
        "user: Hello",
        "assistant: So far",
        "system: [The answer was interrupted: it was cancelled.]",
    ]
