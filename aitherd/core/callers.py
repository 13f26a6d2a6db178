"""Who asks: callers as values, whom a connection belongs to, and what each may still use of its quota.

Time comes as arguments, in seconds of one monotonic clock. How a caller proves who it is, with credentials of a socket
or a key, is the proxy's business; who of several callers goes first is decided in `queue.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from aitherd.core.words import Priority, Seconds

RETRY: Seconds = 1.0
"""When one that has all its requests in flight may ask again: nobody knows when one of them ends."""
MINUTE: Seconds = 60.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody whose requests are told apart from those of others."""

    name: str
    priority: Priority = Priority.INTERACTIVE
    weight: int = 1
    """Its part where callers share: one of weight 2 gets twice as much as one of weight 1."""
    concurrency: int | None = None
    """Requests that it may have under way; None without a bound."""
    rate: int | None = None
    """Requests that it may begin in a minute; None without a bound."""


ANYBODY = Caller("")
"""Whoever is told apart from nobody."""


def in_no_hurry(caller: Caller) -> Caller:
    """`caller` as of a request that says itself that nobody waits for it. No request may say the opposite."""
    return caller if caller.priority is Priority.BATCH else replace(caller, priority=Priority.BATCH)


@dataclass(frozen=True, slots=True)
class Rule:
    """Whose requests are a caller's. One without any of the three means everybody that no other rule means."""

    caller: Caller
    uid: int | None = None
    """Of the process at the other end of a Unix socket."""
    gid: int | None = None
    key: str = ""
    """Name of the systemd credential that holds its API key."""

    @property
    def everybody(self) -> bool:
        """Whether it is for those whom no other rule means."""
        return self.uid is None and self.gid is None and not self.key


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a Unix socket, as the kernel says. unix(7), SO_PEERCRED"""

    uid: int
    gid: int


def caller_of(peer: Peer | None, rules: Iterable[Rule]) -> Caller:
    """Whose requests come from `peer`, None for a TCP connection: by its user, else by its group, else everybody's.

    Without a rule each user is a caller of its own, and all that comes over TCP is one.
    """
    rules = tuple(rules)
    if peer is not None:
        for rule in rules:
            if rule.uid == peer.uid:
                return rule.caller
        for rule in rules:
            if rule.uid is None and rule.gid == peer.gid:
                return rule.caller
    for rule in rules:
        if rule.everybody:
            return rule.caller
    return Caller("tcp" if peer is None else f"uid:{peer.uid}")


@dataclass(slots=True)
class Standing:
    """What a caller uses of its quota. `rate` is a bucket of as many requests, filled evenly over a minute."""

    caller: Caller
    in_flight: int = 0
    left: float = 0.0
    """Requests that it may begin at once."""
    at: Seconds = float("-inf")
    """When `left` was reckoned."""

    def admit(self, now: Seconds) -> Seconds | None:
        """Counts a request as begun and returns None; or returns when to ask again, in seconds, if there are too many.

        Every request that was counted has to `leave`.
        """
        caller = self.caller
        if caller.concurrency is not None and self.in_flight >= caller.concurrency:
            return RETRY
        if caller.rate is not None:
            self.left = min(self.left + (now - self.at) * caller.rate / MINUTE, float(caller.rate))
            self.at = now
            if self.left < 1.0:
                return (1.0 - self.left) * MINUTE / caller.rate
            self.left -= 1.0
        self.in_flight += 1
        return None

    def leave(self) -> None:
        """A request is over."""
        self.in_flight -= 1
