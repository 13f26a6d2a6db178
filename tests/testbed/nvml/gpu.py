"""The pretended GPUs, as tests and stand-in engines handle them. What they mean and do is in `gpu.h` and `gpu.c`.

Standard library only: stand-in engines use it inside guests, too.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from enum import IntEnum, IntFlag
from pathlib import Path

FILE_VARIABLE = "AITHER_TEST_NVML"
LIBRARY = "libnvidia-ml.so.1"

RTX_5090 = "NVIDIA GeForce RTX 5090"
RTX_5090_BYTES = 32606 << 20
RESERVED_BYTES = 512 << 20
"""What the driver keeps for itself: neither free nor used, in NVML's second version of memory info."""
DRIVER = "580.95.05"
CLAIMS = 512
TEXT_BYTES = 96
WAIT_S = 20.0
POLL_S = 0.005


class Fault(IntFlag):
    """What is wrong with a device (gpu.h)."""

    NONE = 0
    HANG = 1
    """Memory info does not return until this is cleared; only SIGKILL ends the caller."""
    NONSENSE = 2
    """Memory info says that more is used than there is."""
    MEMORY_UNKNOWN = 4
    """Memory info is not supported, as on machines with unified memory."""
    PROCESSES_UNKNOWN = 8
    """Listing processes is not supported."""
    BYTES_UNKNOWN = 16
    """Processes are listed without their bytes."""
    LEAK = 32
    """Bytes of the dead and the shrunk never come back."""


class NvmlError(IntEnum):
    """The errors that calls can be made to fail with; NVML's numbers."""

    NONE = 0
    NO_PERMISSION = 4
    DRIVER_NOT_LOADED = 9
    GPU_IS_LOST = 15
    LIB_RM_VERSION_MISMATCH = 18
    UNKNOWN = 999


class _Field(IntEnum):
    TOTAL, RESERVED, FAULTS, ERROR, POWER, UTILIZATION, USED, LINGERING, COUNT, INIT_ERROR, LAG, LOOKS = range(12)


COMPUTE, GRAPHICS, UNCHECKED = 1, 2, 4


class _Process(ctypes.Structure):
    _fields_ = (("pid", ctypes.c_int32), ("kind", ctypes.c_uint32), ("bytes", ctypes.c_uint64))


class OutOfMemory(Exception):
    """The device has not enough free bytes for a claim."""


