"""The tiers that the tests are in, and whether a run may be called one: no tier may be left out in silence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

TIERS = ("unit", "native", "machine", "gpu")
"""In the order in which they run, quickest first."""
OPTIONAL = frozenset({"gpu"})
"""May be skipped as a whole, where the machine has nothing to run it on."""


@dataclass(slots=True)
class Tier:
    """What became of the tests of one tier."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """Why tests were skipped, and how many for that."""

    def skip(self, reason: str) -> None:
        """Counts a skipped test."""
        self.skipped += 1
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def __str__(self) -> str:
        counts = f"{self.name:8} {self.passed} passed, {self.failed} failed, {self.skipped} skipped"
        return "\n".join([counts, *(f"         skipped {count}: {reason}" for reason, count in self.reasons.items())])


def tier_of(nodeid: str) -> str | None:
    """The tier of a test by its id (`tests/unit/core/test_x.py::test_y`), or None."""
    words = nodeid.split("/")
    return words[1] if len(words) > 2 and words[0] == "tests" and words[1] in TIERS else None


def idle(tiers: Iterable[Tier], *, whole: bool) -> list[str]:
    """Names of the tiers that had tests to run and ran none; in a `whole` run every tier has tests to run."""
    by_name = {tier.name: tier for tier in tiers}
    names = [name for name in TIERS if name not in OPTIONAL and (whole or name in by_name)]
    return [name for name in names if name not in by_name or not by_name[name].passed + by_name[name].failed]
