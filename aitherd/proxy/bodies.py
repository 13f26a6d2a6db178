"""Finds the model that a body asks for, and puts another name in its place. No I/O.

A JSON body is read for its `model` only; a multipart body only as far as its `model` field.
"""

from __future__ import annotations

import re
from email.message import Message
from enum import Enum

import msgspec

from aitherd.core.words import Bytes
from aitherd.proxy.refusals import BadRequest, WrongMediaType


class _Asks(msgspec.Struct):
    model: str


_asks = msgspec.json.Decoder(_Asks)
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])

STAYING = frozenset(
    {
        "api_base", "api_key", "api_type", "api_version", "base_url", "base_model", "custom_llm_provider", "endpoint",
        "extra_body", "extra_headers", "extra_query", "fallbacks", "headers", "litellm_params", "mock_response",
        "model_list", "organization", "project", "proxy", "user_config",
    }
)  # fmt: skip
"""Members of a request by which gateways let clients choose where it goes, and with which key."""

_FIELD_HEAD: Bytes = 8192
"""A part whose headers are longer than this is refused."""
_MODEL: Bytes = 1024
"""A model's name is shorter than this."""


def json_model(body: bytes) -> str:
    """The `model` of a JSON object; the last one if it has several, as every server reads it. Raises BadRequest."""
    try:
        if not body.isascii():
            body.decode()
        return _asks.decode(body).model
    except msgspec.ValidationError as error:
        raise BadRequest(f"the body must be a JSON object with a string `model`: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None


def json_renamed(body: bytes, model: str) -> bytes:
    """The same JSON object asking for `model`, each key once."""
    fields = _object.decode(body)
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)


def json_leaving(body: bytes, model: str) -> bytes:
    """The same JSON object asking for `model`, without what would send it, or a key, elsewhere (`STAYING`)."""
    fields = {name: value for name, value in _object.decode(body).items() if name.casefold() not in STAYING}
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)


class _Seeking(Enum):
    BOUNDARY = "boundary"
    """The next delimiter."""
    HEAD = "head"
    """The end of a part's headers."""
    VALUE = "value"
    """The end of the `model` part."""


class FormModel:
    """Looks for the `model` field in a multipart body that arrives in pieces, reading each byte once."""

    def __init__(self, content_type: bytes) -> None:
        message = Message()
        message["content-type"] = content_type.decode("latin-1")
        boundary = message.get_param("boundary", "")
        if message.get_content_type() != "multipart/form-data" or not isinstance(boundary, str) or not boundary:
            raise WrongMediaType("the body must be multipart/form-data with a boundary")
        self._delimiter = b"\r\n--" + boundary.encode("latin-1")
        # The first delimiter has no line end before it: pretend one.
        self._text = bytearray(b"\r\n")
        self._at = 0
        self._start = 0
        self._seeking = _Seeking.BOUNDARY
        self.model: str | None = None
        """The value, once found."""

    def __len__(self) -> int:
        return len(self._text) - 2

    def feed(self, data: bytes) -> bool:
        """Takes the next piece. True once `model` is known. Raises BadRequest for a body that is not multipart."""
        self._text += data
        while self.model is None and self._step():
            pass
        return self.model is not None

    def taken(self, model: str | None = None) -> bytes:
        """Everything fed so far, with `model` in place of the value found if it is given."""
        text = self._text
        if model is not None:
            text = text[: self._start] + model.encode() + text[self._at :]
        return bytes(text[2:])

    def _step(self) -> bool:
        """One step of the search; False when more bytes are needed."""
        if self._seeking is _Seeking.HEAD:
            end = self._text.find(b"\r\n\r\n", self._at, self._at + _FIELD_HEAD)
            if end < 0:
                if len(self._text) - self._at > _FIELD_HEAD:
                    raise BadRequest("a part of the form has no end to its headers")
                return False
            is_model = _field_name(bytes(self._text[self._at : end])) == "model"
            # The empty line's end may already be the start of the next delimiter.
            self._at = self._start = end + 4
            if is_model:
                self._seeking = _Seeking.VALUE
            else:
                self._at, self._seeking = end + 2, _Seeking.BOUNDARY
            return True
        found = self._text.find(self._delimiter, self._at)
        if self._seeking is _Seeking.VALUE:
            if found < 0:
                if len(self._text) - self._start > _MODEL + len(self._delimiter):
                    raise BadRequest("the form's `model` field is too long")
                return False
            self._at = found
            try:
                self.model = bytes(self._text[self._start : found]).decode()
            except UnicodeDecodeError:
                raise BadRequest("the form's `model` field is not UTF-8") from None
            return True
        if found < 0:
            self._at = max(self._at, len(self._text) - len(self._delimiter) + 1)
            return False
        self._at, self._seeking = found + len(self._delimiter), _Seeking.HEAD
        return True


_NAME = re.compile(
    r'^content-disposition:[ \t]*form-data[ \t]*;(?:[^\r\n]*?;)?[ \t]*name="?([^";\r\n]*)"?', re.I | re.M
)


def _field_name(head: bytes) -> str:
    """The name of a part, from its headers."""
    match = _NAME.search(head.decode("latin-1"))
    return match.group(1) if match else ""
