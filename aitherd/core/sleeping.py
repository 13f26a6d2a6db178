"""Whether a model may be put to sleep because somebody asks for it, how deep, and what that gives.

Sleeping in order to make room for others is the arbiter's to decide.
"""

from __future__ import annotations

from aitherd.core.words import HOST, Residency, ResidencyClass, Step, Verb, World, format_bytes


def put_to_sleep(world: World, model: str, level: int) -> Step | str:
    """The step that puts `model` to sleep at `level`, 0 for its shallowest; or why it stays as it is.

    What is busy or held is not looked at: whoever asks waits for the one and ends the other.
    """
    view = world.models[model]
    if view.residency_class is ResidencyClass.ESSENTIAL:
        return f"{model} is essential and is never put to sleep"
    if not view.ladder:
        return f"{model} cannot sleep: its engine does not offer it, or it failed to once"
    if view.residency is not Residency.READY:
        return f"{model} is {view.residency}, and only what is ready can be put to sleep"
    rung = view.ladder[0] if level == 0 else next((one for one in view.ladder if one.level == level), None)
    if rung is None:
        return f"{model} has no sleep level {level}: it has {', '.join(str(one.level) for one in view.ladder)}"
    host = world.devices.get(HOST)
    if host is not None and rung.host > max(host.free - host.reserve, 0):
        return (
            f"{model} would need {format_bytes(rung.host)} of host memory while asleep, and above the reserve "
            f"{format_bytes(max(host.free - host.reserve, 0))} is free"
        )
    held = {device: count for device, count in view.held_bytes.items() if count > 0}
    residue = -(-rung.residue // (len(held) or 1))
    gives = {device: residue - count for device, count in held.items() if count > residue}
    if not gives:
        return f"{model} holds no more than the {format_bytes(rung.residue)} that it would keep asleep"
    return Step(Verb.SLEEP, model, gives, rung.seconds, "asked to", rung.level)
