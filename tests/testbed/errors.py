"""What can go wrong with the test bed itself, as opposed to the software under test."""


class ManagerUnavailable(Exception):
    """No private service manager can be had on this machine; the text says why and names the remedy."""
