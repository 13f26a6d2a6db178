"""Routing to what is outside of this machine, with real servers and under load."""
