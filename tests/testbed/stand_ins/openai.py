"""Answers in the OpenAI shape, one word a token at a chosen pace."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from tests.testbed.stand_ins.http import Request, Response, reply

DEFAULT_TOKENS = 8
POLL_S = 0.05
WAVE = (
    b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\xc0\x5d\x00\x00\x80\xbb\x00\x00\x02\x00\x10\x00data"
)


def model_list(names: list[str]) -> Response:
    """`GET /v1/models`."""
    return reply(
        {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "stand-in"} for name in names]}
    )


async def hang(flag: Path | None) -> bool:
    """Returns when the file `flag` is gone: the GPU hangs while it is there. True, at once, if it says `error`."""
    while flag is not None and flag.exists():  # noqa: ASYNC240 - a test's file in memory
        if "error" in flag.read_text():  # noqa: ASYNC240
            return True
        await asyncio.sleep(POLL_S)
    return False


def speech() -> Response:
    """`POST /v1/audio/speech`: nothing to hear."""
    return Response(body=WAVE, kind="audio/wav")


def image() -> Response:
    """`POST /v1/images/generations`: one that nobody can see."""
    return reply({"created": 0, "data": [{"b64_json": base64.b64encode(b"GIF89a").decode()}]})


async def complete(
    request: Request, *, word: str, pace: float, on_token: Callable[[int], None] = lambda number: None
) -> Response:
    """Answers a chat or text completion with `max_tokens` times `word`, `pace` seconds apart, streamed if asked to be.

    `on_token` is called with each token's number before it is sent.
    """
    asked = request.json()
    chat = request.path.endswith("/chat/completions")
    wanted = asked.get("max_tokens")
    count = wanted if isinstance(wanted, int) else DEFAULT_TOKENS
    base = {"id": "stand-in", "model": asked.get("model", "stand-in"), "created": 0}
    if asked.get("stream"):
        stream = _stream(base, word, count, pace, on_token, chat=chat)
        return Response(body=stream, kind="text/event-stream")
    for number in range(count):
        on_token(number)
        await asyncio.sleep(pace)
    text = f"{word} " * count
    part = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}
    choice = {"index": 0, "finish_reason": "length", **part}
    return reply(
        {**base, "object": "chat.completion" if chat else "text_completion", "choices": [choice], "usage": usage}
    )


async def _stream(
    base: dict[str, object], word: str, count: int, pace: float, on_token: Callable[[int], None], *, chat: bool
) -> AsyncGenerator[bytes, None]:
    for number in range(count):
        on_token(number)
        part = {"delta": {"content": f"{word} "}} if chat else {"text": f"{word} "}
        finish = "length" if number == count - 1 else None
        event = {**base, "object": "chat.completion.chunk", "choices": [{"index": 0, "finish_reason": finish, **part}]}
        yield f"data: {json.dumps(event)}\n\n".encode()
        await asyncio.sleep(pace)
    yield b"data: [DONE]\n\n"
