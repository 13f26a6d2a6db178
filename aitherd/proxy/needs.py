"""What a request needs of whoever answers it, from its route and its body. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from types import MappingProxyType
from typing import Any

import msgspec

from aitherd.core.upstreams import Abilities

_BY_ROUTE: Mapping[str, str] = MappingProxyType(
    {
        "/v1/chat/completions": "chat",
        "/v1/completions": "completions",
        "/v1/responses": "chat",
        "/v1/messages": "messages",
        "/v1/messages/count_tokens": "messages",
        "/v1/embeddings": "embeddings",
        "/v1/rerank": "rerank",
        "/v1/audio/speech": "speech",
        "/v1/audio/transcriptions": "transcriptions",
        "/v1/audio/translations": "translations",
        "/v1/images/generations": "images",
    }
)
_IMAGES = frozenset({"image_url", "input_image", "image"})
_STREAMING = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})


@dataclass(frozen=True, slots=True)
class Needs:
    """What there is to know of a body before it is routed."""

    abilities: Abilities
    effort: str = ""
    """`reasoning_effort`, or `reasoning.effort` of a response."""
    conversation: str = ""
    """The same for requests that begin alike or say that they belong together; empty when there is no telling."""


def of_route(route: str) -> Needs:
    """What every request of a route needs."""
    ability = _BY_ROUTE.get(route)
    return Needs(frozenset({ability} if ability else ()))


def of_json(route: str, body: bytes, session: str = "") -> Needs:
    """What a JSON body needs; it has been found to be an object before. `session` is what its head says of that."""
    found = msgspec.json.decode(body)
    abilities = set(of_route(route).abilities)
    if found.get("tools") or found.get("functions"):
        abilities.add("tools")
    if any(True for _ in _images(found.get("messages"))) or any(True for _ in _images(found.get("input"))):
        abilities.add("vision")
    effort = found.get("reasoning_effort")
    if effort is None and isinstance(reasoning := found.get("reasoning"), dict):
        effort = reasoning.get("effort")
    conversation = _conversation(found, session)
    return Needs(frozenset(abilities), effort if isinstance(effort, str) else "", conversation)


def streams(route: str, body: bytes) -> bool:
    """Whether a request asks for its answer as a stream of events."""
    return route in _STREAMING and msgspec.json.decode(body).get("stream") is True


def _conversation(found: Mapping[str, Any], session: str) -> str:
    """What a request has in common with those that it goes on from: a name that says so, or how it begins.

    A conversation grows at its end, so everything up to the first thing that a person says stays the same.
    """
    opening: list[Any] = [session or found.get("prompt_cache_key")]
    if not opening[0]:
        messages = found.get("messages") or found.get("input")
        if not isinstance(messages, list):
            return ""
        last = next((at for at, one in enumerate(messages) if isinstance(one, dict) and one.get("role") == "user"), -1)
        opening = [found.get("user"), found.get("system"), found.get("instructions"), messages[: last + 1]]
    return blake2b(msgspec.json.encode(opening), digest_size=16).hexdigest()


def _images(messages: Any) -> Iterator[Any]:
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, dict):
            continue
        content = message.get("content")
        for part in [message, *(content if isinstance(content, list) else ())]:
            if isinstance(part, dict) and part.get("type") in _IMAGES:
                yield part
