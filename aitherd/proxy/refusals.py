"""Errors that only exist over HTTP. How they, and every other AitherError, look to a client is in `answers.py`."""

from __future__ import annotations

from aitherd.errors import AitherError


class BadRequest(AitherError):
    """The request is malformed, or something that a strict server must not accept."""

    status, code, dbus_name = 400, "invalid_request", "InvalidRequest"


class Unauthorized(AitherError):
    """Keys are configured, and the request over TCP has none of them."""

    status, code, dbus_name = 401, "invalid_api_key", "Unauthorized"

    def __init__(self, message: str) -> None:
        super().__init__(message, remedy="send a key of [callers] as `Authorization: Bearer KEY`")


class OverQuota(AitherError):
    """The caller has more requests under way, or has begun more in a minute, than its quota allows."""

    status, code, dbus_name = 429, "rate_limit_exceeded", "OverQuota"


class NoSuchRoute(AitherError):
    """The path is none of ours, or one that is never passed on."""

    status, code, dbus_name = 404, "unknown_url", "NoSuchRoute"


class NotAllowed(AitherError):
    """The operation is not offered over HTTP."""

    status, code, dbus_name = 403, "not_allowed", "NotAllowed"


class WrongMethod(AitherError):
    """The path exists, the method does not; `allow` lists those that do."""

    status, code, dbus_name = 405, "method_not_allowed", "WrongMethod"

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message, remedy=f"use {allow}")
        self.allow = allow


class TooSlow(AitherError):
    """The client did not finish its request in time."""

    status, code, dbus_name = 408, "request_timeout", "RequestTimeout"


class BodyTooLarge(AitherError):
    """The body is longer than allowed."""

    status, code, dbus_name = 413, "request_too_large", "RequestTooLarge"


class TargetTooLong(AitherError):
    """The request target is longer than allowed."""

    status, code, dbus_name = 414, "uri_too_long", "UriTooLong"


class WrongMediaType(AitherError):
    """The body is not in a form that the route takes."""

    status, code, dbus_name = 415, "unsupported_media_type", "WrongMediaType"


class WrongExpectation(AitherError):
    """`Expect` asks for something other than 100-continue."""

    status, code, dbus_name = 417, "expectation_failed", "WrongExpectation"


class HeadTooLarge(AitherError):
    """A header line or the whole head is longer than allowed."""

    status, code, dbus_name = 431, "headers_too_large", "HeadersTooLarge"


class UnknownTier(AitherError):
    """No configured tier has that name."""

    status, code, dbus_name = 404, "tier_not_found", "NoSuchTier"


class CannotServe(AitherError):
    """No route of the tier can answer such a request, now or ever."""

    status, code, dbus_name = 400, "unsupported_by_tier", "CannotServe"


class NoRouteLeft(AitherError):
    """Routes of the tier could answer such a request, but none can now."""

    status, code, dbus_name = 503, "no_route", "NoRouteLeft"


class TooManyClients(AitherError):
    """There are as many clients as there may be."""

    status, code, dbus_name = 503, "too_many_clients", "TooManyClients"


class TooManyListeners(AitherError):
    """There are as many readers of the events as there may be."""

    status, code, dbus_name = 503, "too_many_listeners", "TooManyListeners"


class UpstreamFailed(AitherError):
    """The engine could not be reached, or broke off or misspoke before its answer began."""

    status, code, dbus_name = 502, "upstream_failed", "UpstreamFailed"


class UpstreamSilent(AitherError):
    """The engine took the request and did not begin to answer in time."""

    status, code, dbus_name = 504, "upstream_timeout", "UpstreamSilent"


class WrongVersion(AitherError):
    """Neither HTTP/1.0 nor HTTP/1.1."""

    status, code, dbus_name = 505, "http_version_not_supported", "WrongVersion"
