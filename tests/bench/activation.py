"""From the first call on the bus, with no daemon running, to its answer; beside a service that does nothing at all.

The peer has the same Python, the same D-Bus library and one method: what it takes is what the bus, systemd and the
interpreter take.
"""

from __future__ import annotations

import sys
from statistics import median

from tests.bench.daemon import MODELS, installed
from tests.bench.rows import Row
from tests.testbed.rig import BUS_NAME, BUS_PATH, Rig

ROUNDS = 9
BUDGET_MS = 400.0
PEER = "org.example.Nothing"
PEER_UNIT = f"""[Service]
Type=dbus
BusName={PEER}
ExecStart={sys.executable} -m tests.bench.nothing {PEER}
"""


def call(rig: Rig, *where: str) -> float:
    """Milliseconds of one call by a client that is connected already."""
    return float(rig.manager.run([sys.executable, "-m", "tests.bench.nothing", "--call", *where]).stdout)


def main() -> list[Row]:
    """Activates both in turns."""
    ours, theirs = [], []
    with installed() as rig:
        rig.manager.install_unit("nothing.service", PEER_UNIT)
        rig.manager.reload()
        rig.manager.install_bus_name(PEER, "nothing.service")
        for _ in range(ROUNDS + 1):
            for unit in ("aitherd.service", "nothing.service"):
                rig.manager.systemctl("stop", unit)
            ours.append(call(rig, BUS_NAME, BUS_PATH, f"{BUS_NAME}.Manager", "ListModels"))
            theirs.append(call(rig, PEER, "/", PEER, "Ask"))
    # The first ones found nothing in the page cache.
    value, peer = median(ours[1:]), median(theirs[1:])
    return [
        Row(
            f"activation: first call until it answers, {MODELS} models", value, "ms", "empty sdbus service", peer,
            value / peer, f"<= {BUDGET_MS:g} ms", value <= BUDGET_MS,
        ),
        Row(
            "activation: the fastest of them", min(ours), "ms", "empty sdbus service", min(theirs),
            min(ours) / min(theirs),
        ),
    ]  # fmt: skip
