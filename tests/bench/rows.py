"""The result of a benchmark: a row a figure, printed as a table and written as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. Peer fields are None where there is no peer, `budget` and `holds` where there is no budget."""

    name: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    budget: str | None = None
    holds: bool | None = None


def at_most(name: str, value: float, unit: str, peer: str, peer_value: float, limit: float) -> Row:
    """A figure that may be `limit` times the peer's."""
    ratio = value / peer_value
    return Row(name, value, unit, peer, peer_value, ratio, f"<= {limit:g} x", ratio <= limit)


def beside(
    name: str,
    value: float,
    unit: str,
    peer: str,
    peer_value: float,
    *,
    up_to: float | None = None,
    at_least: float | None = None,
) -> Row:
    """A figure beside a peer's, with a budget of its own or none."""
    ratio = value / peer_value if peer_value > 0 else None
    budget, holds = None, None
    if up_to is not None:
        budget, holds = f"<= {up_to:g} {unit}".rstrip(), value <= up_to
    elif at_least is not None:
        budget, holds = f">= {at_least:g} {unit}".rstrip(), value >= at_least
    return Row(name, value, unit, peer, peer_value, ratio, budget, holds)


def table(rows: Sequence[Row]) -> str:
    """The rows for a person."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"

    lines = [("figure", "value", "unit", "peer", "peer's", "ratio", "budget", "")]
    lines += [
        (
            row.name, number(row.value), row.unit, row.peer or "", number(row.peer_value), number(row.ratio),
            row.budget or "", "" if row.holds is None else "holds" if row.holds else "EXCEEDED",
        )
        for row in rows
    ]  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def save(rows: Sequence[Row], path: Path) -> None:
    """Writes the rows as a JSON array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
