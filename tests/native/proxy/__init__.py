"""The proxy on real sockets, in front of real servers."""
