"""A throw-away machine with a real system manager, for tests.

User-Mode Linux runs a kernel as an ordinary process; the root file system is built once with mmdebstrap and every boot
writes to a copy-on-write file beside it.  The guest has one CPU, cgroup v2 with cpu, io, memory and pids, a system bus,
polkit and journald.  It has no network but loopback, no udev, no PSI and no cpuset: what needs those runs in a machine
that is emulated (`emulated.py`).

    with Vm("trixie", share=tmp_path) as guest:
        assert guest.run("systemctl is-active dbus").stdout == "active\\n"

`python -m tests.machine.vm` sets a machine up, builds images and opens a prompt in a guest.
"""

from tests.machine.vm.errors import GuestDied, VmError, VmUnavailable
from tests.machine.vm.guest import Command, Guest
from tests.machine.vm.machine import Vm

__all__ = ["Command", "Guest", "GuestDied", "Vm", "VmError", "VmUnavailable"]
