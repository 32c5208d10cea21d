"""Repair: from the entries of a window to its turns, each call with its result, each correction in its place."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from chat_service.turns import NOTHING, Call, Excerpt, Role, Turn, how_to_read
from models.shapes import MessagePreviewDict, ToolUsagePreviewDict

_HEADINGS = {"summary": "[Summary, entry {seq}]", "pin": "[Pinned, entry {seq}]"}
_ATTACHMENTS = frozenset({"blob", "file", "uri"})


class Window:
    """The entries of a window, and which of them belong together."""

    def __init__(self, entries: Iterable[MessagePreviewDict | ToolUsagePreviewDict]) -> None:
        self._messages: dict[int, MessagePreviewDict] = {}
        self._usages: list[ToolUsagePreviewDict] = []
        for entry in entries:
            if "message_type" in entry:
                self._messages[entry["seq"]] = cast("MessagePreviewDict", entry)
            else:
                self._usages.append(entry)
        self._newest_form = {
            self._corrected(seq): message for seq, message in self._messages.items() if message["replaces_seq"]
        }
        self._parts = {seq: _parts(self._form(seq)) for seq in self._shown()}
        self._asked = self._calls_by_message()
        self._outputs = self._outputs_by_message()

    def turns(self) -> list[Turn]:
        """Return the turns, oldest first."""
        attached = {usage["seq"] for usages in self._asked.values() for usage in usages}
        folded = {output["seq"] for outputs in self._outputs.values() for output, _ in outputs}
        turns = [self._turn(seq) for seq in self._shown() if seq not in folded]
        turns += [_lone_call(usage) for usage in self._usages if usage["seq"] not in attached]
        return sorted(turns, key=lambda turn: turn.seq)

    def _shown(self) -> list[int]:
        return [seq for seq, message in self._messages.items() if not message["replaces_seq"]]

    def _form(self, seq: int) -> MessagePreviewDict:
        return self._newest_form.get(seq, self._messages[seq])

    def _corrected(self, seq: int) -> int:
        """Return the message that a correction is for in the end; any other is its own."""
        while seq in self._messages and (replaced := self._messages[seq]["replaces_seq"]):
            seq = replaced
        return seq

    def _is_assistants(self, seq: int) -> bool:
        return seq in self._parts and self._form(seq)["message_type"] == "assistant"

    def _calls_by_message(self) -> dict[int, list[ToolUsagePreviewDict]]:
        asked = defaultdict(list)
        for usage in self._usages:
            by = self._corrected(usage["message_seq"] or 0)
            if self._is_assistants(by):
                asked[by].append(usage)
        return asked

    def _outputs_by_message(self) -> dict[int, list[tuple[MessagePreviewDict, str]]]:
        """Find messages of role tool that say only what a call of the window gave, where that has no record of it."""
        outputs: dict[int, list[tuple[MessagePreviewDict, str]]] = defaultdict(list)
        askers: dict[str, int] = {}
        for seq in self._shown():
            parts, form = self._parts[seq], self._form(seq)
            if self._is_assistants(seq):
                askers |= dict.fromkeys(_ids(parts, "tool_call"), seq)
            elif form["message_type"] == "tool":
                called = _ids(parts, "tool_call_response")
                by = askers.get(called[0]) if len(called) == 1 else None
                if by is None or len(parts) != 1 or self._messages[seq]["kind"] != "message":
                    continue
                has_record = any(usage["tool_call_id"] == called[0] for usage in self._asked[by])
                has_output = any(given == called[0] for _, given in outputs[by])
                if has_output or bool(form["content"].strip()) == has_record:
                    continue
                outputs[by].append((self._messages[seq], called[0]))
        return outputs

    def _turn(self, seq: int) -> Turn:
        message, form = self._messages[seq], self._form(seq)
        outputs = {given: self._form(output["seq"]) for output, given in self._outputs.get(seq, ())}
        calls = self._calls(seq, outputs) if self._is_assistants(seq) else ()
        folded = {output["seq"] for output, _ in self._outputs.get(seq, ())}
        seqs = {seq, form["seq"], *folded, *(each["seq"] for each in outputs.values())}
        seqs |= {call.seq for call in calls if call.seq is not None}
        turn = turn_of(message, form, calls)
        unasked = 0 if self._is_assistants(seq) else len(_ids(self._parts[seq], "tool_call"))
        if not unasked and seqs == turn.seqs:
            return turn
        note = _joined([turn.note, f"[Asks for {unasked} tool calls.]" if unasked else ""])
        return replace(turn, note=note, seqs=frozenset(seqs))

    def _calls(self, seq: int, outputs: Mapping[str, MessagePreviewDict]) -> tuple[Call, ...]:
        names = {part["id"]: part.get("name") for part in self._parts[seq] if part["type"] == "tool_call"}
        order = {given: index for index, given in enumerate(names)}
        usages = self._asked.get(seq, [])
        known = {usage["tool_call_id"] for usage in usages}
        calls = [_call(usage) for usage in usages]
        calls += [
            _unrecorded(seq, given, name, outputs.get(given)) for given, name in names.items() if given not in known
        ]
        return tuple(sorted(calls, key=lambda call: (order.get(call.given_id or "", len(order)), call.read_seq)))


def turn_of(message: MessagePreviewDict, form: MessagePreviewDict, calls: tuple[Call, ...] = ()) -> Turn:
    """Return the turn of a message alone, in its newest form."""
    parts = _parts(form)
    seq, role = message["seq"], form["message_type"]
    heading = _HEADINGS.get(message["kind"], "").format(seq=seq)
    if role == "tool":
        heading = _joined([heading, f"[Output of a tool, entry {seq}]"])
    reasoning = "\n\n".join(part["content"] for part in parts if part["type"] == "reasoning")
    return Turn(
        seq=seq,
        role=cast("Role", "user" if role == "tool" else role),
        kind=message["kind"],
        text=_text(form, parts),
        reasoning=Excerpt(reasoning, len(reasoning)),
        given_role=role,
        heading=heading,
        note=_joined(_attachment_notes(form, parts)),
        calls=calls,
        seqs=frozenset({seq, form["seq"]}),
        read_seq=form["seq"],
    )


def kept_turn(message: MessagePreviewDict, form: MessagePreviewDict) -> Turn:
    """Return the turn of a pin or a summary that stands outside the window, without its calls."""
    turn = turn_of(message, form)
    asked = len(_ids(_parts(form), "tool_call"))
    note = _joined([turn.note, f"[Its {asked} tool calls are not shown here.]" if asked else ""])
    return replace(turn, note=note)


def _parts(message: MessagePreviewDict) -> list[dict[str, Any]]:
    if message["parts"] is None or _is_cut(message):
        return []
    parts: list[dict[str, Any]] = json.loads(message["parts"])
    return parts


def _is_cut(message: MessagePreviewDict) -> bool:
    return message["parts"] is not None and len(message["parts"]) < (message["parts_length"] or 0)


def _text(message: MessagePreviewDict, parts: Sequence[Mapping[str, Any]]) -> Excerpt:
    content, length = message["content"], message["content_length"]
    # Importers keep the text of the parts in the content as well.
    more = [part["content"] for part in parts if part["type"] == "text" and part["content"] not in content]
    if not more or len(content) < length:
        return Excerpt(content, length)
    text = "\n\n".join([content, *more] if content else more)
    return Excerpt(text, len(text))


def _attachment_notes(message: MessagePreviewDict, parts: Sequence[Mapping[str, Any]]) -> list[str]:
    read = how_to_read(message["seq"])
    if _is_cut(message):
        return [f"[The parts of this entry, {message['parts_length']} characters, are not shown; {read}.]"]
    kinds = [part["type"] for part in parts if part["type"] in _ATTACHMENTS]
    return [f"[Attached, not shown: {', '.join(kinds)}; {read}.]"] if kinds else []


def _ids(parts: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
    return list(dict.fromkeys(part["id"] for part in parts if part["type"] == kind))


def _joined(notes: Iterable[str]) -> str:
    return "\n".join(note for note in notes if note)


def _call(usage: ToolUsagePreviewDict) -> Call:
    return Call(
        seq=usage["seq"],
        read_seq=usage["seq"],
        given_id=usage["tool_call_id"],
        given_name=usage["tool_name"],
        arguments=Excerpt(usage["arguments"], usage["arguments_length"]),
        result=Excerpt(usage["result"] or "", usage["result_length"] or 0),
        error=Excerpt(usage["error"] or "", usage["error_length"] or 0),
        status=usage["status"],
    )


def _unrecorded(seq: int, given_id: str, name: str | None, output: MessagePreviewDict | None) -> Call:
    return Call(
        seq=None,
        read_seq=seq if output is None else output["seq"],
        given_id=given_id,
        given_name=name,
        arguments=Excerpt("{}", 2),
        result=NOTHING if output is None else Excerpt(output["content"], output["content_length"]),
        error=NOTHING,
        status="unknown" if output is None else "success",
        result_is_text=output is not None,
    )


def _lone_call(usage: ToolUsagePreviewDict) -> Turn:
    seq = usage["seq"]
    return Turn(
        seq=seq,
        role="assistant",
        heading=f"[Entry {seq}: a call without the message that asked for it.]",
        calls=(_call(usage),),
        seqs=frozenset({seq}),
        read_seq=seq,
    )
