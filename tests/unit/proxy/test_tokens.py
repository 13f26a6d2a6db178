"""Tokens of answers, counted as they pass."""

import pytest

from aitherd.proxy.tokens import AnswerTokens, Count, counts_tokens

STREAM = [b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'] * 5


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([*STREAM, b"data: [DONE]\n\n"], 5),
        ([b"".join(STREAM)], 5),
        # What the engine says counts, where it says more than went by: several tokens came in one event.
        ([*STREAM, b'data: {"usage":{"prompt_tokens":3,"completion_tokens":40}}\n\ndata: [DONE]\n\n'], 40),
        ([*STREAM, b'data: {"usage":{"completion_tokens":4}}\n\n', b"data: [DONE]\n\n"], 4),
        ([b'{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12}}'], 12),
        ([b'{"usage":{"input_tokens":9,"output_tokens": 13}}'], 13),
        ([b'{"error":{"message":"no"}}'], 0),
        ([], 0),
    ],
)
def test_tokens_are_those_that_the_engine_counts_or_the_events_of_its_stream(
    pieces: list[bytes], expected: int
) -> None:
    count = Count()
    count.total = 100
    answer = AnswerTokens(count)
    for piece in pieces:
        answer.passed(piece)
    answer.ended()
    assert count.total == 100 + expected


def test_a_stream_counts_while_it_lasts_and_the_count_never_falls() -> None:
    count = Count()
    answer = AnswerTokens(count)
    seen = []
    for piece in [*STREAM, b'data: {"usage":{"completion_tokens":4}}\n\n']:
        answer.passed(piece)
        seen.append(count.total)
    answer.ended()
    # Three of its events may turn out to have carried no token.
    assert seen == [0, 0, 0, 1, 2, 3]
    assert count.total == 4
    answer = AnswerTokens(count)
    for piece in STREAM:
        answer.passed(piece)
    answer.passed(b'data: {"usage":{"completion_tokens":1}}\n\n')
    answer.ended()
    assert count.total == 4 + 3


def test_only_text_of_models_is_counted() -> None:
    assert counts_tokens(b"Content-Type: text/event-stream; charset=utf-8\r\n")
    assert counts_tokens(b"content-type: application/json\r\n")
    assert not counts_tokens(b"Content-Type: audio/wav\r\n")
