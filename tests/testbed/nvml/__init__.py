"""NVML without a GPU: the library that `pynvml` loads, and the file behind it as a test sees it.

    gpu = Gpu.create(tmp_path / "gpu")
    gpu.card.claim(os.getpid(), 4 << 30)
    UserManager(gpu.environment)        # the daemon and its engines in there see this GPU

An engine that takes device memory is started as `with-vram 5.2GiB -- COMMAND`, or calls `Gpu.attach`.
"""

from tests.testbed.nvml.gpu import Card, Fault, Gpu, NvmlError, OutOfMemory

__all__ = ["Card", "Fault", "Gpu", "NvmlError", "OutOfMemory"]
