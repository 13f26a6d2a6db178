"""Which path is whose: the table of routes, and the paths of engines that are never passed on.

Nothing is looked up by a path that was decoded or tidied: a path matches as sent, or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from urllib.parse import unquote_to_bytes

from aitherd.proxy.pages import FILES
from aitherd.proxy.refusals import BadRequest, NoSuchRoute, WrongMethod


class Handling(Enum):
    """What becomes of a request."""

    JSON = "json"
    """Relayed to the model that its JSON body names."""
    FORM = "form"
    """Relayed to the model that a field of its multipart body names."""
    PASS = "pass"
    """Relayed as it is to the model that its path names."""
    HERE = "here"
    """Answered by the daemon itself."""
    EVENTS = "events"
    """Answered by the daemon itself, for as long as the client listens."""


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the table."""

    name: str
    """As metrics and records name it."""
    handling: Handling
    methods: tuple[bytes, ...] = ()
    """Empty for any."""


@dataclass(frozen=True, slots=True)
class Match:
    """A route with what its path says."""

    route: Route
    name: str = ""
    """The model that the path names; empty when it names none."""
    target: bytes = b""
    """The path to send to the engine."""


HEALTH = b"/health"
OPEN_TO_ALL = frozenset({HEALTH, *(path.encode() for path in FILES)})
"""Needs no key: that the machine lives, and a page that asks for one."""
GET = (b"GET", b"HEAD")
POST = (b"POST",)

FIXED: Mapping[bytes, Match] = MappingProxyType(
    {
        route.name.encode(): Match(route, target=route.name.encode())
        for route in (
            Route("/v1/chat/completions", Handling.JSON, POST),
            Route("/v1/completions", Handling.JSON, POST),
            Route("/v1/embeddings", Handling.JSON, POST),
            Route("/v1/responses", Handling.JSON, POST),
            Route("/v1/messages", Handling.JSON, POST),
            Route("/v1/messages/count_tokens", Handling.JSON, POST),
            Route("/v1/rerank", Handling.JSON, POST),
            Route("/v1/audio/speech", Handling.JSON, POST),
            Route("/v1/images/generations", Handling.JSON, POST),
            Route("/v1/audio/transcriptions", Handling.FORM, POST),
            Route("/v1/audio/translations", Handling.FORM, POST),
            *(Route(path, Handling.HERE, GET) for path in FILES),
            Route("/api/page", Handling.HERE, GET),
            Route("/api/history", Handling.HERE, GET),
            Route("/v1/models", Handling.HERE, GET),
            Route(HEALTH.decode(), Handling.HERE, GET),
            Route("/running", Handling.HERE, GET),
            Route("/metrics", Handling.HERE, GET),
            Route("/events", Handling.EVENTS, GET),
            Route("/api/models/unload", Handling.HERE, POST),
        )
    }
)

MODEL = Route("/v1/models/NAME", Handling.HERE, GET)
SWAP = Route("/swap/request-NAME", Handling.HERE, POST)
UNLOAD = Route("/api/models/unload/NAME", Handling.HERE, POST)
UPSTREAM = Route("/upstream/NAME", Handling.PASS)

_PREFIXES = ((b"/v1/models/", MODEL), (b"/swap/request-", SWAP), (b"/api/models/unload/", UNLOAD))

CONTROL = frozenset(
    {
        # vLLM, with its development mode and its run-time adapters
        "sleep", "wake_up", "is_sleeping", "collective_rpc", "pause", "resume", "is_paused", "suspend", "is_suspended",
        "server_info", "scale_elastic_ep", "is_scaling_elastic_ep", "load_lora_adapter", "unload_lora_adapter",
        "update_weights", "init_weight_transfer_engine", "start_profile", "stop_profile", "abort_requests",
        # SGLang
        "release_memory_occupation", "resume_memory_occupation", "flush_cache", "update_weights_from_disk",
        # llama-server, and its router
        "slots", "lora-adapters", "models/load", "models/unload",
        # whisper-server loads another model at /load
        "load",
        # ComfyUI
        "free", "interrupt",
        # speaches
        "ps",
        # tabbyAPI, koboldcpp
        "model/load", "model/unload", "admin",
        # anybody
        "shutdown", "quit", "exit", "kill", "restart",
    }
)  # fmt: skip
"""First segments, or first two, of engine paths that change what aitherd alone may change: residency and weights."""
_CONTROL_PREFIX = "reset_"
_SKIPPED = frozenset({"api", "v1", "v2"})
"""Leading segments under which engines repeat their routes."""


def find(method: bytes, path: bytes) -> Match:
    """The route of a request. Raises NoSuchRoute, WrongMethod, and BadRequest for a path with two readings."""
    match = FIXED.get(path) or _by_prefix(path)
    methods = match.route.methods
    if methods and method not in methods:
        allow = ", ".join(entry.decode() for entry in (*methods, b"OPTIONS"))
        raise WrongMethod(f"{match.route.name} does not take {method.decode()}", allow)
    return match


def _by_prefix(path: bytes) -> Match:
    for prefix, route in _PREFIXES:
        if path.startswith(prefix) and len(path) > len(prefix):
            return Match(route, unquote_to_bytes(path[len(prefix) :]).decode(errors="replace"))
    if path.startswith(b"/upstream/"):
        name, slash, rest = path.removeprefix(b"/upstream/").partition(b"/")
        if name:
            guard(slash + rest)
            return Match(UPSTREAM, unquote_to_bytes(name).decode(errors="replace"), b"/" + rest)
    raise NoSuchRoute(f"there is no {path[:200].decode(errors='replace')}", remedy="GET /v1/models lists the models")


def guard(target: bytes) -> None:
    """Refuses an engine's path that controls the engine, and any path that engines may read in more than one way.

    Raises NoSuchRoute for the first and BadRequest for the second.
    """
    decoded = target
    for _ in range(4):
        further = unquote_to_bytes(decoded)
        if further == decoded:
            break
        decoded = further
    else:
        raise BadRequest("the path is percent-encoded too often")
    if any(byte < 0x20 or byte == 0x7F or byte == 0x5C for byte in decoded):
        raise BadRequest("the path has a control character or a backslash")
    segments = decoded.decode(errors="replace").casefold().split("/")[1:]
    if any(not segment for segment in segments[:-1]):
        raise BadRequest("the path has an empty segment")
    # What follows a semicolon or a question mark that was encoded is, to some servers, no part of the path.
    segments = [segment.split(";")[0].split("?")[0].strip() for segment in segments]
    if any(segment in {".", ".."} for segment in segments):
        raise BadRequest("the path has a dot segment")
    while segments and segments[0] in _SKIPPED:
        del segments[0]
    first = segments[0] if segments else ""
    # `/models/NAME` is where speaches downloads and deletes models.
    if first in CONTROL or "/".join(segments[:2]) in CONTROL or first.startswith(_CONTROL_PREFIX):
        raise NoSuchRoute(
            "that path controls the engine", remedy="use aitherctl, or /swap/request-NAME and /api/models/unload"
        )
