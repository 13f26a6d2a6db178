"""The parameters of every decision, with their defaults: how they are configured is the configuration's business."""

from __future__ import annotations

from dataclasses import dataclass

from aitherd.core.words import Seconds


@dataclass(frozen=True, slots=True)
class Policy:
    """What the arbiter and the waiting lines go by."""

    min_residency: Seconds = 30.0
    """A model that became ready less than this long ago is not made to give way: no thrashing. One that is back
    sooner need not stay so long: as long as its return takes beyond `quick`."""
    quick: Seconds = 10.0
    """A model that is back within this may give way at any age: who waits for it hardly notices."""
    half_life: Seconds = 1800.0
    """After this long without use a model's use count weighs half."""
    lately: Seconds = 120.0
    """Idle for this long, a model counts as half as likely to be used again soon as one that was used just now."""
    search_nodes: int = 1200
    """So many partial sets of victims are looked at for one decision. About a dozen possible victims need fewer, and
    then the set is the cheapest for certain. Otherwise, among very many or where all cost nearly the same a byte, it is
    the cheapest that was seen.
    """
    placements: int = 8
    """So many sets of devices are searched for a model that spans several, the most promising first."""
    age_bound: Seconds = 20.0
    """A line whose oldest request waits longer than this and than `age_loads` is overdue: it goes before the others."""
    age_loads: float = 1.5
    """The same in loads of its model: one that needs a minute to load is not overdue after 20 s."""
    batch_weight: float = 0.25
    """A batch request weighs so many interactive ones. The age bound is the same for both."""
    doubt: Seconds = 1.0
    """A request leaves when it has looked for this long as if its model could not be ready in time at best."""
    waited: Seconds | None = None
    """How long the line that the decision is for has waited; None where nobody does, as in a dry run."""
    thrift: float = 0.2
    """A line waits for a model that works, instead of having others give way at once, for so long a second of expected
    reloading that this saves. Little: others need not wait behind a reload, what it costs is mostly its own."""
    urgent: bool = False
    """The decision is for an overdue line: young models give way, and those that work may be drained for it."""
    patience: Seconds = 10.0
    """So long a model that works is drained for an overdue line; it takes nothing new meanwhile, and nothing else moves
    on its devices. 0 for not at all."""
    patience_pause: Seconds = 60.0
    """So long after that was in vain it is not tried again for the same line."""


DEFAULTS = Policy()
