"""What the devices really hold, asked of NVML in a child process (`nvml_worker.py`) that may hang, crash or be killed.

The loop never waits on the driver: a sample comes in time or says why not. One child at most exists, a dying one
included, so that hanging calls do not pile up in the driver. What a sample means is the ledger's part.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aitherd.core.ledger import DeviceSample, ProcessSample, Sample
from aitherd.core.words import Seconds
from aitherd.host.memory import host_memory
from aitherd.host.processes import cgroup_of, name_of

WORKER = (sys.executable, "-P", str(Path(__file__).with_name("nvml_worker.py")))
LONGEST_ANSWER = 1 << 20
"""Bytes: some ten thousand processes."""
DEATH_GRACE: Seconds = 0.5
"""How long a killed child may take to be gone before it counts as stuck in the driver."""
FIRST_DELAY: Seconds = 1.0
LONGEST_DELAY: Seconds = 30.0
"""A new child is tried after a delay that doubles from the first to the longest while none works."""

NO_PERMISSION, DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND, GPU_IS_LOST, RESET_REQUIRED, MISMATCH = 4, 9, 12, 15, 16, 18
"""NVML return codes. (nvml.h)"""
RETRIED_IN_PLACE = frozenset({DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND})
"""Nothing of the driver is in the child yet: it may try again itself, which costs next to nothing."""

CAUSES: Mapping[int, tuple[str, str]] = {
    NO_PERMISSION: (
        "the NVIDIA device nodes may not be opened",
        "the daemon's unit needs DeviceAllow=char-nvidia* rw, and its user access to /dev/nvidia*",
    ),
    DRIVER_NOT_LOADED: (
        "the NVIDIA kernel driver is not loaded",
        "`modprobe nvidia`; if that fails, see `dkms status` and whether Secure Boot refuses the module",
    ),
    LIBRARY_NOT_FOUND: (
        "NVML is not installed (libnvidia-ml.so.1 is missing)",
        "install the NVIDIA driver, or the package that has its libnvidia-ml.so.1",
    ),
    GPU_IS_LOST: ("the GPU fell off the bus", "see `journalctl -k --grep=Xid`; as a rule only a reboot brings it back"),
    RESET_REQUIRED: ("the GPU needs a reset", "stop what uses it and `nvidia-smi --gpu-reset`, or reboot"),
    MISMATCH: (
        "the NVIDIA library and kernel driver differ in version",
        "the driver was updated under running programs: reboot, or reload the nvidia modules when nothing uses them",
    ),
}
HANGS = (
    "NVML does not answer: a call hangs in the driver",
    "see `journalctl -k --grep=NVRM`; if it does not pass, reboot. Engines that run serve on",
)


class Nvml:
    """The devices of this machine. Ids are `gpu0`, `gpu1`… in the order of NVML's indices."""

    def __init__(self, worker: Sequence[str] = WORKER) -> None:
        """`worker` is the command of the child. Nothing runs before the first sample, or `begin`."""
        self._worker = worker
        self._ahead: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self._child: _Child | None = None
        self._dying: subprocess.Popen[bytes] | None = None
        self._lock = asyncio.Lock()
        self._blind = _Blind(*HANGS)
        self._delay: Seconds = 0.0
        self._retry_at: Seconds = 0.0

    def begin(self) -> None:
        """Starts the child ahead of the first sample: it loads while others do. Needs no loop; failures show later."""
        if self._ahead is None and self._child is None:
            with contextlib.suppress(_Blind):
                self._ahead = _spawn(self._worker)

    async def sample(self, timeout: Seconds) -> Sample:
        """Measures all devices, within `timeout` seconds.

        What cannot be measured is said in `problem`, or in `lost` where others can, cause and remedy. The values are
        not older than `taken`.
        """
        async with self._lock:
            taken = time.monotonic()
            try:
                if taken < self._retry_at:
                    raise self._blind
                async with asyncio.timeout(timeout):
                    answer = await self._answer()
                sample = _sample(taken, answer)
                self._delay = self._retry_at = 0.0
                return sample
            except TimeoutError:
                return self._failed(taken, _Blind(*HANGS))
            except _Blind as blind:
                return self._failed(taken, blind) if blind.broken else Sample(taken, "", (), str(blind))

    async def renew(self) -> None:
        """Lets the child go, and what it has open with it; the next sample begins with a new one, at once."""
        async with self._lock:
            self._kill()
            self._delay = self._retry_at = 0.0

    async def close(self) -> None:
        """Ends the child. One that hangs in the driver is killed and left to the kernel."""
        async with self._lock:
            child = self._child
            if self._ahead is not None:
                (self._dying, ours), self._ahead = self._ahead, None
                self._dying.kill()
                ours.close()
            self._kill()
            if child is not None:
                await child.closed()
            with contextlib.suppress(_Blind):
                await self._buried()

    async def _answer(self) -> Mapping[str, Any]:
        if self._child is not None:
            try:
                return await self._child.ask()
            except _Blind as blind:
                if not blind.broken:
                    raise
                # It worked before: a new process may find the new driver's library, or just not crash.
                self._kill()
        await self._buried()
        self._child = await self._start()
        return await self._child.ask()

    async def _start(self) -> _Child:
        process, ours = self._ahead or _spawn(self._worker)
        self._ahead = None
        self._dying = process  # unless it turns out to live: a start that is cancelled leaves it to be buried
        try:
            reader, writer = await asyncio.open_connection(sock=ours, limit=LONGEST_ANSWER)
        except BaseException:
            process.kill()
            ours.close()
            raise
        self._dying = None
        return _Child(process, reader, writer)

    def _failed(self, taken: Seconds, blind: _Blind) -> Sample:
        self._kill()
        if taken >= self._retry_at:
            self._delay = min(max(self._delay * 2, FIRST_DELAY), LONGEST_DELAY)
            self._retry_at = time.monotonic() + self._delay
        self._blind = blind
        return Sample(taken, "", (), str(blind))

    def _kill(self) -> None:
        if self._child is not None:
            self._dying, self._child = self._child.kill(), None

    async def _buried(self) -> None:
        """Returns when no killed child is left. Raises _Blind if one does not die."""
        if self._dying is not None and not await _ended(self._dying):
            raise _Blind(*HANGS)
        self._dying = None


