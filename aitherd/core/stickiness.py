"""Where conversations have their cache, and whether it pays to go on there.

An engine that has read a conversation keeps what it made of it for a while; elsewhere all of it is read anew. What a
conversation is, the proxy finds out. Time comes as arguments, in seconds of one monotonic clock.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from aitherd.core.upstreams import Route
from aitherd.core.words import Bytes, Seconds

KEPT = 4096
"""Conversations that are remembered; beyond them the one that was silent longest is forgotten."""
WARM_FOR: Seconds = 600.0
"""After so long without a request of the conversation its cache is taken to be gone."""
READ = 8192.0
"""Bytes of a conversation that are taken to be read in a second, some two thousand tokens."""
FARTHER: Seconds = 2.0
"""Staying has to save this for each step (LAN, cloud) that the cache is farther away than who else could answer."""
TYPICAL: Seconds = 1.0
"""Time to the first byte of a node that has not answered yet."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where a conversation has its cache."""

    route: Route
    node: int
    """Index of the upstream's node; 0 for a model of this machine."""
    saves: Seconds
    """Expected, by not reading the conversation anew."""


class Homes:
    """The conversations that are remembered."""

    def __init__(self) -> None:
        self._places: OrderedDict[str, tuple[Route, int, Bytes, Seconds]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._places)

    def find(self, conversation: str, now: Seconds) -> Home | None:
        """Where the cache of a conversation is; None when it is nowhere, or taken to be gone."""
        place = self._places.get(conversation)
        if place is None or now - place[3] > WARM_FOR:
            return None
        return Home(place[0], place[1], place[2] / READ)

    def settle(self, conversation: str, route: Route, node: int, size: Bytes, now: Seconds) -> None:
        """A request of `size` bytes of a conversation was answered there."""
        self._places[conversation] = (route, node, size, now)
        self._places.move_to_end(conversation)
        if len(self._places) > KEPT:
            self._places.popitem(last=False)


def pays(home: Home, *, farther: int, waiting: Seconds, costs: bool) -> bool:
    """Whether a request does better where its cache is than with the first of those who could answer now.

    `farther` is by how many steps home is farther away, `waiting` how much longer it is expected to take there before
    the answer begins, because of requests under way (negative when it is quicker there); `costs` says that home has a
    price which the other has not: no time saved is worth money.
    """
    return not costs and home.saves > max(farther, 0) * FARTHER + waiting
