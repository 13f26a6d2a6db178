"""aitherd: runs a fleet of AI model servers as systemd units and makes them fit one GPU in time."""

__version__ = "0.1.0"
