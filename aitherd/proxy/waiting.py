"""A stream that waits for its model is told so: comments at intervals, so that no client takes silence for death.

With the first comment the head of the answer is out, a 200. What comes later has to fit into it: an answer that is no
stream of events, or a refusal, becomes an event. No I/O.
"""

from __future__ import annotations

from aitherd.core.words import Seconds
from aitherd.proxy.answers import Answer
from aitherd.proxy.wire import END, LAST_CHUNK, ResponseEvent, ResponseHead, chunk


class Preface:
    """What was said before there was an answer."""

    def __init__(self, *, named: bool = False) -> None:
        """`named` says that the client tells events by their names, as Anthropic's do."""
        self._named = named
        self._wraps = False
        """Whether what comes is made one event of."""

    def head(self, model: str, *, keep: bool) -> bytes:
        """The head of the answer to come."""
        return (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
            b"X-Aither-Upstream: %b\r\nX-Aither-Reason: waiting for it\r\nTransfer-Encoding: chunked\r\n"
            b"%b\r\n" % (model.encode("ascii", "replace"), b"" if keep else b"Connection: close\r\n")
        )

    def comment(self, model: str, waited: Seconds) -> bytes:
        """One comment: it is still waited for `model`."""
        return chunk(b": waiting for %b, %d s\n\n" % (model.encode("ascii", "replace"), waited))

    def adapt(self, events: list[ResponseEvent], who: bytes) -> tuple[ResponseHead | None, list[ResponseEvent]]:
        """The answer's head, if it is among `events`, and the events to pass on. `who` are lines that say who answers.

        Those become a comment, since they can be no headers any more.
        """
        head: ResponseHead | None = None
        adapted: list[ResponseEvent] = []
        for event in events:
            if type(event) is ResponseHead:
                if event.status >= 200:
                    head = event
                    adapted.append(b"".join(b": %b\n" % line for line in who.split(b"\r\n") if line) + b"\n")
                    self._wraps = event.status != 200 or not _is_stream(event)
                    if self._wraps:
                        adapted.append(b"data: ")
            elif type(event) is bytes:
                # Line ends in JSON are blanks between its words.
                adapted.append(event.replace(b"\r", b"").replace(b"\n", b"") if self._wraps else event)
            elif event is END:
                if self._wraps:
                    adapted.append(b"\n\n")
                adapted.append(event)
            else:
                adapted.append(event)
        return head, [event for event in adapted if event != b""]

    def failure(self, answer: Answer) -> bytes:
        """A refusal, as the stream's last event."""
        return chunk(b"%bdata: %b\n\n" % (b"event: error\n" if self._named else b"", answer.body)) + LAST_CHUNK


def _is_stream(head: ResponseHead) -> bool:
    return b"text/event-stream" in head.fields.lower()
