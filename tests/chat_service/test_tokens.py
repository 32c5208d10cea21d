"""The estimate of tokens, against what the vocabularies of model providers make of the same texts."""

import pytest
from hypothesis import given

from chat_service.tokens import count_message, count_tool_usage, estimate_tokens
from models.inputs import NewMessage
from tests.support import PROPERTY, TEXTS, asking, done, said

CODE = """def get_key(connection, user_id, session_id):
    \"\"\"Return the integer key of an owned session; raises NotFound.\"\"\"
    key = connection.execute(_GET_KEY, check_ids(user_id, session_id)).scalar_one_or_none()
    if key is None:
        raise not_found()
    return key
"""
PROSE = "hey, can you check why the build fails? I think it's the import in utils.py, but I'm not sure. Thanks!"
CHINESE = "今天我们讨论一下数据库的设计。每个会话都有一个没有间隔的序号，消息和工具调用共享这个序号。"
JAPANESE = "今日はデータベースの設計について話し合います。カタカナもひらがなも混ざっています。"
KOREAN = "오늘은 데이터베이스 설계에 대해 이야기합니다. 각 세션에는 빈틈없는 번호가 있습니다."
RUSSIAN = "Сегодня мы обсудим устройство базы данных. У каждой сессии есть сплошная нумерация."
EMOJI = "😀😂🥹🚀🔥🎉💯🤖🧪🪄"
FAMILY = "👨‍👩‍👧‍👦🏳️‍🌈🇩🇪🇯🇵"
JSON = '[{"id":"c1","seq":1,"created_at":"2026-11-21T05:42:59.123456Z","role":"user","ok":true,"n":0.3238}]'
LOG = "2026-11-21 05:07:12,259 ERROR [worker-7] request /api/v1/users/55433/items?limit=50 failed: status=503"
HEX = "d1f9e3a47b60c2588efa0b9d3347616cde01f28a"

KNOWN = {
    # Tokens in cl100k, in o200k, and in the last vocabulary that Anthropic published.
    CODE: (62, 63, 76),
    PROSE: (28, 26, 29),
    CHINESE: (40, 30, 38),
    JAPANESE: (39, 28, 42),
    KOREAN: (42, 24, 44),
    RUSSIAN: (33, 24, 44),
    EMOJI: (27, 19, 25),
    FAMILY: (39, 25, 34),
    JSON: (46, 46, 46),
    LOG: (39, 39, 41),
    HEX: (27, 27, 28),
}


@pytest.mark.parametrize("text", KNOWN, ids=lambda text: text[:12])
def test_the_estimate_is_hardly_below_the_most_expensive_vocabulary_and_not_far_above(text: str) -> None:
    assert 0.85 * max(KNOWN[text]) <= estimate_tokens(text) <= 2.1 * max(KNOWN[text])


def test_on_the_whole_the_estimate_is_close() -> None:
    ratio = sum(map(estimate_tokens, KNOWN)) / sum(max(known) for known in KNOWN.values())
    assert 1.0 <= ratio <= 1.5


def test_a_text_without_spaces_is_not_taken_for_one_word() -> None:
    # Random letters and base64 take more than half a token a letter.
    assert estimate_tokens("qzjxkvwpyfbg" * 100) >= 600
    assert estimate_tokens("aGVsbG8gd29ybGQhIFRoaXMgaXMgYmFzZTY0" * 10) >= 0.55 * 360


@PROPERTY
@given(one=TEXTS, other=TEXTS)
def test_an_estimate_grows_with_its_text_and_is_zero_for_an_empty_one_alone(one: str, other: str) -> None:
    assert (estimate_tokens(one) == 0) == (one == "")
    assert max(estimate_tokens(one), estimate_tokens(other)) <= estimate_tokens(one + other)
    assert estimate_tokens(one) <= 3 * len(one.encode())


def test_a_message_counts_its_texts_and_a_call_its_arguments_and_what_came_of_it() -> None:
    assert count_message(len, said("12345")) == 5
    assert count_message(len, asking("call")) == 0
    parts = [{"type": "text", "content": "123"}, {"type": "reasoning", "content": "1234567"}]
    message = NewMessage.model_validate({"role": "assistant", "content": "123", "parts": parts})
    assert count_message(len, message) == 10
    assert count_tool_usage(len, done("read", arguments={"a": 1}, result="xy", error="no")) == 4 + 7 + 4 + 2
