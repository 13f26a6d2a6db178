"""What a failure means: whether another route may try, what the node that failed is told, and how many tries there are.

One fixed table. A request is sent at most twice, and never again once a byte of an answer has reached the client.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from aitherd.core.words import Seconds

MAX_SENT = 2
"""A request is sent once, and once more."""
SHARE = 0.1
"""Second tries that each first one pays for."""
BURST = 32.0
"""Second tries that may be saved up, so that one break of a busy route does not fail what was on its way there."""
REST: Seconds = 5.0
"""How long a node that answers 429 is left alone when it does not say."""
REST_MAX: Seconds = 300.0
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)


class Failure(Enum):
    """How a try failed, before anything of its answer reached the client."""

    CONNECT = "connect"
    """There was no connection."""
    SILENT = "silent"
    """No answer came in time."""
    BROKEN = "broken"
    """The connection ended before the answer did, or what came is not HTTP."""
    BUSY = "busy"
    """429."""
    SERVER = "server"
    """5xx, 408 or 425."""
    DENIED = "denied"
    """401, 402, 403 or 407: the key, or what it may do."""
    UNKNOWN = "unknown"
    """404 or 405: no such model or route there."""
    CUT = "cut"
    """200 with a body that is not whole, or none."""
    ERROR_BODY = "error body"
    """200 whose body says that it failed."""


class Verdict(NamedTuple):
    """What follows from a failure."""

    again: bool
    """Whether another route may try."""
    breaks: bool
    """Whether it counts against the node's circuit."""
    rests: bool = False
    """Whether the node is left alone for a while."""


MATRIX: Mapping[Failure, Verdict] = MappingProxyType(
    {
        Failure.CONNECT: Verdict(again=True, breaks=True),
        Failure.SILENT: Verdict(again=True, breaks=True),
        Failure.BROKEN: Verdict(again=True, breaks=True),
        Failure.BUSY: Verdict(again=True, breaks=False, rests=True),
        Failure.SERVER: Verdict(again=True, breaks=True),
        Failure.DENIED: Verdict(again=True, breaks=True),
        Failure.UNKNOWN: Verdict(again=True, breaks=False),
        Failure.CUT: Verdict(again=True, breaks=True),
        Failure.ERROR_BODY: Verdict(again=True, breaks=True),
    }
)


def of_status(status: int) -> Failure | None:
    """The failure that a status means; None for an answer that is the client's, good or bad."""
    if status == 429:
        return Failure.BUSY
    if status >= 500 or status in {408, 425}:
        return Failure.SERVER
    if status in {401, 402, 403, 407}:
        return Failure.DENIED
    return Failure.UNKNOWN if status in {404, 405} else None


def rest_seconds(retry_after: str) -> Seconds:
    """How long a node is left alone after `Retry-After` (RFC 9110 section 10.2.3), within bounds.

    The date that the header may hold as well is not read: nobody's clock is trusted that far.
    """
    if _NUMBER.fullmatch(retry_after) is None:
        return REST
    return min(float(retry_after), REST_MAX)


@dataclass(slots=True)
class Budget:
    """Second tries that are left. Every request adds a tenth of one."""

    left: float = BURST

    def earn(self) -> None:
        """A request came."""
        self.left = min(self.left + SHARE, BURST)

    def spend(self) -> bool:
        """Takes one second try; False when there is none."""
        if self.left < 1.0:
            return False
        self.left -= 1.0
        return True
