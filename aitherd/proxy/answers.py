"""What the daemon writes itself: errors in OpenAI's shape, its own routes' JSON. Plain values, no I/O."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from types import MappingProxyType

import msgspec

from aitherd.conductor.operations import ModelStatus
from aitherd.core.upstreams import Tier
from aitherd.core.words import Residency, Seconds
from aitherd.errors import AitherError, UnknownModel
from aitherd.proxy.refusals import Unauthorized, WrongMethod

NO_TIERS: Mapping[str, Tier] = MappingProxyType({})
MESSAGES = "/v1/messages"
"""What Anthropic's routes begin with."""
RUNNING = frozenset({Residency.STARTING, Residency.READY, Residency.STOPPING})
"""What llama-swap's `/running` would list; its states have the same names as ours."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer of the daemon."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    fields: bytes = b""
    """Further header lines, complete."""

    def wire(self, *, head_only: bool, closing: bool, keeping: bool) -> bytes:
        """As sent: without its body to HEAD. `closing`: the connection ends; `keeping`: HTTP/1.0 is told that not."""
        phrase = HTTPStatus(self.status).phrase
        head = (
            f"HTTP/1.1 {self.status} {phrase}\r\nDate: {formatdate(usegmt=True)}\r\nServer: aitherd\r\n".encode()
            + (b"" if self.status in (204, 304) else b"Content-Length: %d\r\n" % len(self.body))
            + (b"Content-Type: %b\r\n" % self.content_type if self.body else b"")
            + self.fields
            + (b"Connection: close\r\n" if closing else b"Connection: keep-alive\r\n" if keeping else b"")
            + b"\r\n"
        )
        return head if head_only else head + self.body


def json_answer(value: object, status: int = 200, fields: bytes = b"") -> Answer:
    """`value` as JSON; `fields` are further header lines, complete."""
    return Answer(status, msgspec.json.encode(value), fields=fields)


def error_answer(error: AitherError, route: str = "") -> Answer:
    """How any error looks to a client of a route: the envelope of OpenAI, or Anthropic for its own routes; and
    Retry-After or Allow where they help.
    """
    fields = b""
    if error.retry_after is not None:
        fields += b"Retry-After: %d\r\n" % max(1, math.ceil(error.retry_after))
    if isinstance(error, Unauthorized):
        fields += b"WWW-Authenticate: Bearer\r\n"
    if isinstance(error, WrongMethod):
        fields += b"Allow: %b\r\n" % error.allow.encode()
    if route.startswith(MESSAGES):
        inner = {"type": _anthropic_type(error.status), "message": str(error)}
        return Answer(error.status, msgspec.json.encode({"type": "error", "error": inner}), fields=fields)
    body = {
        "error": {
            "message": str(error),
            "type": _error_type(error.status),
            "param": "model" if isinstance(error, UnknownModel) else None,
            "code": error.code,
        }
    }
    return Answer(error.status, msgspec.json.encode(body), fields=fields)


def _error_type(status: int) -> str:
    """`error.type` as OpenAI's clients know it."""
    if status == 429:
        return "rate_limit_error"
    if status == 403:
        return "permission_error"
    return "invalid_request_error" if status < 500 else "server_error"


def _anthropic_type(status: int) -> str:
    """`error.type` as Anthropic's clients know it."""
    known = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large"}
    if status in known:
        return known[status]
    if status in {429, 503}:
        return "rate_limit_error" if status == 429 else "overloaded_error"
    return "invalid_request_error" if status < 500 else "api_error"


def model_object(identity: str, status: ModelStatus, created: int) -> dict[str, object]:
    """One entry of `/v1/models`; what OpenAI's shape has no place for is under `aither`."""
    return {
        "id": identity,
        "object": "model",
        "created": created,
        "owned_by": "aither",
        "aither": {"model": status.name, "residency": str(status.residency), "can": status.can},
    }


def tier_object(identity: str, tier: Tier, created: int) -> dict[str, object]:
    """The entry of a tier in `/v1/models`."""
    about = {"tier": tier.name, "routes": [str(entry) for entry in tier.routes], "leave": str(tier.leave)}
    return {"id": identity, "object": "model", "created": created, "owned_by": "aither", "aither": about}


def model_list(
    statuses: Iterable[ModelStatus], created: int, tiers: Mapping[str, Tier] = NO_TIERS
) -> dict[str, object]:
    """`/v1/models`: every name that may be asked for, tiers by their names last. `created` is a Unix time."""
    return {
        "object": "list",
        "data": [
            *(
                model_object(identity, status, created)
                for status in statuses
                for identity in dict.fromkeys((status.name, *status.serves))
            ),
            *(tier_object(identity, tier, created) for identity, tier in sorted(tiers.items())),
        ],
    }


def running(statuses: Iterable[ModelStatus], now: Seconds) -> dict[str, object]:
    """`/running` in llama-swap's shape. `ttl` is the time left in seconds, 0 without an end. `now` is Unix time."""
    return {
        "running": [
            {
                "model": status.name,
                "state": str(status.residency),
                "cmd": shlex.join(status.command),
                "proxy": str(status.endpoint or ""),
                "ttl": max(1, math.ceil(status.stops_at - now)) if status.stops_at else 0,
                "name": status.name,
                "description": status.description,
            }
            for status in statuses
            if status.residency in RUNNING
        ]
    }
