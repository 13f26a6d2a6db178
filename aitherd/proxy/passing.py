"""The side of a relay that passes the answer on as it comes, or becomes a tunnel: as fast as the client takes it."""

from __future__ import annotations

from functools import lru_cache
from time import monotonic

from aitherd.conductor.operations import Use
from aitherd.errors import AitherError
from aitherd.proxy.journey import RemoteUse
from aitherd.proxy.refusals import UpstreamFailed
from aitherd.proxy.sending import Sending
from aitherd.proxy.tokens import AnswerTokens, counts_tokens
from aitherd.proxy.wire import LAST_CHUNK, ResponseHead, chunk, framing, response_bytes


class Passing(Sending):
    """A request whose answer is passed on."""

    _use: Use | RemoteUse | None = None
    _response: ResponseHead | None = None
    _chunked = False
    """Whether the answer is chunked towards the client."""
    _keep = False
    _tokens: AnswerTokens | None = None
    """Of an answer whose tokens are counted."""
    _stirred = False
    """Whether the engine has sent something since the last tick."""

    def _misspoke(self, error: AitherError) -> None:
        """The engine failed."""
        raise NotImplementedError

    def _blame(self, status: int = 500) -> None:
        """Tells whether the engine failed the request: by such a status of its answer, or without one."""
        if self._use is not None and status:
            if status >= 500:
                self._use.failed()
            else:
                self._use.moved()

    def _answer_begins(self, response: ResponseHead) -> bytes:
        """The head for the client."""
        self._response = response
        self.status = response.status
        self._blame(response.status)
        if response.status == 200 and counts_tokens(response.fields):
            self._tokens = AnswerTokens(self.context.metrics.tokens(self.model))
        self.first_byte = monotonic() - self.began
        lines, self._chunked, self._keep = framing(self.head, response, keep=self.keeps())
        return response_bytes(response, self._who(), lines)

    def _who(self) -> bytes:
        """Header lines that say who answered, why and after what wait."""
        use = self._use
        assert use is not None
        return b"%bX-Aither-Waited-Ms: %d\r\n" % (_named(use.model, use.why), use.waited * 1000)

    def _passed(self, data: bytes) -> None:
        """The engine sent whole chunks, and the client's are the same."""
        self.sent += len(data)
        self.client.write(data)
        self._stirred = True
        if self._tokens is not None:
            self._tokens.passed(data)

    def _pass_on(self, out: list[bytes], body: list[bytes], *, ended: bool) -> None:
        if body:
            data = body[0] if len(body) == 1 else b"".join(body)
            if self._tokens is not None:
                self._tokens.passed(data)
            out.append(chunk(data) if self._chunked else data)
        if ended and self._chunked:
            out.append(LAST_CHUNK)
        if out:
            self.send(out[0] if len(out) == 1 else b"".join(out))

    # Tunnels.

    def _switching(self, response: ResponseHead) -> None:
        if not self.head.upgrade:
            self._misspoke(UpstreamFailed("the engine changed protocols without being asked"))
            return
        self.status = 101
        self.first_byte = monotonic() - self.began
        lines = b"Connection: Upgrade\r\nUpgrade: %b\r\n" % self.head.upgrade
        self.send(response_bytes(response, self._who(), lines))

    def _switched(self, rest: bytes) -> None:
        assert self._connection is not None
        self.tunnelling = True
        self._connection.tunnel = True
        self._deadline = 0.0
        if rest:
            self.send(rest)
        self.client.resume()

    def tunnelled(self, data: bytes) -> None:
        """Bytes of a tunnel came from the engine."""
        self.send(data)

    def from_client(self, data: bytes) -> None:
        self.received += len(data)
        if self._connection is not None:
            self._connection.transport.write(data)

    # Back-pressure, time, the end.

    def client_full(self) -> None:
        self._deadline = 0.0
        if self._connection is not None:
            self._connection.hold()

    def client_drained(self) -> None:
        if self._connection is not None:
            if not self.tunnelling:
                self._deadline = monotonic() + self.context.limits.stall_timeout
            self._connection.go_on()

    def upstream_full(self) -> None:
        """The engine takes the body slower than the client sends it."""
        self.client.pause()

    def upstream_drained(self) -> None:
        """It has caught up."""
        self.client.resume()


@lru_cache(maxsize=256)
def _named(model: str, why: str) -> bytes:
    """Header lines for a model and a reason, which must not be able to end a line."""
    reason = " ".join(why.split()).encode("ascii", "replace")
    return b"X-Aither-Upstream: %b\r\nX-Aither-Reason: %b\r\n" % (model.encode(), reason)