class _Blind(Exception):
    """Nothing can be measured. `broken` means that only a new process could do better."""

    def __init__(self, cause: str, remedy: str, *, broken: bool = True) -> None:
        super().__init__(f"{cause}: {remedy}")
        self.broken = broken


class _Child:
    """One worker process and the connection to it, which is its standard input and output."""

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._asked = 0

    async def ask(self) -> Mapping[str, Any]:
        """The answer to one request. Raises _Blind."""
        self._asked += 1
        try:
            self._writer.write(json.dumps({"id": self._asked}).encode() + b"\n")
            await self._writer.drain()
            answer = await self._read()
            # Whoever asked before may have been cancelled and left its answer.
            while answer["id"] < self._asked:
                answer = await self._read()
        except OSError as error:
            raise await self._died() from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _nonsense() from error
        if "error" in answer:
            raise _Blind(*_cause(answer["error"]), broken=answer["error"] not in RETRIED_IN_PLACE)
        return answer

    def kill(self) -> subprocess.Popen[bytes]:
        self._writer.close()
        self._process.kill()
        return self._process

    async def closed(self) -> None:
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _read(self) -> dict[str, Any]:
        line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise await self._died()
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise TypeError(line)
        return answer

    async def _died(self) -> _Blind:
        """Its connection is gone; how it ended is known a moment later."""
        await _ended(self._process)
        status = self._process.returncode
        how = "" if status is None else f" by signal {-status}" if status < 0 else f" with status {status}"
        return _Blind(f"the measuring process died{how}", "its last words are in the daemon's journal")


async def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it is gone, at once or within DEATH_GRACE."""
    deadline = time.monotonic() + DEATH_GRACE
    while process.poll() is None:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.005)
    return True


def _spawn(command: Sequence[str]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The worker and our end of its standard input and output."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            return subprocess.Popen(command, stdin=theirs.fileno(), stdout=theirs.fileno()), ours
        except OSError as error:
            ours.close()
            raise _Blind(f"the measuring process cannot be started ({error})", "reinstall aitherd") from error


def _nonsense() -> _Blind:
    return _Blind("the measuring process answered nonsense", "it is started anew; if this stays, reinstall aitherd")


def _cause(code: Any) -> tuple[str, str]:
    return CAUSES.get(code, (f"NVML failed with error {code}", "see `journalctl -k --grep=NVRM` and `nvidia-smi`"))


def _sample(taken: Seconds, answer: Mapping[str, Any]) -> Sample:
    """A Sample from the worker's answer. Raises _Blind when it is not of the agreed shape."""
    try:
        measured = tuple(_device(found) for found in answer["devices"] if "error" not in found)
        lost = {
            f"gpu{int(found['index'])}": ": ".join(_cause(found["error"]))
            for found in answer["devices"]
            if "error" in found
        }
        driver = str(answer["driver"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _nonsense() from error
    problem = ""
    if not measured:
        none = "the driver sees no GPU: see `lspci -d 10de:` and `journalctl -k --grep=NVRM`"
        problem = "; ".join(f"{id}: {why}" for id, why in lost.items()) or none
    return Sample(taken, driver, measured, problem, lost)


def _device(found: Mapping[str, Any]) -> DeviceSample:
    total, free = found["total"], found["free"]
    unified = total is None or free is None
    if unified:
        host = host_memory()
        total, free = host.total, host.available
    processes = tuple(
        ProcessSample(int(pid), name_of(pid), None if held is None else int(held), cgroup_of(pid))
        for pid, held in found["processes"]
    )
    power, busy = found.get("milliwatts"), found.get("busy")
    return DeviceSample(
        f"gpu{int(found['index'])}",
        str(found["uuid"]),
        str(found["name"]),
        int(total),
        int(free),
        processes,
        None if power is None else int(power) / 1000,
        None if busy is None else min(int(busy), 100) / 100,
        unified,
    )
