"""One file an engine: how to tell ready, busy and asleep; how to free, sleep and wake. Adding an engine is adding a file."""
