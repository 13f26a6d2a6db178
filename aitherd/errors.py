"""What can go wrong, once: how each error reads to a person, over HTTP and over D-Bus.

Raise these anywhere; map them nowhere but at an edge. `message` says what is wrong, `remedy` what to do about it.
"""

from __future__ import annotations

from typing import ClassVar


class AitherError(Exception):
    """Base of every error that a person may see.

    `status` is the HTTP status, `code` the `error.code` of the OpenAI error shape, `dbus_name` the last part of the
    D-Bus error name (`org.aitheros.Aither1.Error.…`). `retry_after` is in seconds, None when retrying is pointless.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    dbus_name: ClassVar[str] = "Failed"

    def __init__(self, message: str, *, remedy: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.message}: {self.remedy}" if self.remedy else self.message


class UnknownModel(AitherError):
    """No configured model has that name or serves it."""

    status, code, dbus_name = 404, "model_not_found", "NoSuchModel"


class CannotFit(AitherError):
    """The arbiter has no plan, now or ever; the message carries the sum."""

    status, code, dbus_name = 503, "no_room", "NoRoom"


class NotLoaded(AitherError):
    """What was asked only looks at an engine, and there is none up to look at."""

    status, code, dbus_name = 503, "model_not_loaded", "NotLoaded"


class DeviceBlind(AitherError):
    """The device cannot be measured, so nothing is loaded on it."""

    status, code, dbus_name = 503, "device_unavailable", "DeviceUnavailable"


class StartFailed(AitherError):
    """The engine did not become ready."""

    status, code, dbus_name = 503, "engine_start_failed", "StartFailed"


class OutOfDeviceMemory(StartFailed):
    """The engine did not become ready because the device had not enough memory for it after all."""


class HostOutOfMemory(StartFailed):
    """The kernel killed the engine for host memory. Trying again soon would only end the same way."""


class BackingOff(AitherError):
    """The model failed a moment ago and is not tried again yet."""

    status, code, dbus_name = 503, "backing_off", "BackingOff"


class WaitedTooLong(AitherError):
    """The request's time to wait for the model ran out."""

    status, code, dbus_name = 503, "wait_timeout", "TimedOut"


class Hopeless(AitherError):
    """The model cannot be ready within the time that the request has left, so it does not wait for that to pass."""

    status, code, dbus_name = 503, "deadline_hopeless", "Hopeless"


class QueueFull(AitherError):
    """Too many requests wait for this model already."""

    status, code, dbus_name = 429, "queue_full", "QueueFull"


class AlwaysHeld(AitherError):
    """An essential model cannot be released: it is held by being essential."""

    status, code, dbus_name = 409, "always_held", "AlwaysHeld"


class CannotSleep(AitherError):
    """The model cannot be put to sleep, or did not stay alive asleep."""

    status, code, dbus_name = 409, "cannot_sleep", "CannotSleep"


class NotAsleep(AitherError):
    """The model does not sleep, so that it cannot be woken."""

    status, code, dbus_name = 409, "not_asleep", "NotAsleep"


class Stopped(AitherError):
    """The model was stopped by a person while the request waited."""

    status, code, dbus_name = 503, "model_stopped", "Stopped"


class InvalidLease(AitherError):
    """What was asked for is no lease: its size, its device or its duration."""

    status, code, dbus_name = 400, "invalid_lease", "InvalidLease"


class InvalidHint(AitherError):
    """What was said about a request that is to be explained means nothing."""

    status, code, dbus_name = 400, "invalid_hint", "InvalidHint"


class UnknownLease(AitherError):
    """No lease has that id, or it has ended."""

    status, code, dbus_name = 404, "lease_not_found", "NoSuchLease"


class ShuttingDown(AitherError):
    """The daemon is going away."""

    status, code, dbus_name = 503, "shutting_down", "ShuttingDown"


class ConfigurationRefused(AitherError):
    """The configuration on disk has errors; what ran before still runs."""

    status, code, dbus_name = 400, "invalid_configuration", "InvalidConfiguration"


class NotAllowed(AitherError):
    """The caller may not do that."""

    status, code, dbus_name = 403, "not_allowed", "NotAllowed"


class HostFailure(AitherError):
    """systemd, the bus or the kernel refused what was asked."""

    status, code, dbus_name = 500, "host_failure", "HostFailure"
