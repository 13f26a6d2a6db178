"""Host memory on a machine whose kernel tells of pressure: sleepers leave before the kernel kills.

The machine is emulated, which takes ten minutes: `make pressure` runs it, `make test` does not.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.machine.conftest import ARTEFACTS, REPOSITORY, SUITE, TRANSCRIPTS
from tests.machine.vm import emulated, setup
from tests.testbed.nvml import Gpu
from tests.testbed.nvml.build import LIBRARY, folder
from tests.testbed.nvml.gpu import FILE_VARIABLE

WANTED = "AITHER_EMULATE"

SCRIPT = """
set -ex
test -r /proc/pressure/memory
cp /mnt/host/{library} /usr/lib/x86_64-linux-gnu/ && ldconfig
cp /mnt/host/card /dev/shm/card && chmod 666 /dev/shm/card
systemctl set-environment {variable}=/dev/shm/card
dpkg --install /mnt/host/aitherd.deb >/dev/null
mkdir -p /mnt/repo && cp -r /mnt/host/tests /mnt/repo/
cat >/etc/aither/models.d/sleeper.toml <<'END'
engine = "vllm"
class = "on-demand"
vram = "2 GiB"
idle = "never"
command = ["/mnt/repo/tests/testbed/bin/vllm", "serve", "m", "--enable-sleep-mode", "--kv-cache-memory-bytes", "256MiB",
           "--x-weights", "256MiB", "--x-context", "1536MiB"]
END
printf '[arbiter]\\nhost-reserve = "16 MiB"\\nmin-residency = "0s"\\n' >/etc/aither/aitherd.toml
systemctl daemon-reload
model="org.aitheros.Aither1 /org/aitheros/Aither1/model/sleeper org.aitheros.Aither1.Model"
state() {{ busctl get-property $model Residency; }}
aitherctl start sleeper
aitherctl sleep sleeper
sleep 6
state | grep sleeping
busctl get-property $model Level
cat /sys/fs/cgroup/aither.slice/memory.pressure
# Beside it something grows until the kernel makes it wait for every page.
systemd-run --unit=hog --slice=aither.slice -p MemoryHigh=40M -p MemoryMax=300M -p MemorySwapMax=0 \\
    python3 -c 'hog = [bytearray(1 << 20) for _ in range(200)]; import time; time.sleep(1000)'
until state | grep absent; do sleep 1; done
cat /sys/fs/cgroup/aither.slice/memory.pressure
journalctl --sync; journalctl --no-pager --output=cat -u aitherd AITHER_MODEL=sleeper
journalctl --no-pager --output=cat -u aitherd AITHER_EVENT=step | grep 'programs wait for host memory'
cat /sys/fs/cgroup/aither.slice/memory.events
grep -x 'oom_kill 0' /sys/fs/cgroup/aither.slice/memory.events
"""


def test_sleepers_leave_under_pressure_before_the_kernel_kills(package: Path) -> None:
    if not os.environ.get(WANTED):
        pytest.skip("ten minutes on an emulated machine: make pressure")
    if missing := setup.missing_packages(setup.EMULATOR):
        pytest.skip(f"no emulated machine: apt-get install {' '.join(missing)}")
    into = ARTEFACTS / "pressure"
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    Gpu.create(into / "card")
    files = {
        "card": into / "card",
        LIBRARY: folder() / LIBRARY,
        "aitherd.deb": package,
        "tests/testbed": REPOSITORY / "tests" / "testbed",
    }
    script = SCRIPT.format(library=LIBRARY, variable=FILE_VARIABLE)
    status, output = emulated.run(SUITE, script, files=files, into=into, memory="2G")
    TRANSCRIPTS.mkdir(parents=True, exist_ok=True)
    (TRANSCRIPTS / "pressure.txt").write_text(output)
    assert status == 0, output
    shutil.rmtree(into)
