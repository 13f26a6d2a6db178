"""A machine emulated by QEMU, for what User-Mode Linux lacks: a kernel that tells of pressure (PSI), two CPUs.

It boots the suite's own kernel, runs one script as root and powers off. Files go in and out on a second disk, which the
guest sees at /mnt/host. Several times slower than User-Mode Linux: for few tests.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.machine.vm import setup
from tests.machine.vm.errors import VmError
from tests.machine.vm.image import Recipe

PACKAGES = ("linux-image-cloud-amd64", "initramfs-tools")
DISK_BYTES = 256 << 20
AGENT = "/usr/lib/testbed/start"
"""What the image's own unit runs once it has booted; here it is another script."""
START = """#!/bin/bash
mkdir -p /mnt/host && mount /dev/vdb /mnt/host && cd /root
{ bash /mnt/host/script; echo $? >/mnt/host/status; } 2>&1 | tee /mnt/host/output >/dev/console
sync
umount /mnt/host
systemctl poweroff --force --force
"""
LEFT = ("output", "status")


def run(
    suite: str, script: str, *, files: Mapping[str, Path], into: Path, memory: str = "1G", timeout: float = 1500.0
) -> tuple[int, str]:
    """Runs a bash script in a fresh machine; its exit status and what it printed.

    `files` are put on the second disk, by their paths there. `into` takes the console and is left for a person to read.
    Raises VmError when the machine does not get that far within `timeout` seconds.
    """
    setup.require(setup.EMULATOR)
    into.mkdir(parents=True, exist_ok=True)
    image = _image(Recipe(suite, PACKAGES).ensure(), into)
    kernel, initrd = (_boot_file(image, name, into) for name in ("vmlinuz", "initrd.img"))
    disk = _disk(script, files, into)
    console = into / "console.log"
    command = [
        # One processor: with several the emulator may run into code that its kernel is changing, and the kernel ends.
        *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", memory),
        *("-kernel", str(kernel), "-initrd", str(initrd), "-nographic", "-no-reboot", "-nic", "none"),
        *("-drive", f"file={image},if=virtio,format=raw"),
        *("-drive", f"file={disk},if=virtio,format=raw"),
        "-append",
        "root=/dev/vda rw console=ttyS0 systemd.show_status=no panic=-1",
    ]
    with console.open("wb") as output:
        try:
            subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as expired:
            raise VmError(f"the machine did not power off within {timeout:g} s; see {console}") from expired
    output_text, status = (_read(disk, name) for name in LEFT)
    if not status.strip():
        raise VmError(
            f"the machine did not run the script; its last lines:\n{console.read_text(errors='replace')[-3000:]}"
        )
    return int(status), output_text


def _image(base: Path, into: Path) -> Path:
    """A copy of an image that runs our script instead of the test bed's agent."""
    image, start = into / "root.img", into / "start"
    subprocess.run(["cp", "--sparse=always", str(base), str(image)], check=True)
    start.write_text(START)
    change = f"rm {AGENT}\nwrite {start} {AGENT}\nset_inode_field {AGENT} mode 0100755\n"
    subprocess.run(["debugfs", "-w", "-f", "-", str(image)], input=change, text=True, capture_output=True, check=True)
    return image


def _boot_file(image: Path, name: str, into: Path) -> Path:
    """The kernel, or its first root file system, out of the image."""
    listed = subprocess.run(["debugfs", "-R", "ls -p /boot", str(image)], capture_output=True, text=True, check=True)
    found = [
        entry for line in listed.stdout.splitlines() if (entry := line.split("/")[5:6]) and entry[0].startswith(name)
    ]
    if not found:
        raise VmError(f"there is no {name} in {image}")
    path = into / name
    subprocess.run(["debugfs", "-R", f"dump /boot/{found[0][0]} {path}", str(image)], capture_output=True, check=True)
    return path


def _disk(script: str, files: Mapping[str, Path], into: Path) -> Path:
    tree, disk = into / "tree", into / "disk.img"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    for name, source in files.items():
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    (tree / "script").write_text(script)
    for name in LEFT:
        (tree / name).write_text("")
    disk.unlink(missing_ok=True)
    with disk.open("wb") as made:
        made.truncate(DISK_BYTES)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", str(tree), str(disk)], check=True, capture_output=True)
    shutil.rmtree(tree)
    return disk


def _read(disk: Path, name: str) -> str:
    return subprocess.run(
        ["debugfs", "-R", f"cat /{name}", str(disk)], capture_output=True, text=True, check=True
    ).stdout
