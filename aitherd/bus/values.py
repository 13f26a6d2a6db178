"""Our values as D-Bus has them: instants in microseconds, text that every client can read, and plans as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from aitherd.conductor.operations import Lease
from aitherd.conductor.records import Record
from aitherd.core.circuit import State
from aitherd.core.routing import Explanation, NoRoute, Request
from aitherd.core.upstreams import NodeStatus
from aitherd.core.words import Claim, DeviceView, Endpoint, Plan, Refusal, Seconds
from aitherd.errors import InvalidHint

Variant: TypeAlias = tuple[str, Any]
"""A signature and a value of that type."""

LeaseRow: TypeAlias = tuple[str, bool, str, int, int, str, int, int, int, str]
"""The `(sbsttsutts)` of Leases."""

NodeRow: TypeAlias = tuple[str, str, str, int, int, int, int]
"""The `(sssuuut)` of an upstream's Nodes."""

INT64 = range(-(2**63), 2**63)
UINT32_MAX = 2**32 - 1


def text(value: str) -> str:
    """`value` as a D-Bus string: valid UTF-8 without NUL, which an engine's last line or a path need not be."""
    return value.encode("utf-8", "replace").decode("utf-8").replace("\0", "�")


def usec(instant: Seconds) -> int:
    """Unix time in microseconds, as systemd's timestamps are; 0 for none."""
    return max(round(instant * 1_000_000), 0)


def endpoint(value: Endpoint | None) -> str:
    """`unix:PATH`, `tcp:127.0.0.1:PORT`, or empty."""
    return "" if value is None else text(str(value))


def claim(value: Claim) -> tuple[str, int, int]:
    """Owner, PID, bytes: the `(sut)` of a device's foreign users."""
    return text(value.owner), value.pid, value.bytes


def claims(device: DeviceView) -> list[tuple[str, int, int]]:
    """Those who hold bytes of a device without being ours or using a lease, largest first."""
    foreign = [one for one in device.foreign if not one.holder]
    return [claim(one) for one in sorted(foreign, key=lambda one: (-one.bytes, one.pid))]


def lease(value: Lease) -> LeaseRow:
    """A lease: see the property Leases."""
    return (
        value.id,
        value.waiting,
        text(value.device),
        value.bytes,
        value.used,
        text(value.purpose),
        value.pid,
        usec(value.since),
        usec(value.ends),
        text(value.stage),
    )


def variant(value: object) -> Variant:
    """A field of a record. What has no plain D-Bus type is sent as JSON text."""
    match value:
        case bool():
            return "b", value
        case int() if value in INT64:
            return "x", value
        case float():
            return "d", value
        case str():
            return "s", text(value)
        case list() | tuple() if all(isinstance(item, str) for item in value):
            return "as", [text(item) for item in value]
        case Mapping() if value and all(
            isinstance(key, str) and type(item) is int and item in INT64 for key, item in value.items()
        ):
            return "a{sx}", {text(key): item for key, item in value.items()}
    return "s", text(json.dumps(value, default=_plain))


def record(value: Record) -> tuple[int, str, str, str, dict[str, Variant]]:
    """Time, event, model, message, fields: the `(tsssa{sv})` of History."""
    fields = {text(name): variant(field) for name, field in value.fields.items()}
    return usec(value.time), str(value.event), text(value.model), text(value.message), fields


def plan_json(outcome: Plan | Refusal) -> str:
    """A plan, or why there is none, as one JSON object.

    A plan may gain members with any version, which a D-Bus structure could not: hence JSON. Sizes are bytes, durations
    are seconds. `possible` tells the two apart.
    """
    if isinstance(outcome, Refusal):
        return json.dumps(
            {
                "model": outcome.model,
                "possible": False,
                "kind": str(outcome.kind),
                "missing": outcome.missing,
                "holders": [
                    {"name": one.name, "device": one.device, "bytes": one.bytes, "why": one.why}
                    for one in outcome.holders
                ],
                "why": outcome.why,
            }
        )
    return json.dumps(
        {
            "model": outcome.model,
            "possible": True,
            "seconds": outcome.seconds,
            "steps": [
                {
                    "verb": str(step.verb),
                    "model": step.model,
                    "level": step.level,
                    "takes": dict(step.takes),
                    "seconds": step.seconds,
                    "why": step.why,
                }
                for step in outcome.steps
            ],
            "placement": list(outcome.placement),
            "spare": dict(outcome.spare),
            "why": outcome.why,
        }
    )


def node(value: NodeStatus) -> NodeRow:
    """A node of an upstream: see the property Nodes."""
    return (
        text(value.address),
        str(value.circuit),
        text(value.reason) if value.circuit is not State.CLOSED else "",
        value.in_flight,
        value.concurrency,
        value.weight,
        usec(value.latency),
    )


def hints(values: Mapping[str, Variant]) -> tuple[str, str, Request]:
    """What a caller of Route says of its request: the tier, the effort, and what it needs. Raises InvalidHint."""
    kinds = {"tier": "s", "effort": "s", "local-only": "b", "needs": "as"}
    for name, (signature, _) in values.items():
        if kinds.get(name) != signature:
            known = ", ".join(f"{one} ({kind})" for one, kind in kinds.items())
            raise InvalidHint(f"{name} ({signature}) is no hint", remedy=f"the hints are {known}")
    found = {name: value for name, (_, value) in values.items()}
    request = Request(frozenset(found.get("needs", ())), bool(found.get("local-only", False)))
    return str(found.get("tier", "")), str(found.get("effort", "")), request


def route_json(value: Explanation) -> str:
    """Where a request would go, as one JSON object: `routes` in the order in which they would be tried.

    `action` is use (a model that is ready), wait (for one that has to be brought in) or send (to an upstream).
    """
    outcome = value.outcome
    about = {"asked": value.asked, "tier": value.tier}
    if isinstance(outcome, NoRoute):
        return json.dumps({**about, "possible": False, "for_ever": outcome.for_ever, "why": outcome.why, "routes": []})
    routes = [
        {
            "route": str(one.route),
            "upstream": one.route.upstream,
            "model": one.route.model,
            "action": one.action.value,
            "place": place,
            "why": one.why,
            "bound": one.bound,
        }
        for one, place in zip(outcome.candidates, value.places, strict=True)
    ]
    return json.dumps(
        {
            **about,
            "possible": True,
            "why": outcome.candidates[0].why,
            "routes": routes,
            "load": outcome.load,
            "skipped": list(outcome.skipped),
        }
    )


def _plain(value: object) -> object:
    """What `json` cannot write by itself."""
    return dict(value) if isinstance(value, Mapping) else str(value)
