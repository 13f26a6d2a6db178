"""Every byte of a device has one kind of owner."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aitherd.core.shares import Share, shares
from aitherd.core.words import Claim, DeviceView, Residency

GIB = 1 << 30


def test_each_owner_gets_what_is_measured_as_his() -> None:
    device = DeviceView(
        "gpu0", "GPU", total=32 * GIB, free=12 * GIB, reserve=2 * GIB,
        foreign=(Claim("game", 10, "gpu0", 3 * GIB), Claim("render", 11, "gpu0", 2 * GIB, holder=11)),
        quarantined=4 * GIB,
    )  # fmt: skip
    models = [(Residency.READY, 8 * GIB), (Residency.SLEEPING, GIB), (Residency.QUARANTINED, 4 * GIB)]
    assert shares(device, models, promised=GIB) == {
        Share.MODELS: 8 * GIB,
        Share.SLEEPERS: GIB,
        Share.LEASES: 3 * GIB,
        Share.FOREIGN: 3 * GIB,
        Share.QUARANTINE: 4 * GIB,
        Share.OTHER: 2 * GIB,
        Share.RESERVE: 2 * GIB,
        Share.FREE: 9 * GIB,
    }


sizes = st.integers(0, 100)


@given(
    free=sizes,
    reserve=sizes,
    quarantined=sizes,
    promised=sizes,
    models=st.lists(st.tuples(st.sampled_from(Residency), st.integers(0, 10)), max_size=4),
    foreign=st.lists(st.tuples(st.integers(0, 10), st.booleans()), max_size=4),
)
def test_they_add_up_to_the_size_and_none_is_negative(
    free: int, reserve: int, quarantined: int, promised: int,
    models: list[tuple[Residency, int]], foreign: list[tuple[int, bool]],
) -> None:  # fmt: skip
    claims = tuple(Claim("it", 1, "gpu0", count, holder=int(leased)) for count, leased in foreign)
    claimed = sum(count for _, count in models) + sum(claim.bytes for claim in claims)
    total = free + claimed + 7
    found = shares(DeviceView("gpu0", "GPU", total, free, reserve, claims, quarantined), models, promised)
    assert sum(found.values()) == total
    assert min(found.values()) >= 0
