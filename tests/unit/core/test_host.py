"""How much host memory is left: the least that machine and slice give, and nothing under pressure."""

import pytest

from aitherd.core.host import STALLED, STEP, host_view

G = 1 << 30


@pytest.mark.parametrize(
    ("available", "budget", "stalled", "free"),
    [
        (8 * G, None, 0.0, 8 * G),
        (8 * G, 3 * G, 0.0, 3 * G),
        (2 * G, 3 * G, 0.0, 2 * G),
        (8 * G + STEP - 1, None, STALLED - 0.01, 8 * G),
        (8 * G, 8 * G, STALLED, 0),
    ],
)
def test_what_is_left(available: int, budget: int | None, stalled: float, free: int) -> None:
    view = host_view(64 * G, available, budget, stalled, 4 * G)
    assert (view.free, view.total, view.reserve, bool(view.stalled)) == (free, 64 * G, 4 * G, stalled >= STALLED)
