"""From the name that a request asks for to the model that answers it, from values in memory only.

What a model's residency means for a request is the conductor's business; how names are written in HTTP the proxy's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The names that may be asked for."""

    names: Mapping[str, str]
    """From each model's name, and each name that it serves, to the model."""

    def resolve(self, name: str) -> str | None:
        """The model that `name` stands for, or None. Names are compared as they are written."""
        return self.names.get(name)


def nearest(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """Up to three of `names` that may have been meant by `name`, the likeliest first."""
    # Only a request for an unknown name pays for this import.
    import difflib

    written = {known.casefold(): known for known in sorted(names, reverse=True)}
    return tuple(written[match] for match in difflib.get_close_matches(name.casefold(), sorted(written), n=3))
