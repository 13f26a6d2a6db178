"""The daemon's own conductor in a simulated machine, under a clock that jumps: days of a fleet in seconds."""
