"""ComfyUI: renders from a queue of its own and caches weights between prompts.

Ready when `/system_stats` answers. Busy while `/queue` holds anything; its page polls, and keeps a WebSocket open, all
the time, which is not work. It cannot sleep; `POST /free` with `unload_models` moves its weights to host memory, where
the next render finds them (`free_memory` would drop them there, too). How it lies: `/free` only sets flags that the
prompt worker honours after the running prompt, so its 200 proves nothing, and `/system_stats` read right after shows
the old numbers; custom nodes keep what they like. About 0.5 GiB, the CUDA context, stays until it exits. Every route
exists below `/api` as well. (ComfyUI, server.py and main.py)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from aitherd.core.words import Endpoint, Seconds
from aitherd.engines import gpu_check
from aitherd.engines.base import Control, Engine, Health, Launch, fields, listen_on_port, probe, require


class ComfyUi(Engine):
    """ComfyUI's `main.py`. It listens on a port only."""

    kind = "comfyui"
    listen_options = ("--listen", "--port")
    frees = True
    own_queue = True

    def only_looks(self, method: str, path: str) -> bool:
        """All but opening the page, a prompt, and pictures for it: whether it renders is asked of its queue."""
        bare = path.removeprefix("/api")
        if method == "POST":
            return bare != "/prompt" and not bare.startswith("/upload/")
        return bare != "/"

    def launch(self, command: Sequence[str], endpoint: Endpoint) -> Launch:
        return Launch((*command, *listen_on_port(endpoint, "--listen")))

    def gpu_check(self, executable: str, python: str) -> tuple[str, ...] | None:
        return (python, "-c", gpu_check.TORCH) if python else None

    def gpu_verdict(self, output: str) -> str:
        return gpu_check.torch_verdict(output)

    async def health(self, control: Control) -> Health:
        return await probe(control, "/system_stats")

    async def canary(self, control: Control, can: Collection[str], timeout: Seconds) -> bool:
        """`/system_stats` asks CUDA how much memory is free, which a device that is lost does not answer."""
        require(await control.get("/system_stats", timeout=timeout), "/system_stats")
        return True

    async def busy(self, control: Control) -> bool:
        answer = await control.get("/queue")
        if answer is None or not answer.is_success:
            return True
        queue = fields(answer)
        if not queue.keys() >= {"queue_running", "queue_pending"}:
            return True
        return bool(queue["queue_running"] or queue["queue_pending"])

    async def free(self, control: Control) -> None:
        require(await control.post("/free", json={"unload_models": True, "free_memory": False}), "/free")
