"""A whole answer: the loop of asking the model and making the calls that it asks for, each step on record.

The context is read from the record before each question, so what the model sees is what is stored. A run ends in one of
three ways: with an answer, at a bound (rounds, tokens, time), or interrupted; in each, what happened stands in the
session, which can go on from there.
"""

import asyncio
import json
import os
import socket
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chat_service.tokens import estimate_tokens
from models.errors import ChatError, Conflict, Invalid, Unavailable
from models.ids import RunId, SessionId, new_id
from models.inputs import (
    Lease,
    NewMessage,
    NewRun,
    NewToolUsage,
    ReasoningPart,
    RunCall,
    RunState,
    TextPart,
    ToolCallPart,
    Usage,
)
from models.text import check_json, to_json
from server.llm.asking import Answer, Asking, Interrupted, ask
from server.llm.heard import Heard
from server.llm.instructions import instructions_for
from server.llm.models import check_model, check_way, open_model
from server.llm.toolbox import OfferedTool, offered_to_model
from server.settings import PREFIX, Settings
from server.upstream.calls import Call

if TYPE_CHECKING:
    from models.shapes import RunDict
    from server.record import Caller

_SHUT_SECONDS = 3.0
_TITLE = 80
_SMALLEST_BUDGET = 256
_CANCELLED = "it was cancelled"
BOUNDS = {
    "rounds": "the model asked for tools in more rounds than one answer may have",
    "tokens": "the answer has used up the tokens that one answer may cost",
    "time": "the answer took longer than one answer may take",
}
"""The finish reasons of our own, and what each says."""


@dataclass(frozen=True, slots=True)
class Question:
    """What to answer; without `session_id` in a new session, without a key not to be repeated."""

    message: str
    session_id: str | None = None
    model: str | None = None
    idempotency_key: str | None = None


@dataclass(slots=True)
class _Work:
    """An answer in the making."""

    caller: "Caller"
    heard: Heard
    run: "RunDict"
    lease: Lease
    model: str
    tools: dict[str, OfferedTool] = field(default_factory=dict)
    answer: Answer = field(default_factory=Answer)
    tokens: int = 0
    usages: list[Usage] = field(default_factory=list)
    rounds: int = 0
    calls: list[dict[str, Any]] = field(default_factory=list)

    @property
    def session_id(self) -> SessionId:
        return SessionId(self.run["session_id"])

    @property
    def run_id(self) -> RunId:
        return RunId(self.run["id"])


