"""The two kinds of configuration file as they are written: keys, types, ranges and what each key means.

What a single value may be is in `kinds.py`. What keys mean together is checked in `checks.py`; the JSON
Schemas and the template of `aitherd.toml` are made from these classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from aitherd.config.fleet import Settings
from aitherd.config.kinds import (
    Ability,
    Class,
    Count,
    Credential,
    Device,
    Duration,
    Effort,
    Endless,
    EngineKind,
    File,
    Flag,
    Health,
    HostName,
    Kind,
    Leave,
    Level,
    Line,
    Listen,
    Name,
    Part,
    Port,
    Price,
    Served,
    Shown,
    Size,
    Span,
    Timeout,
    Unit,
    Unloader,
    Urgency,
    Url,
    Way,
    Weight,
    Word,
    tables,
)
from aitherd.core.words import Priority, ResidencyClass

DEFAULTS = Settings()


class Written(BaseModel):
    """Base of what is written in files: keys with hyphens, nothing unknown, nothing converted silently."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, alias_generator=lambda name: name.replace("_", "-"), title=None
    )


class ModelFile(Written):
    """A model server of aitherd. The name of the model is the name of the file."""

    engine: EngineKind = Field(description="Kind of model server.")
    residency_class: Class = Field(
        ResidencyClass.ON_DEMAND,
        alias="class",
        description="How firmly it stays: essential (never evicted), resident (last), on-demand (stopped when idle).",
    )
    description: Line = Field("", description="One line for people.")
    serves: list[Served] = Field([], description="Names that clients may ask for, besides the model's own.")
    can: list[Ability] = Field([], description="What it can do.")
    vram: Size | None = Field(
        None,
        description="Device memory that it needs when ready, summed over its devices; what is measured takes over. "
        "A vLLM may leave it out: --gpu-memory-utilization tells.",
    )
    min_gpu_memory_utilization: Part | None = Field(
        None, description="vLLM only: a --gpu-memory-utilization below this is refused."
    )
    idle: Endless = Field(None, description="Without a request for this long it is stopped; infinity for never.")
    command: list[Word] = Field(
        description="What runs, one word an entry, without options that say where to listen. "
        "An exec names its place itself: {socket} or {port}.",
        json_schema_extra={"minItems": 1},
    )
    swap_slot: Name | None = Field(None, description="A slot that at most one awake member may occupy.")
    devices: list[Device] = Field([], description="Devices that it may use; any when left out.")
    span: Span = Field(1, description="How many devices it spreads over, in equal parts.")
    load_timeout: Timeout | None = Field(None, description="How long it may take until it answers.")
    stop_timeout: Timeout | None = Field(None, description="How long it may take to stop before it is killed.")
    port: Port | None = Field(None, description="Loopback port to listen on instead of what aitherd would choose.")
    listen: Listen | None = Field(None, description="Whether it listens on a Unix socket or on a loopback port.")
    health: Health | None = Field(None, description="exec only: the path that answers 2xx when it is ready.")
    max_waiting: Count | None = Field(None, description="How many requests may wait for it; the next one is refused.")
    concurrency: Count | None = Field(
        None,
        description="How many requests it is given at once, such as its --parallel; others wait, and callers take "
        "turns. Without it the model server keeps its own line.",
    )
    download: Flag = Field(
        False,
        description="Whether its engine may reach beyond this machine, to fetch its weights. "
        "Only the system's daemon can keep it from that.",
    )
    keep_slots: Flag = Field(
        False,
        description="llama-server only: its KV caches are written to --slot-save-path before it stops, and read again "
        "when it is back.",
    )
    checkpoint: Flag = Field(
        False,
        description="For an engine that cannot sleep: what it has on the device is moved to host memory by "
        "cuda-checkpoint, which takes a driver of 570 or newer.",
    )
    resources: Annotated[dict[str, Any], WithJsonSchema(tables("resources"))] = Field(
        {}, description="Limits and weights of its unit. systemd.resource-control(5)"
    )
    service: Annotated[dict[str, Any], WithJsonSchema(tables("service"))] = Field(
        {}, description="Surroundings of its unit. systemd.exec(5)"
    )


