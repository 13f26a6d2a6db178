"""aitherctl: a client of the daemon's D-Bus interface, and of the configuration on disk. Nothing is decided here."""
