"""The three ways in which a request says which model it is for: in JSON, in a form, in its path."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import unquote_to_bytes

import msgspec

from aitherd.core.routing import Request
from aitherd.core.upstreams import Tier
from aitherd.proxy.bodies import FormModel, json_leaving, json_model, json_renamed
from aitherd.proxy.exchange import ClientSide, Context
from aitherd.proxy.needs import of_json, of_route
from aitherd.proxy.refusals import BadRequest, BodyTooLarge, WrongMediaType
from aitherd.proxy.relay import Relay
from aitherd.proxy.routes import Handling, Match
from aitherd.proxy.wire import RequestHead

_PLAIN = frozenset({b"", b"identity"})


class JsonCall(Relay):
    """The body is JSON: kept whole, read for its `model`, sent as it came."""

    def begin(self) -> None:
        head = self.head
        if head.length and head.length > self.context.limits.body:
            raise self.too_large()
        if head.content_encoding not in _PLAIN:
            raise WrongMediaType("the body must not be compressed")
        head.upgrade = b""
        if head.expects_continue:
            self.invite()

    def body(self, data: bytes) -> None:
        self.received += len(data)
        if self.received > self.context.limits.body:
            raise self.too_large()
        self.parts.append(data)

    def end(self) -> None:
        self.complete = True
        parts = self.parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        asked = json_model(body)
        context = self.context
        if self.head.wish is not None or asked in context.routing.named:
            tier = context.routing.tier(asked, self.head.wish)
            if tier is not None:
                self._travels(tier, body)
                return
        model = self.model = context.operations.resolve(asked)
        if asked == model and (renamed := context.rename(model)) is not None:
            body = json_renamed(body, renamed)
        self.parts = [body]
        self.length = len(body)
        self.claim()

    def _travels(self, tier: Tier, body: bytes) -> None:
        """Goes through a tier."""
        self._body = body
        wish = self.head.wish
        try:
            needs = of_json(self.route, body, "" if wish is None else wish.session)
        except (RecursionError, msgspec.DecodeError):
            raise BadRequest("the body is nested too deeply") from None
        tier = self.context.routing.by_effort(tier, needs, wish)
        conversation = f"{tier.name} {needs.conversation}" if needs.conversation else ""
        self.travel(tier, Request(needs.abilities, wish is not None and wish.local_only, conversation, len(body)))

    def name(self, model: str, *, leaves: bool) -> None:
        body = json_leaving(self._body, model) if leaves else json_renamed(self._body, self.context.served(model))
        self.parts = [body]
        self.length = len(body)


class FormCall(Relay):
    """The body is a form: kept as far as its `model` field, streamed from there on."""

    def begin(self) -> None:
        super().begin()
        self._form: FormModel | None = FormModel(self.head.content_type)
        """While the `model` field has not come by."""
        self.invite()

    def body(self, data: bytes) -> None:
        super().body(data)
        form = self._form
        if form is None:
            self.stream(data)
        elif form.feed(data):
            self._form = None
            asked = form.model or ""
            wish = self.head.wish
            tier = self.context.routing.tier(asked, wish)
            if tier is not None:
                self._form_read, self._read = form, len(form)
                self._whole = self.length
                self.parts = [b""]
                self._ahead = len(form)
                self.travel(tier, Request(of_route(self.route).abilities, wish is not None and wish.local_only))
                return
            self.model = self.context.operations.resolve(asked)
            taken = form.taken(self.context.rename(self.model) if asked == self.model else None)
            if self.length is not None:
                self.length += len(taken) - self.received
            self.claim()
            self.stream(taken)
        elif len(form) > self.context.limits.model_search:
            raise BodyTooLarge("the form's `model` field comes too late", remedy="put it before the file")

    def name(self, model: str, *, leaves: bool) -> None:
        # Before anything was sent, so that what came since is still behind the first part.
        taken = self._form_read.taken(model if leaves else self.context.served(model))
        self.parts[0] = taken
        if self._whole is not None:
            self.length = self._whole + len(taken) - self._read

    def end(self) -> None:
        if self._form is not None:
            raise BadRequest("the form has no `model` field")
        self.stream_end()


class PassCall(Relay):
    """The path names the model: the body, whatever it is, is streamed."""

    def __init__(self, context: Context, client: ClientSide, head: RequestHead, match: Match) -> None:
        super().__init__(context, client, head, match)
        self._name = match.name

    def begin(self) -> None:
        head = self.head
        wanted = head.upgrade
        super().begin()
        head.upgrade = wanted
        self.model = self.context.operations.resolve(self._name)
        self.invite()
        if head.has_body:
            self.claim()

    def claim(self) -> None:
        # Engines read a path decoded, however it was sent.
        path = unquote_to_bytes(self._target).decode(errors="replace")
        use = self.context.operations.look(self.model, self.head.method.decode(), path)
        if use is None:
            super().claim()
        else:
            self.claimed(use)

    def body(self, data: bytes) -> None:
        super().body(data)
        self.stream(data)

    def end(self) -> None:
        if self.head.has_body:
            self.stream_end()
        else:
            self.complete = True
            self.claim()


CALLS: Mapping[Handling, type[Relay]] = MappingProxyType(
    {Handling.JSON: JsonCall, Handling.FORM: FormCall, Handling.PASS: PassCall}
)