class ArbiterSection(Written):
    """Who is loaded, and when somebody gives way."""

    reserve: Size = Field(DEFAULTS.reserve, description="Memory of each device that no plan may use.")
    host_reserve: Size = Field(
        DEFAULTS.host_reserve,
        alias="host-reserve",
        description="Host memory that models asleep in it must leave available.",
    )
    wait: Timeout = Field(DEFAULTS.wait, description="How long a request may wait for its model.")
    age_bound: Duration = Field(
        DEFAULTS.age_bound,
        description="A model that somebody has waited for this long, and for more than one and a half of its loads, "
        "is brought in before the others.",
    )
    min_residency: Duration = Field(
        DEFAULTS.min_residency,
        description="A model is not evicted before it has been ready for this long; one that is back quickly may be.",
    )
    return_timeout: Timeout = Field(
        DEFAULTS.return_timeout,
        description="How long device memory may take to be measured as returned before the next harder step is taken.",
    )
    read_ahead: Flag = Field(
        DEFAULTS.read_ahead,
        description="Whether weights of the model that is likely next are read into the page cache while nothing waits "
        "for memory or disks; needs a kernel that tells (/proc/pressure).",
    )


class ModelsSection(Written):
    """What holds for models whose files do not say otherwise."""

    idle: Endless = Field(
        DEFAULTS.idle, description="Without a request for this long an on-demand model is stopped; infinity for never."
    )
    load_timeout: Timeout = Field(
        DEFAULTS.load_timeout, description="How long a model server may take until it answers."
    )
    stop_timeout: Timeout = Field(
        DEFAULTS.stop_timeout, description="How long a model server may take to stop before it is killed."
    )
    max_waiting: Count = Field(
        DEFAULTS.max_waiting, description="How many requests may wait for one model; the next one is refused."
    )


class ProxySection(Written):
    """What clients and engines may take on the way of a request."""

    max_head: Size = Field(DEFAULTS.max_head, description="Largest request line and headers together.")
    max_body: Size = Field(DEFAULTS.max_body, description="Largest request body.")
    head_timeout: Timeout = Field(
        DEFAULTS.head_timeout, description="How long a client may take to send a request's head, from its first byte."
    )
    keep_alive: Duration = Field(
        DEFAULTS.keep_alive, description="How long a connection may stay open between two requests."
    )
    write_timeout: Timeout = Field(
        DEFAULTS.write_timeout, description="How long a client may leave what was sent to it unread before it is cut."
    )
    first_byte_timeout: Timeout = Field(
        DEFAULTS.first_byte_timeout,
        description="How long an engine may take to begin its answer; one that is not streamed begins when it is done.",
    )
    stall_timeout: Timeout = Field(
        DEFAULTS.stall_timeout, description="How long an engine may be silent in the middle of an answer."
    )
    drain_timeout: Duration = Field(
        DEFAULTS.drain_timeout,
        description="How long requests in flight may go on when the daemon stops; "
        "keep it below TimeoutStopSec= of aitherd.service.",
    )
    hosts: list[HostName] = Field(
        [],
        description="Names by which clients may call over TCP, besides localhost, addresses and the machine's own; "
        "others are refused, or a web page could point a name of its own here.",
    )


class LogSection(Written):
    """What is written to the journal."""

    level: Level = Field(DEFAULTS.log_level, description="The least that is written: debug, info, warning or error.")


class TierSection(Written):
    """A chain of routes under a name that clients may ask for as if it were a model."""

    routes: list[Way] = Field(
        description="Who may answer, the preferred one first: a model of this machine, or UPSTREAM/MODEL."
    )
    patience: Duration = Field(
        5.0, description="How long a request may wait for a model to load while another route could answer."
    )
    leave: Leave = Field(
        "no", description="How far its requests may travel: no further than this machine, the LAN, or the cloud."
    )
    serves: list[Served] = Field([], description="Names that clients may ask for, besides the tier's own.")
    effort: list[Effort] = Field([], description="Values of X-Aither-Effort and reasoning_effort that choose it.")


class UpstreamModelSection(Written):
    """A model of an upstream; needed only for one that differs from what the upstream's own section says."""

    name: Served | None = Field(None, description="What the upstream calls it, if not as the section does.")
    can: list[Ability] = Field([], description="What it can do; by default what the upstream can.")
    prompt_price: Price = Field(0.0, description="What a million tokens of requests cost.")
    answer_price: Price = Field(0.0, description="What a million tokens of answers cost.")


