"""What can go wrong with the test bed itself, as opposed to the software under test."""


class VmError(Exception):
    """The machine did not do what the test bed asked."""


class VmUnavailable(VmError):
    """No machine can be had here; the message names the remedy."""


class GuestDied(VmError):
    """The guest powered off, crashed or was killed while somebody waited for it; carries the last console lines."""
