"""What decides. Pure: no I/O, no clock, no asyncio; the world comes in as values and a decision goes out."""
