"""Who a connection and its requests belong to: the kernel's word on a Unix socket, or an API key; and their quotas.

Keys come from systemd credentials and are kept as digests only. What a quota allows is decided in `core/callers.py`.
"""

from __future__ import annotations

import hmac
import socket
import struct
from collections.abc import Callable, Mapping
from hashlib import sha256
from time import monotonic
from types import MappingProxyType

from aitherd.conductor.records import Event, Records
from aitherd.core.callers import Caller, Peer, Rule, Standing, caller_of
from aitherd.core.words import Seconds
from aitherd.proxy.addresses import credential
from aitherd.proxy.refusals import OverQuota, Unauthorized

KEPT = 1024
"""Callers that are remembered before those are forgotten of whom nothing has to be known."""
_UCRED = struct.Struct("3i")
"""`struct ucred`: PID, user, group. unix(7)"""


def peer_of(plug: socket.socket) -> Peer | None:
    """The process at the other end; None over TCP. Where it connected to a socket of systemd's this is still so."""
    if plug.family != socket.AF_UNIX:
        return None
    _, uid, gid = _UCRED.unpack(plug.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Peer(uid, gid)


class Callers:
    """All that callers of one proxy have in common: rules, digests of keys, and what each uses of its quota."""

    def __init__(
        self,
        records: Records | None = None,
        secret: Callable[[str], str] = credential,
        clock: Callable[[], Seconds] = monotonic,
    ) -> None:
        self._records = records
        self._secret = secret
        self._clock = clock
        self._rules: tuple[Rule, ...] = ()
        self._digests: tuple[tuple[bytes, Caller], ...] = ()
        self._standings: dict[str, Standing] = {}
        self.locked = False
        """Whether a request over TCP has to show a key: as soon as any is configured, be it readable or not."""
        self.version = 0
        """Another one after each `apply`, for those who remember whose a connection is."""

    def apply(self, rules: Mapping[str, Rule]) -> None:
        """Takes over a configuration. What a caller has under way still counts."""
        self._rules = tuple(rules.values())
        self.locked = any(rule.key for rule in self._rules)
        self._digests = tuple(self._read(rule) for rule in self._rules if rule.key)
        self.version += 1

    def standing(self, peer: Peer | None, key: bytes) -> Standing:
        """Whose a request is: by its key if that is somebody's, else by its connection.

        Raises Unauthorized over TCP for a key that is nobody's, or none, if keys are configured. On the Unix socket
        the file's permissions have let the caller in already, and clients that have to send a key send any.
        """
        caller = self._by_key(key) if key and self._digests else None
        if caller is None:
            if peer is None and self.locked:
                raise Unauthorized("the API key is none that is known here" if key else "an API key is needed here")
            caller = caller_of(peer, self._rules)
        found = self._standings.get(caller.name)
        if found is None:
            if len(self._standings) >= KEPT:
                self._forget()
            # A full bucket to begin with.
            found = self._standings[caller.name] = Standing(caller, left=float(caller.rate or 0), at=self._clock())
        elif found.caller != caller:
            found.caller = caller
        return found

    def enter(self, standing: Standing) -> None:
        """Counts a request of somebody, who has to `leave`. Raises OverQuota."""
        later = standing.admit(self._clock())
        if later is not None:
            caller = standing.caller
            bound = f"{caller.concurrency} requests under way" if standing.in_flight == caller.concurrency else (
                f"{caller.rate} requests a minute"
            )  # fmt: skip
            raise OverQuota(f"{caller.name} may have {bound}", remedy="try again later", retry_after=later)

    def _forget(self) -> None:
        """Drops those who have nothing under way and no quota to remember, of whom there may be one for each user."""
        bounded = {rule.caller.name for rule in self._rules}
        kept = {name: one for name, one in self._standings.items() if one.in_flight or name in bounded}
        self._standings.clear()
        self._standings.update(kept)

    def standings(self) -> Mapping[str, Standing]:
        """All callers that have been seen, by name."""
        return MappingProxyType(self._standings)

    def _by_key(self, key: bytes) -> Caller | None:
        shown = sha256(key).digest()
        found = None
        # All are compared, so that the time taken says nothing about which.
        for digest, caller in self._digests:
            if hmac.compare_digest(digest, shown):
                found = caller
        return found

    def _read(self, rule: Rule) -> tuple[bytes, Caller]:
        """The digest of a rule's key; of one that cannot be read, one that no key has."""
        try:
            return sha256(self._secret(rule.key).encode("ascii")).digest(), rule.caller
        except (OSError, ValueError) as error:
            # ValueError's own text may quote what was read.
            said = error.strerror or str(error) if isinstance(error, OSError) else "it does not hold a key"
            message = f"the credential {rule.key} of the caller {rule.caller.name} cannot be read: {said}"
            if self._records is not None:
                self._records.add(Event.CALLER, message, caller=rule.caller.name)
            return b"", rule.caller
