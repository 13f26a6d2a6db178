"""The least work that a server of OpenAI's routes can be asked for: one token, or one embedding.

Each raises `EngineSilent` when no answer comes in time and `EngineRefused` for an error or an answer that has not in it
what was asked for; each returns False where the server takes no such request, so that nothing was learned.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from aitherd.core.words import Seconds
from aitherd.engines.base import Control, EngineRefused, EngineSilent, fields

COMPLETES = frozenset({"chat", "completions", "tools", "reasoning", "vision"})
"""Abilities, as model files name them, of a model that writes text."""
EMBEDS = frozenset({"embeddings"})


async def by_ability(control: Control, can: Collection[str], timeout: Seconds, *, chat: bool = False) -> bool:
    """The canary that fits what a model can do; a server that is told nothing about is asked for nothing.

    With `chat` only the chat route may be used.
    """
    if COMPLETES & set(can):
        return await one_token(control, timeout, chat=chat)
    if EMBEDS & set(can):
        return await one_embedding(control, timeout)
    return False


async def one_token(control: Control, timeout: Seconds, *, chat: bool = False) -> bool:
    """One token of text."""
    route = "/v1/chat/completions" if chat else "/v1/completions"
    asked: dict[str, Any] = {"max_tokens": 1, "temperature": 0}
    asked |= {"messages": [{"role": "user", "content": "1"}]} if chat else {"prompt": "1"}
    answer = await _ask(control, route, asked, timeout)
    if answer is None:
        return False
    if not answer.get("choices"):
        raise EngineRefused(f"{route} answered without a token")
    return True


async def one_embedding(control: Control, timeout: Seconds) -> bool:
    """The embedding of one word: numbers that are not all nothing."""
    route = "/v1/embeddings"
    answer = await _ask(control, route, {"input": "1"}, timeout)
    if answer is None:
        return False
    data = answer.get("data")
    first = data[0] if isinstance(data, list) and data else None
    vector = first.get("embedding") if isinstance(first, dict) else None
    if not (isinstance(vector, list) and any(isinstance(number, float | int) and number for number in vector)):
        raise EngineRefused(f"{route} answered without an embedding")
    return True


async def _ask(control: Control, route: str, asked: dict[str, Any], timeout: Seconds) -> dict[str, Any] | None:
    """The answer, or None for a request that the server does not take."""
    listed = await control.get("/v1/models", timeout=timeout)
    if listed is None:
        raise EngineSilent("/v1/models does not answer")
    names = fields(listed).get("data")
    first = names[0] if isinstance(names, list) and names else None
    if isinstance(first, dict) and isinstance(first.get("id"), str):
        # vLLM takes only the name that it serves; others do not look at it.
        asked = {"model": first["id"], **asked}
    answer = await control.post(route, json=asked, timeout=timeout)
    if answer is None:
        raise EngineSilent(f"{route} does not answer within {timeout:g} s")
    if answer.status_code >= 500:
        raise EngineRefused(f"{route} answered {answer.status_code}")
    return fields(answer) if answer.is_success else None
