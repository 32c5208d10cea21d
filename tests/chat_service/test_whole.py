"""Whole sessions as providers take them: valid, and nothing of them left out, forks and broken calls included."""

from collections.abc import Callable
from typing import Any

import pytest

from chat_service.service import ChatService
from chat_service.whole import render_whole
from models.errors import NotFound
from models.ids import SessionId, UserId
from models.inputs import ContextShape
from models.text import to_json
from tests.chat_service import provider_rules
from tests.support import asking, done, new_session, said

pytestmark = pytest.mark.anyio

RULES: dict[ContextShape, Callable[[dict[str, Any]], None]] = {
    "openai_chat": provider_rules.check_openai_chat,
    "openai_responses": provider_rules.check_openai_responses,
    "anthropic": provider_rules.check_anthropic,
}


@pytest.mark.parametrize("shape", RULES)
async def test_a_whole_session_is_valid_and_says_everything(
    service: ChatService, user_id: UserId, stranger_id: UserId, shape: ContextShape
) -> None:
    parent = await new_session(service, user_id)
    for first in (0, 300):
        long = [said(f"word{number} " * 400) for number in range(first, first + 300)]
        await service.add_messages(user_id, parent, long)
    await service.add_messages(user_id, parent, [asking("c1", "c2"), said("meanwhile")])
    await service.add_tool_usage(user_id, parent, done(result="outcome1", tool_call_id="c1"))
    session_id = SessionId((await service.fork_session(user_id, parent))["id"])
    await service.add_tool_usage(user_id, session_id, done(result="outcome3", tool_call_id="nobody asked"))
    await service.add_message(user_id, session_id, said("the end"))
    window = await service.snapshot(lambda connection: render_whole(connection, user_id, session_id, shape))
    RULES[shape](window)
    text = to_json(window)
    for number in range(600):
        assert text.count(f"word{number} ") == 400
    for word in ("meanwhile", "outcome1", "outcome3", "the end"):
        assert word in text
    with pytest.raises(NotFound):
        await service.snapshot(lambda connection: render_whole(connection, stranger_id, session_id, shape))