class UpstreamSection(Written):
    """A server outside of this machine that speaks the API of OpenAI."""

    url: Url = Field(description="Where its API begins; /v1 where the URL has no path.")
    kind: Kind = Field(description="Where it is; a tier's leave says how far requests may go.")
    nodes: list[Url] = Field([], description="Further addresses that serve the same.")
    weights: list[Count] = Field([], description="How much each address takes: first that of url, then of nodes.")
    can: list[Ability] = Field(
        [], description="What its models can do; chat and completions when nothing is said. Tools and vision, too."
    )
    key: Credential | None = Field(
        None, description="Name of the systemd credential of aitherd.service that holds its API key."
    )
    key_header: Shown | None = Field(
        None,
        description="Header that shows the key. By default x-api-key, which is Anthropic's, for one that can messages "
        "and not chat, and authorization for all others.",
    )
    authority: File | None = Field(
        None, description="File with the certificates to trust instead of the system's, for a CA of one's own."
    )
    concurrency: Count = Field(64, description="How many requests each address may have in flight.")
    daily_cap: Price | None = Field(
        None, description="What its answers may cost in a day (UTC); routes to models with a price end there."
    )
    probe_interval: Timeout = Field(15.0, description="How often each address is asked for its models.")
    connect_timeout: Timeout = Field(5.0, description="How long it may take to accept a connection.")
    first_byte_timeout: Timeout = Field(
        120.0, description="How long it may take to begin its answer before another route is tried."
    )
    models: dict[Served, UpstreamModelSection] = Field({}, description="Its models that need a word of their own.")


class CallerSection(Written):
    """Somebody whose requests are told apart from those of others; without user, group and key: all others."""

    user: Line | None = Field(None, description="Its user, by name or number, on the Unix socket.")
    group: Line | None = Field(None, description="Its primary group, by name or number, on the Unix socket.")
    key: Credential | None = Field(
        None,
        description="Name of the systemd credential of aitherd.service that holds its API key. With a key in any of "
        "these sections, requests over TCP need one.",
    )
    priority: Urgency = Field(
        Priority.INTERACTIVE, description="Whether a person waits for its answers (interactive) or nobody does (batch)."
    )
    weight: Weight = Field(1, description="Its part where callers share: 2 gets twice as much as 1.")
    concurrency: Count | None = Field(None, description="How many requests it may have under way.")
    rate: Count | None = Field(None, description="How many requests it may begin in a minute.")


class ForeignSection(Written):
    """A service that others start and stop, and that aitherd may ask to unload its models when room is needed."""

    engine: Unloader = Field(description="Kind of server, which says how it is asked.")
    unit: Unit = Field(description="The systemd unit that it runs in; its device memory is told by that.")
    port: Port = Field(description="Where it listens on the loopback address.")


class SettingsFile(Written):
    """Settings of aitherd."""

    arbiter: ArbiterSection = Field(default_factory=lambda: ArbiterSection.model_validate({}))
    models: ModelsSection = Field(default_factory=lambda: ModelsSection.model_validate({}))
    proxy: ProxySection = Field(default_factory=lambda: ProxySection.model_validate({}))
    log: LogSection = Field(default_factory=lambda: LogSection.model_validate({}))
    tiers: dict[Name, TierSection] = Field({}, description="Chains of routes, by name.")
    upstreams: dict[Name, UpstreamSection] = Field({}, description="Servers outside of this machine, by name.")
    foreign: dict[Name, ForeignSection] = Field({}, description="Services that are not aitherd's, by name.")
    callers: dict[Name, CallerSection] = Field({}, description="Who asks, by name.")

    def settings(self) -> Settings:
        """The values, checked."""
        sections = (self.arbiter, self.models, self.proxy)
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for section in sections for name, value in section
        }
        return Settings(**values, log_level=self.log.level)


def sections() -> Iterator[tuple[str, type[Written]]]:
    """Every section of `aitherd.toml`: its heading, with NAME where there may be many, and its keys."""
    for name, field in SettingsFile.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Written):
            yield name, field.annotation
    yield "tiers.NAME", TierSection
    yield "upstreams.NAME", UpstreamSection
    yield "upstreams.NAME.models.NAME", UpstreamModelSection
    yield "foreign.NAME", ForeignSection
    yield "callers.NAME", CallerSection
