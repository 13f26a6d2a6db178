"""The parts of the proxy that need no socket."""
