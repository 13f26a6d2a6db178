"""Tiers, upstreams and callers for people and programs: rows of tables, and JSON. What they are, `core` says."""

from __future__ import annotations

from collections.abc import Mapping

from aitherd.config.units import duration_text
from aitherd.core.callers import Rule
from aitherd.core.upstreams import Reach, Tier, Upstream

Row = tuple[str, ...]
LEAVE = {Reach.LOCAL: "no", Reach.LAN: "lan", Reach.CLOUD: "cloud"}
"""As `leave` is written."""


def tier_rows(tiers: Mapping[str, Tier]) -> list[Row]:
    """A table of tiers, the heading first. An arrow leads to the next route."""
    rows: list[Row] = [("TIER", "LEAVE", "PATIENCE", "EFFORT", "ROUTES")]
    rows.extend(
        (
            tier.name,
            LEAVE[tier.leave],
            duration_text(tier.patience),
            " ".join(tier.efforts) or "-",
            " > ".join(str(entry) for entry in tier.routes),
        )
        for tier in tiers.values()
    )
    return rows


def upstream_rows(upstreams: Mapping[str, Upstream]) -> list[Row]:
    """A table of upstreams, the heading first: a line for each address, with its weight."""
    rows: list[Row] = [("UPSTREAM", "KIND", "ADDRESS", "WEIGHT", "CONCURRENCY", "KEY", "DAILY CAP", "CAN")]
    for one in upstreams.values():
        cap = "-" if one.daily_cap is None else f"{one.daily_cap:g}"
        about = (one.key or "-", cap, " ".join(sorted(one.can)))
        for number, node in enumerate(one.nodes):
            named = (one.name, str(one.reach)) if not number else ("", "")
            place = (str(node), str(node.weight), str(one.concurrency))
            rows.append((*named, *place, *(about if not number else ("",) * 3)))
    return rows


def caller_rows(rules: Mapping[str, Rule]) -> list[Row]:
    """A table of callers, the heading first."""
    rows: list[Row] = [("CALLER", "PRIORITY", "WEIGHT", "CONCURRENCY", "RATE", "TOLD BY")]
    for rule in rules.values():
        caller = rule.caller
        bounds = ("-" if bound is None else str(bound) for bound in (caller.concurrency, caller.rate))
        rows.append((caller.name, str(caller.priority), str(caller.weight), *bounds, _told_by(rule)))
    return rows


def tier_json(tier: Tier) -> dict[str, object]:
    """A tier for a program; seconds."""
    return {
        "name": tier.name,
        "routes": [str(entry) for entry in tier.routes],
        "patience": tier.patience,
        "leave": LEAVE[tier.leave],
        "serves": list(tier.serves),
        "effort": list(tier.efforts),
    }


def upstream_json(upstream: Upstream) -> dict[str, object]:
    """An upstream for a program; seconds, and money in the currency of its prices."""
    return {
        "name": upstream.name,
        "kind": str(upstream.reach),
        "nodes": [{"url": str(node), "weight": node.weight} for node in upstream.nodes],
        "can": sorted(upstream.can),
        "models": {
            name: {
                "name": model.name,
                "can": sorted(model.can),
                "prompt_price": model.prompt_price,
                "answer_price": model.answer_price,
            }
            for name, model in upstream.models.items()
        },
        "key": upstream.key,
        "concurrency": upstream.concurrency,
        "daily_cap": upstream.daily_cap,
        "probe_interval": upstream.probe_interval,
    }


def caller_json(rule: Rule) -> dict[str, object]:
    """A caller for a program; `uid` and `gid` are null where it is not told by them."""
    caller = rule.caller
    return {
        "name": caller.name,
        "priority": str(caller.priority),
        "weight": caller.weight,
        "concurrency": caller.concurrency,
        "rate": caller.rate,
        "uid": rule.uid,
        "gid": rule.gid,
        "key": rule.key,
    }


def _told_by(rule: Rule) -> str:
    marks = (("uid", rule.uid), ("gid", rule.gid), ("key", rule.key or None))
    return " ".join(f"{what} {value}" for what, value in marks if value is not None) or "all others"
