"""How a command ends: exit statuses, and what is said when it does not succeed."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit statuses of aitherctl, as far as they can be those of systemctl."""

    OK = 0
    FAILED = 1
    """Refused or failed; a plan that is not possible; a configuration with errors."""
    USAGE = 2
    NOT_READY = 3
    """`status NAME`: a model that is not ready."""
    UNKNOWN = 4
    """There is no such model."""
    CANNOT_RUN = 126
    """`lease`: the command cannot be run. This and the next as shells have them: POSIX, Exit Status for Commands."""
    NOT_FOUND = 127
    """`lease`: there is no such command."""


class Failure(Exception):
    """Why a command did not succeed, one line for a person: `MESSAGE; REMEDY`."""

    def __init__(self, message: str, remedy: str = "", *, name: str = "", status: Exit = Exit.FAILED) -> None:
        """`name` is the D-Bus error name, where there is one."""
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.name = name
        self.status = status