class Chats:
    """Answers questions with a model; close it at the end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ending: set[asyncio.Task[RunDict]] = set()
        self._owner = f"{socket.gethostname()}:{os.getpid()}"[:150]

    async def answer(self, caller: "Caller", question: Question, heard: Heard) -> "RunDict":
        """Answer a question and return its run, done; raises the errors of the house.

        Unavailable where the model did not answer to the end: the session says so, and the same key goes on from there.
        """
        model = check_model(self._settings, question.model)
        check_way(self._settings, model)
        lease = Lease(owner=f"{self._owner}:{new_id()}", seconds=self._settings.lease_seconds)
        new_run = NewRun(
            message=NewMessage(role="user", content=question.message, author="user"),
            session_id=question.session_id,
            title=" ".join(question.message.split())[:_TITLE] or None,
            client=caller.client,
            model=question.model,
            idempotency_key=question.idempotency_key or new_id(),
        )
        beginning = asyncio.create_task(caller.service.begin_run(caller.user_id, new_run, lease))
        try:
            run = await asyncio.shield(beginning)
        except asyncio.CancelledError:
            self._end_aside(self._let_go(caller, heard, beginning, lease, model))
            raise
        if run["state"] == "done":
            return run
        work = _Work(caller, heard, run, lease, model)
        await heard.begun(run)
        renewing = asyncio.create_task(self._renew(work))
        try:
            return await self._carry_through(work)
        finally:
            renewing.cancel()

    async def recorded(self) -> None:
        """Wait until what came of interrupted answers is written down, or for some seconds."""
        if self._ending:
            await asyncio.wait(self._ending, timeout=_SHUT_SECONDS)

    async def _carry_through(self, work: _Work) -> "RunDict":
        try:
            async with asyncio.timeout(self._settings.answer_seconds):
                async with open_model(self._settings, work.model) as model:
                    work.tools = await offered_to_model(work.caller.upstreams)
                    bound = await self._rounds(work, model)
        except TimeoutError:
            bound = "time"
        except asyncio.CancelledError:
            self._end_soon(work, _CANCELLED)
            raise
        except Interrupted as error:
            await asyncio.shield(self._end_soon(work, str(error)))
            raise Unavailable(
                f"The answer was interrupted: {error}. The session {work.session_id} has what came of it; "
                "call again with the same idempotency_key to go on."
            ) from error
        except ChatError as error:
            await asyncio.shield(self._end_soon(work, type(error).__name__))
            raise
        except Exception as error:
            await asyncio.shield(self._end_soon(work, f"the server failed ({type(error).__name__})"))
            raise
        return await asyncio.shield(self._end_soon(work, bound))

    async def _rounds(self, work: _Work, model: Any) -> str:
        """Ask and call by turns; return the bound that was reached, or nothing where the model has answered."""
        tools = list(work.tools.values())
        described = sum(estimate_tokens(to_json([tool.name, tool.description, tool.input_schema])) for tool in tools)
        budget = self._settings.token_budget - described
        service, user_id = work.caller.service, work.caller.user_id
        instructions = await instructions_for(service, user_id, work.session_id, self._settings, budget)
        budget -= instructions.tokens
        if budget < _SMALLEST_BUDGET:
            beside = f"{len(tools)} tools" + (" and the system prompt" if instructions.text else "")
            raise Invalid(f"{PREFIX}TOKEN_BUDGET leaves no room beside {beside}: raise it, or give less.")
        while True:
            work.answer = Answer()
            context = await service.get_context(user_id, work.session_id, budget, "openai_chat")
            window = instructions.before(context)
            await ask(model, window, tools, self._settings.output_tokens, work.answer, work.heard.grown)
            work.tokens += work.answer.tokens
            work.usages += [work.answer.usage] if work.answer.usage else []
            if not work.answer.calls:
                return ""
            if work.rounds >= self._settings.tool_rounds:
                return "rounds"
            if work.tokens >= self._settings.answer_tokens:
                return "tokens"
            work.rounds += 1
            await self._call_all(work)

    async def _call_all(self, work: _Work) -> None:
        asked = work.answer
        references = [ToolCallPart(type="tool_call", id=call.id, name=call.name) for call in asked.calls]
        message = self._said(work, references)
        intended = [_intended(work, call) for call in asked.calls]
        service, user_id = work.caller.service, work.caller.user_id
        stored = await service.add_run_message(user_id, work.run_id, work.lease, message, intended)
        work.answer = Answer()
        for asking, call in zip(asked.calls, intended, strict=True):
            name = call.tool_name if call.server_name is None else f"{call.server_name}: {call.tool_name}"
            await work.heard.calling(name, call.arguments)
            if problem := _problem(work, asking):
                usage = NewToolUsage(**call.model_dump(), error=problem, message_seq=stored["seq"], origin="proxy")
                record = await service.add_tool_usage(user_id, work.session_id, usage)
                work.calls.append({"tool": asking.name, "status": "error", "seq": record["seq"]})
                await work.heard.called(name, "error", 0.0)
                continue
            tool, upstreams = work.tools[asking.name], work.caller.upstreams
            assert upstreams is not None  # noqa: S101 - it offered the tool
            to_make = Call(tool.server, tool.tool, call.arguments, asking.id, stored["seq"])
            called = await upstreams.call(work.caller, work.session_id, to_make)
            await work.heard.called(name, called.outcome.status, called.duration_ms)
            if called.not_recorded is not None:
                raise Unavailable(f"A tool call could not be recorded ({called.not_recorded})")
            made = {"server": tool.server, "tool": tool.tool, "status": called.outcome.status, "seq": called.seq}
            work.calls.append(made)

    def _end_soon(self, work: _Work, reason: str) -> "asyncio.Task[RunDict]":
        return self._end_aside(self._end(work, reason))

    def _end_aside(self, coroutine: "Coroutine[Any, Any, RunDict]") -> "asyncio.Task[RunDict]":
        # A task of its own: whoever asked may be gone.
        ending = asyncio.create_task(coroutine)
        self._ending.add(ending)
        ending.add_done_callback(self._ended)
        return ending

    async def _let_go(
        self, caller: "Caller", heard: Heard, beginning: "asyncio.Task[RunDict]", lease: Lease, model: str
    ) -> "RunDict":
        # What has begun to be stored is stored: nobody else could ask until its lease has expired.
        run = await beginning
        return run if run["state"] == "done" else await self._end(_Work(caller, heard, run, lease, model), _CANCELLED)

    async def _end(self, work: _Work, reason: str) -> "RunDict":
        if work.caller.upstreams is not None:
            await work.caller.upstreams.recorded()
        is_done = not reason or reason in BOUNDS
        messages = []
        if work.answer.text.strip():
            messages.append(self._said(work, []))
        if reason or not messages:
            why = BOUNDS.get(reason, reason) or "the model gave no text"
            note = f"[The answer ends here: {why}.]" if is_done else f"[The answer was interrupted: {why}.]"
            messages.append(NewMessage(role="system", content=note, author="proxy"))
        result = {
            "model": work.model,
            "finish_reason": reason or work.answer.finish_reason,
            "rounds": work.rounds,
            "input_tokens": sum(usage.input_tokens or 0 for usage in work.usages),
            "output_tokens": sum(usage.output_tokens or 0 for usage in work.usages),
            "tool_calls": work.calls,
        }
        state: RunState = "done" if is_done else "failed"
        service, user_id = work.caller.service, work.caller.user_id
        return await service.end_run(user_id, work.run_id, work.lease, state, messages, result if is_done else None)

    def _ended(self, ending: "asyncio.Task[RunDict]") -> None:
        self._ending.discard(ending)
        if not ending.cancelled():
            ending.exception()

    def _said(self, work: _Work, calls: list[ToolCallPart]) -> NewMessage:
        answer = work.answer
        reasoning = [ReasoningPart(type="reasoning", content=answer.reasoning)] if answer.reasoning else []
        text = [TextPart(type="text", content=answer.text)] if answer.text and (calls or reasoning) else []
        return NewMessage(
            role="assistant",
            content=answer.text,
            parts=[*reasoning, *text, *calls] or None,
            message_metadata={"run": work.run["id"], "finish_reason": answer.finish_reason or "interrupted"},
            author="proxy",
            model=work.model,
            usage=answer.usage,
        )

    async def _renew(self, work: _Work) -> None:
        # Where this fails, the next step is refused, and says why.
        with suppress(ChatError):
            while True:
                await asyncio.sleep(work.lease.seconds / 3)
                await work.caller.service.renew_run(work.caller.user_id, work.run_id, work.lease)


async def read_answer(caller: "Caller", run: "RunDict") -> str:
    """Return the text of an answer that is done; raises Conflict where it is in its session no more."""
    result = run["result"] or {}
    session_id = SessionId(run["session_id"])
    page = await caller.service.get_session_messages(caller.user_id, session_id, 1, after_seq=result["answer_seq"] - 1)
    if not page["messages"]:
        raise Conflict("The answer is not in its session any more: it was merged into another one.")
    return page["messages"][0]["content"]


def _intended(work: _Work, asking: Asking) -> RunCall:
    tool = work.tools.get(asking.name)
    return RunCall(
        tool_call_id=asking.id,
        server_name=None if tool is None else tool.server,
        tool_name=asking.name if tool is None else tool.tool,
        arguments=_arguments(asking) or {},
    )


def _problem(work: _Work, asking: Asking) -> str | None:
    if asking.name not in work.tools:
        return "not called: there is no tool of this name"
    if _arguments(asking) is None:
        return "not called: the arguments are not a JSON object"
    return None


def _arguments(asking: Asking) -> dict[str, Any] | None:
    try:
        arguments = check_json(json.loads(asking.arguments))
    except (ValueError, RecursionError):
        return None
    return arguments if isinstance(arguments, dict) else None
