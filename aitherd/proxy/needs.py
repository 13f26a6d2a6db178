"""What a request needs of whoever answers it, from its route and its body. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec

from aitherd.core.upstreams import Abilities

_BY_ROUTE: Mapping[str, str] = MappingProxyType(
    {
        "/v1/chat/completions": "chat",
        "/v1/completions": "completions",
        "/v1/responses": "chat",
        "/v1/embeddings": "embeddings",
        "/v1/rerank": "rerank",
        "/v1/audio/speech": "speech",
        "/v1/audio/transcriptions": "transcriptions",
        "/v1/audio/translations": "translations",
        "/v1/images/generations": "images",
    }
)
_IMAGES = frozenset({"image_url", "input_image", "image"})
_STREAMING = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses"})


@dataclass(frozen=True, slots=True)
class Needs:
    """What there is to know of a body before it is routed."""

    abilities: Abilities
    effort: str = ""
    """`reasoning_effort`, or `reasoning.effort` of a response."""


def of_route(route: str) -> Needs:
    """What every request of a route needs."""
    ability = _BY_ROUTE.get(route)
    return Needs(frozenset({ability} if ability else ()))


def of_json(route: str, body: bytes) -> Needs:
    """What a JSON body needs; it has been found to be an object before."""
    found = msgspec.json.decode(body)
    abilities = set(of_route(route).abilities)
    if found.get("tools") or found.get("functions"):
        abilities.add("tools")
    if any(True for _ in _images(found.get("messages"))) or any(True for _ in _images(found.get("input"))):
        abilities.add("vision")
    effort = found.get("reasoning_effort")
    if effort is None and isinstance(reasoning := found.get("reasoning"), dict):
        effort = reasoning.get("effort")
    return Needs(frozenset(abilities), effort if isinstance(effort, str) else "")


def streams(route: str, body: bytes) -> bool:
    """Whether a request asks for its answer as a stream of events."""
    return route in _STREAMING and msgspec.json.decode(body).get("stream") is True


def _images(messages: Any) -> Iterator[Any]:
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, dict):
            continue
        content = message.get("content")
        for part in [message, *(content if isinstance(content, list) else ())]:
            if isinstance(part, dict) and part.get("type") in _IMAGES:
                yield part