class Gpu:
    """The GPUs of one pretended machine, kept in one file."""

    def __init__(self, path: Path, library: ctypes.CDLL) -> None:
        """Use `create` or `attach`."""
        self.path = path
        self._library = library
        self.cards = tuple(Card(self, index) for index in range(self._get(0, _Field.COUNT)))

    @classmethod
    def create(
        cls,
        path: Path,
        totals: Sequence[int] = (RTX_5090_BYTES,),
        *,
        name: str = RTX_5090,
        reserved: int = RESERVED_BYTES,
        driver: str = DRIVER,
    ) -> Gpu:
        """Makes a machine with a device for each of `totals` (bytes), idle and without faults."""
        from tests.testbed.nvml.build import folder

        library = ctypes.CDLL(str(folder() / LIBRARY))
        numbers = (ctypes.c_uint64 * len(totals))(*totals)
        made = library.gpu_create(
            os.fsencode(path), len(totals), numbers, ctypes.c_uint64(reserved), name.encode(), driver.encode()
        )
        _check(made, path)
        return cls(path, library)

    @classmethod
    def attach(cls) -> Gpu | None:
        """The machine that this process's environment names, for an engine under test; None without one."""
        path = os.environ.get(FILE_VARIABLE)
        return cls(Path(path), ctypes.CDLL(LIBRARY)) if path else None

    @property
    def card(self) -> Card:
        """The first device."""
        return self.cards[0]

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in order to see this machine: the file, the library, and `with-vram` on its PATH."""
        from tests.testbed.nvml.build import folder

        return {
            FILE_VARIABLE: str(self.path),
            "LD_LIBRARY_PATH": str(folder()),
            "PATH": f"{folder()}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        }

    @property
    def release_lag(self) -> float:
        """Seconds that bytes given back stay used, unlisted; counted from when somebody sees that they were given."""
        return self._get(0, _Field.LAG) / 1e9

    @release_lag.setter
    def release_lag(self, seconds: float) -> None:
        self._set(0, _Field.LAG, round(seconds * 1e9))

    @property
    def broken(self) -> NvmlError:
        """The error of initialising and of every call after it, as when the library does not fit the driver."""
        return NvmlError(self._get(0, _Field.INIT_ERROR))

    @broken.setter
    def broken(self, error: NvmlError) -> None:
        self._set(0, _Field.INIT_ERROR, error)

    @property
    def looks(self) -> int:
        """How often memory info has been asked for."""
        return self._get(0, _Field.LOOKS)

    def change_driver(self, version: str) -> None:
        """Another driver is loaded: a process that initialised before sees a version mismatch, a new one does not."""
        _check(self._library.gpu_change_driver(os.fsencode(self.path), version.encode()), self.path)

    def _get(self, device: int, field: _Field) -> int:
        value = ctypes.c_uint64()
        _check(self._library.gpu_get(os.fsencode(self.path), device, int(field), ctypes.byref(value)), self.path)
        return value.value

    def _set(self, device: int, field: _Field, value: int) -> None:
        _check(self._library.gpu_set(os.fsencode(self.path), device, int(field), ctypes.c_uint64(value)), self.path)


class Card:
    """One device."""

    def __init__(self, gpu: Gpu, index: int) -> None:
        self.index = index
        self._gpu = gpu

    def claim(self, pid: int, size: int, *, graphics: bool = False, unchecked: bool = False) -> None:
        """Says that `pid` holds exactly `size` bytes here, 0 being none; what it had more lingers.

        `unchecked` keeps the claim whether or not such a process exists, as one of another PID namespace. Raises
        OutOfMemory.
        """
        kind = (GRAPHICS if graphics else COMPUTE) | (UNCHECKED if unchecked else 0)
        done = self._gpu._library.gpu_claim(os.fsencode(self._gpu.path), pid, self.index, ctypes.c_uint64(size), kind)
        if done == errno.ENOMEM:
            raise OutOfMemory(f"CUDA out of memory. Tried to allocate {size >> 20} MiB, {self.free >> 20} MiB are free")
        _check(done, self._gpu.path)

    @property
    def processes(self) -> dict[int, int]:
        """Bytes of the processes that NVML lists, by PID."""
        found, count = (_Process * CLAIMS)(), ctypes.c_uint32(CLAIMS)
        path = os.fsencode(self._gpu.path)
        _check(self._gpu._library.gpu_processes(path, self.index, found, ctypes.byref(count)), self._gpu.path)
        return {process.pid: process.bytes for process in found[: count.value]}

    @property
    def uuid(self) -> str:
        """As NVML gives it and CUDA_VISIBLE_DEVICES takes it."""
        uuid, name, driver = (ctypes.create_string_buffer(TEXT_BYTES) for _ in range(3))
        path = os.fsencode(self._gpu.path)
        _check(self._gpu._library.gpu_text(path, self.index, uuid, name, driver), self._gpu.path)
        return uuid.value.decode()

    @property
    def total(self) -> int:
        """Bytes."""
        return self._gpu._get(self.index, _Field.TOTAL)

    @property
    def used(self) -> int:
        """Bytes of processes and of what lingers, whatever faults make NVML say."""
        return self._gpu._get(self.index, _Field.USED)

    @property
    def lingering(self) -> int:
        """Bytes that are used and belong to no listed process."""
        return self._gpu._get(self.index, _Field.LINGERING)

    @property
    def free(self) -> int:
        """Bytes that a claim could get."""
        return self.total - self._gpu._get(self.index, _Field.RESERVED) - self.used

    def give_back(self) -> None:
        """What lingers, or has leaked, is back at once."""
        self._gpu._set(self.index, _Field.LINGERING, 0)

    @property
    def faults(self) -> Fault:
        """What is wrong with it."""
        return Fault(self._gpu._get(self.index, _Field.FAULTS))

    @faults.setter
    def faults(self, faults: Fault) -> None:
        self._gpu._set(self.index, _Field.FAULTS, faults)

    @property
    def error(self) -> NvmlError:
        """The error of every call about it (`GPU_IS_LOST`), or NONE."""
        return NvmlError(self._gpu._get(self.index, _Field.ERROR))

    @error.setter
    def error(self, error: NvmlError) -> None:
        self._gpu._set(self.index, _Field.ERROR, error)

    def set_load(self, *, milliwatts: int, percent: int) -> None:
        """What power draw and utilisation say."""
        self._gpu._set(self.index, _Field.POWER, milliwatts)
        self._gpu._set(self.index, _Field.UTILIZATION, percent)

    def foreign(self, size: int, *, graphics: bool = False) -> subprocess.Popen[bytes]:
        """Starts a process outside of every unit that holds `size` bytes until the caller ends it."""
        process = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        try:
            self.claim(process.pid, size, graphics=graphics)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return process

    def wait(self, condition: Callable[[Card], bool], *, timeout: float = WAIT_S) -> None:
        """Waits until `condition` holds; TimeoutError, with what is used, after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not condition(self):
            if time.monotonic() > deadline:
                raise TimeoutError(f"used {self.used}, lingering {self.lingering}, processes {self.processes}")
            time.sleep(POLL_S)


def _check(code: int, path: Path) -> None:
    if code != 0:
        raise OSError(code, os.strerror(code), os.fspath(path))
