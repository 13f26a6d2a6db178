"""Host memory is never given twice: who leaves it goes before another falls asleep there, and only if it is cheaper."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import event, given, settings
from hypothesis import strategies as st

from aitherd.core.arbiter import decide
from aitherd.core.eviction import stays, ways
from aitherd.core.policy import DEFAULTS
from aitherd.core.sleepers import exits, kept
from aitherd.core.words import HOST, ModelView, Plan, Residency, SleepLevel, Verb, World
from tests.unit.core.worlds import NOW, TARGET, model, target, world


@st.composite
def neighbours(draw: st.DrawFn, name: str) -> ModelView:
    """A model that is awake or asleep, and may sleep at two levels, of which the first keeps weights in host memory."""
    host = draw(st.integers(5, 40))
    ladder = (SleepLevel(1, 1, host, 1.0, 1.0), SleepLevel(2, 1, 0, 1.0, draw(st.floats(2, 30))))
    awake = draw(st.booleans())
    return replace(
        model(
            name,
            Residency.READY if awake else Residency.SLEEPING,
            held=draw(st.integers(10, 30)) if awake else 1,
            level=0 if awake else 1,
            ladder=ladder,
            frequency=draw(st.floats(0, 20)),
            last_used=NOW - draw(st.floats(1, 2000)),
            start_seconds=draw(st.floats(20, 100)),
        ),
        held=draw(st.sampled_from([False, False, False, True])),
    )


@st.composite
def tight(draw: st.DrawFn) -> World:
    """A machine with little host memory left, on which some have to give way."""
    others = [draw(neighbours(name)) for name in "abcde"]
    taken = sum(sum(other.held_bytes.values()) for other in others)
    total = taken + 10
    need = draw(st.integers(10, max(taken // 2, 11)))
    seen = world(target(need), *others, totals={"gpu0": total, HOST: 400}, reserve=0)
    return replace(seen, devices={**seen.devices, HOST: replace(seen.devices[HOST], free=draw(st.integers(0, 40)))})


@settings(max_examples=400, deadline=None)
@given(tight())
def test_a_plan_never_takes_host_memory_that_nobody_has_left(seen: World) -> None:
    outcome = decide(seen, TARGET, NOW)
    if not isinstance(outcome, Plan):
        return
    free = seen.devices[HOST].free
    for step in outcome.steps[:-1]:
        assert not stays(seen.models[step.model], NOW, DEFAULTS)
        free -= step.takes.get(HOST, 0)
        assert free >= 0
    leave = [step for step in outcome.steps[:-1] if step.takes.get(HOST, 0) < 0]
    event(f"{len(leave)} leave host memory")
    assert all(step.verb is Verb.STOP and kept(seen.models[step.model]) == -step.takes[HOST] for step in leave)
    if leave:
        # Each is needed, and all of it costs less than it would with nobody leaving.
        assert all(free + step.takes[HOST] < 0 for step in leave)
        alone = {name: replace(view, held=view.held or kept(view) > 0) for name, view in seen.models.items()}
        without = decide(replace(seen, models=alone), TARGET, NOW)
        assert not isinstance(without, Plan) or cost(seen, outcome) < cost(seen, without)


def cost(seen: World, plan: Plan) -> float:
    return sum(
        next(
            way.cost
            for way in ways(seen.models[step.model], NOW, DEFAULTS)
            if (way.verb, way.level) == (step.verb, step.level)
        )
        for step in plan.steps[:-1]
    )


def test_only_a_sleeper_that_keeps_something_leaves_host_memory() -> None:
    rungs = (SleepLevel(1, 1, 40, 1.0, 1.0), SleepLevel(2, 1, 0, 1.0, 9.0))
    shallow = model("shallow", Residency.SLEEPING, held=1, level=1, ladder=rungs)
    deep = model("deep", Residency.SLEEPING, held=1, level=2, ladder=rungs)
    awake = model("awake", held=30, ladder=rungs)
    found = exits([shallow, deep, awake, replace(shallow, name="held", held=True)], NOW, DEFAULTS)
    assert [(way.model, way.verb, dict(way.gives)) for way in found] == [("shallow", Verb.STOP, {HOST: 40})]
