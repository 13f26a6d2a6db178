"""Every bound of the data path, once: sizes in bytes, times in seconds. Nothing else of the proxy names a number."""

from __future__ import annotations

from dataclasses import dataclass

from aitherd.core.words import Bytes, Seconds

KIB: Bytes = 1024
MIB: Bytes = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client, an engine and the proxy itself may take. The defaults suit an unattended machine."""

    line: Bytes = 16 * KIB
    """Longest request target (414) or header line (431)."""
    head: Bytes = 64 * KIB
    """Longest head, all lines together (431)."""
    body: Bytes = 100 * MIB
    """Longest request body (413)."""
    model_search: Bytes = 32 * MIB
    """How much of a multipart body is kept until its `model` field comes by; OpenAI's own uploads end at 25 MB."""
    ahead: Bytes = 256 * KIB
    """How much of a streamed body is taken from the client while its model is not ready yet."""
    high_water: Bytes = 64 * KIB
    """Unsent bytes to either side at which the other side is no longer read."""
    kernel_buffer: Bytes = 128 * KIB
    """SO_SNDBUF of client connections (the kernel doubles it), so that a slow reader cannot park megabytes there."""

    connections: int = 16_384
    """How many clients there may be at once (503), as far as the process may open descriptors for them."""
    descriptors: int = 256
    """How many of those are kept for all else: the bus, engines' health, the state's files."""

    header_timeout: Seconds = 10.0
    """From the first byte of a head to its last (408)."""
    body_grace: Seconds = 10.0
    """A body may be this late against `body_rate` (408)."""
    body_rate: Bytes = KIB
    """Slowest average rate of a body, bytes a second."""
    keep_alive: Seconds = 75.0
    """How long a client connection may idle between requests."""
    linger: Seconds = 2.0
    """How long what a refused client still sends is read and dropped, so that it gets to see the refusal."""
    write_timeout: Seconds = 60.0
    """How long a client may leave its full buffer unread before it is cut."""
    connect_timeout: Seconds = 5.0
    """How long an engine may take to accept a connection."""
    first_byte_timeout: Seconds = 900.0
    """From the request to the first byte of the engine's answer (504). A long prompt, or a whole answer that is not
    streamed, may be thought about for minutes."""
    stall_timeout: Seconds = 300.0
    """Longest silence of an engine in the middle of an answer, after which the client is cut."""

    comment_interval: Seconds = 10.0
    """How often a stream that waits for its model is told so."""

    records: int = 200
    """How many requests of a second are recorded one by one; journald takes 10,000 records of a service in 30 s."""
    event_pause: Seconds = 0.25
    """How long changes are collected before listeners of `/events` are told."""
    event_interval: Seconds = 1.0
    """How often they are told what changes without notice, such as the power that a device draws."""
    event_listeners: int = 64
    """How many there may be (503)."""
    event_ahead: Bytes = 256 * KIB
    """How much is written to one that does not read before it is dropped."""

    upstream_idle: Seconds = 4.0
    """How long an unused connection to an engine is kept: less than the 5 s of uvicorn and cpp-httplib."""
    upstream_spare: int = 64
    """How many unused connections are kept for each engine."""
    hosts: frozenset[str] = frozenset()
    """Names by which clients may call over TCP, besides the machine's own."""
    tick: Seconds = 1.0
    """How often deadlines are looked at while there are connections."""
