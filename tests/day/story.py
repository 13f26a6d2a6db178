"""What is asked of the fleet in a day: `python3 -m tests.day.story SOCKET REPORT PORT -- AITHERCTL…`.

It runs beside the daemon. PORT is that of an Ollama which is not aitherd's.

It asks, measures and writes down; what must have come of it is said in `checks.py`. Only the standard library: it runs
in guests, too. The card is looked at through the NVML test library, as any program would look at a real one.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.testbed.models import png
from tests.testbed.nvml import Gpu
from tests.testbed.speech import sound

ESSENTIALS = ("orchestrator", "embed")
"""What is up all day: the essential model, and the resident one."""
CAPTIONS, AT_ONCE = 60, 3
GAME = "10GiB"
GAME_S = 8.0
OLLAMA_BYTES = 5 << 30
WHISPER = "Systran/faster-whisper-large-v3"
ASK_EVERY_S = 0.1
LOOK_EVERY_S = 0.25
PATIENCE_S = 300.0
_GAUGE = re.compile(r"^(aither_\w+)\{([^}]*)\} ([0-9.e+]+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Unix(http.client.HTTPConnection):
    """A connection to a server on a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("aither", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(self._path)


class Day:
    """One day, and what was seen of it."""

    def __init__(self, path: str, ollama: int, ctl: Sequence[str]) -> None:
        self._path = path
        self._ollama = ollama
        self._ctl = ctl
        self._lock = threading.Lock()
        self._over = threading.Event()
        gpu = Gpu.attach()
        assert gpu is not None, "there is no card"
        self._gpu = gpu
        self.requests: list[dict[str, Any]] = []
        self.looks: list[dict[str, Any]] = []
        self.chapters: list[dict[str, Any]] = []
        self.failures: list[str] = []

    # --- asking ------------------------------------------------------------------------------------------------------

    def ask(
        self,
        who: str,
        path: str,
        body: object = None,
        *,
        form: tuple[bytes, str] | None = None,
        method: str = "POST",
        by: http.client.HTTPConnection | None = None,
        also: int = 200,
    ) -> tuple[dict[str, Any], bytes]:
        """Sends one request and writes down how it went; a failure is any status but 200 and `also`."""
        data, kind = form or (json.dumps(body).encode() if body is not None else b"", "application/json")
        connection = by or Unix(self._path)
        at = time.time()
        began = time.monotonic()
        try:
            connection.request(method, path, data, {"Content-Type": kind})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            if by is None:
                connection.close()
        noted = {
            "who": who,
            "at": at,
            "seconds": time.monotonic() - began,
            "status": answer.status,
            "waited_ms": int(answer.headers.get("X-Aither-Waited-Ms", "0")),
            "upstream": answer.headers.get("X-Aither-Upstream", ""),
            "reason": answer.headers.get("X-Aither-Reason", ""),
        }
        with self._lock:
            self.requests.append(noted)
            if answer.status not in (200, also):
                self.failures.append(f"{who}: {answer.status} {text[:300].decode(errors='replace')}")
        return noted, text

    def chat(self, who: str, model: str, content: object = "hello", *, tokens: int = 4, stream: bool = False) -> str:
        """A chat, and what was said."""
        body = {"model": model, "max_tokens": tokens, "stream": stream}
        _, text = self.ask(who, "/v1/chat/completions", body | {"messages": [{"role": "user", "content": content}]})
        if stream:
            whole = text.endswith(b"data: [DONE]\n\n") and text.count(b"chat.completion.chunk") == tokens
            self.expect(whole, f"{who}: the answer broke off")
            return ""
        try:
            return str(json.loads(text)["choices"][0]["message"]["content"])
        except (ValueError, KeyError, IndexError):
            return ""

    def expect(self, true: object, what: str) -> None:
        """One thing that had to be."""
        if not true:
            with self._lock:
                self.failures.append(what)

    def ctl(self, *words: str) -> Any:
        """What `aitherctl --json` says."""
        done = subprocess.run([*self._ctl, "--json", *words], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    def until(self, what: str, true: Callable[[], object]) -> None:
        """Waits; writes down that it was in vain."""
        deadline = time.monotonic() + PATIENCE_S
        while not true():
            if time.monotonic() > deadline:
                self.expect(False, f"never: {what}")
                return
            time.sleep(0.1)

    @contextmanager
    def chapter(self, name: str) -> Iterator[None]:
        """A part of the day."""
        began = time.time()
        yield
        self.chapters.append({"name": name, "begin": began, "end": time.time()})

    # --- all day -----------------------------------------------------------------------------------------------------

    def orchestrate(self, engine: str) -> None:
        """Asks the orchestrator all along, by way of the daemon and, to compare, its engine itself."""
        ways = {"orchestrator": Unix(self._path), "its engine": Unix(engine)}
        body = {"model": "aither-orchestrator", "max_tokens": 4, "messages": [{"role": "user", "content": "next?"}]}
        while not self._over.wait(ASK_EVERY_S):
            for who, connection in ways.items():
                self.ask(who, "/v1/chat/completions", body, by=connection)
        for connection in ways.values():
            connection.close()

    def look(self) -> None:
        """Writes down what the daemon says about the device, and what the device says itself."""
        with_daemon = Unix(self._path)
        while not self._over.wait(LOOK_EVERY_S):
            with_daemon.request("GET", "/metrics")
            text = with_daemon.getresponse().read().decode()
            models: dict[str, float] = {}
            owners: dict[str, float] = {}
            for name, labels, value in _GAUGE.findall(text):
                said = dict(_LABEL.findall(labels))
                if name == "aither_model_device_bytes":
                    models[said["model"]] = float(value)
                elif name == "aither_device_bytes" and said["device"] == "gpu0":
                    owners[said["owner"]] = float(value)
            self.looks.append({"at": time.time(), "models": models, "owners": owners, "used": self._gpu.card.used})
        with_daemon.close()

    # --- the day -----------------------------------------------------------------------------------------------------

    def live(self) -> None:
        """From boot to night."""
        threads = [threading.Thread(target=self.look)]
        threads[0].start()
        try:
            with self.chapter("boot"):
                self.until("the orchestrator and the embedder are up", lambda: self._up() >= set(ESSENTIALS))
            endpoint = next(model["endpoint"] for model in self.ctl("list") if model["name"] == "orchestrator")
            threads.append(threading.Thread(target=self.orchestrate, args=(endpoint.removeprefix("unix:"),)))
            threads[1].start()
            for name, part in self._parts().items():
                with self.chapter(name):
                    part()
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def _parts(self) -> Mapping[str, Callable[[], None]]:
        return {
            "chat": self._talk,
            "a video": self._ingest,
            "Ollama": self._elsewhere,
            "two renders": self._render,
            "a hard problem": self._think,
            "a voice turn": self._speak,
            "a game": self._play,
            "night": self._sleep,
        }

    def _up(self) -> set[str]:
        return {model["name"] for model in self.ctl("list") if model["residency"] == "ready"}

    def _talk(self) -> None:
        for _ in range(5):
            self.expect(self.chat("chat", "aither-orchestrator", stream=True, tokens=16) == "", "chat")

    def _ingest(self) -> None:
        """A caption for each picture, and a vector for each caption."""
        pictures = iter(range(CAPTIONS))

        def work() -> None:
            while (number := next(pictures, None)) is not None:
                url = "data:image/png;base64," + base64.b64encode(png(56, (number * 4, 40, 40))).decode()
                content = [{"type": "text", "text": "Caption"}, {"type": "image_url", "image_url": {"url": url}}]
                caption = self.chat("caption", "qwen2.5-vl", content)
                self.expect(caption, f"picture {number} has no caption")
                self.ask("vector", "/v1/embeddings", {"model": "nomic-embed-text", "input": [caption]})

        self._at_once([work] * AT_ONCE)

    def _at_once(self, works: Sequence[Callable[[], None]]) -> None:
        threads = [threading.Thread(target=work) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _elsewhere(self) -> None:
        """Somebody asks an Ollama that is not aitherd's, which leaves its model on the card."""
        connection = http.client.HTTPConnection("127.0.0.1", self._ollama, timeout=PATIENCE_S)
        self.until("there is room for Ollama's model", lambda: self._gpu.card.free >= OLLAMA_BYTES)
        _, text = self.ask("Ollama", "/api/generate", {"model": "llama3.2:latest", "prompt": "hello"}, by=connection)
        connection.close()
        self.expect(json.loads(text).get("done_reason") == "stop", "Ollama did not answer")
        self.until("Ollama is seen", lambda: self._ledger()["foreign"] == OLLAMA_BYTES)

    def _render(self) -> None:
        for _ in range(2):
            self._finish(self._queue(3.0))

    def _queue(self, seconds: float) -> str:
        _, text = self.ask("render", "/upstream/imagine/prompt", {"prompt": {"seconds": seconds}})
        return str(json.loads(text).get("prompt_id", ""))

    def _finish(self, prompt: str, *, gives_way: bool = False) -> None:
        """Waits for a render. One that `gives_way` may be gone right after its end: it is not stopped before, as the
        checks of the whole day make sure."""
        outcomes: list[str] = []

        def ended() -> bool:
            path = f"/upstream/imagine/history/{prompt}"
            noted, text = self.ask("history", path, method="GET", also=503 if gives_way else 200)
            if noted["status"] == 503:
                outcomes.append("success")
            elif found := json.loads(text).get(prompt):
                outcomes.append(found["status"]["status_str"])
            return bool(outcomes)

        self.until(f"{prompt} is rendered", ended)
        self.expect(outcomes[-1:] == ["success"], f"{prompt} was not rendered to its end")

    def _think(self) -> None:
        """By its tier: the challenger itself can never come in, and nobody waits to find that out."""
        self.chat("problem", "reasoning", tokens=40, stream=True)
        answer = next(noted for noted in reversed(self.requests) if noted["who"] == "problem")
        self.expect(answer["upstream"] == "challenger-offload", f"the problem went to {answer['upstream']}")

    def _speak(self) -> None:
        """A voice turn that begins while the challenger still writes: it waits for it, and does not cut it short."""
        model = "gemma-4-26b-a4b-offload"
        writes = threading.Thread(target=lambda: self.chat("problem", model, tokens=60, stream=True))
        writes.start()
        self.until("the challenger writes", lambda: self._busy("challenger-offload"))
        boundary = "day"
        parts = f'--{boundary}\r\nContent-Disposition: form-data; name="model"\r\n\r\n{WHISPER}\r\n--{boundary}\r\n'
        parts += 'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
        form = parts.encode() + sound(0.5) + f"\r\n--{boundary}--\r\n".encode()
        _, heard = self.ask(
            "listen", "/v1/audio/transcriptions", form=(form, f"multipart/form-data; boundary={boundary}")
        )
        self.expect(json.loads(heard).get("text"), "nothing was heard")
        reply = self.chat("chat", "aither-orchestrator", heard.decode())
        words = {"text": reply or "hello", "speaker_wav": "female", "language": "en"}
        _, said = self.ask("speak", "/upstream/speak/tts_to_audio/", words)
        self.expect(said.startswith(b"RIFF"), "nothing was said")
        writes.join()

    def _busy(self, name: str) -> bool:
        return any(model["name"] == name and model["in_flight"] for model in self.ctl("list"))

    def _play(self) -> None:
        """A game that asks for its memory while a picture is being rendered, and a caption that is wanted meanwhile."""
        prompt = self._queue(3.0)
        program = ("with-vram", GAME, "--", "sleep", str(GAME_S))
        lease = ("lease", "--vram", GAME, "--purpose", "game", "--")
        game = subprocess.Popen([*self._ctl, *lease, *program], stdin=subprocess.DEVNULL)
        self._finish(prompt, gives_way=True)
        self.until("the game runs", lambda: game.poll() is not None or self._owned("leases") >= 10 << 30)
        self.chat("caption", "qwen2.5-vl")
        self.expect(game.wait() == 0, f"the game ended with {game.returncode}")

    def _owned(self, owner: str) -> float:
        return float(self.looks[-1]["owners"].get(owner, 0.0)) if self.looks else 0.0

    def _sleep(self) -> None:
        """Nobody asks for anything, and what came on demand goes."""
        self.until("only what is always up is up", lambda: self._up() == set(ESSENTIALS))
        self.until("the card holds nothing else", lambda: self._ledger()["sum"] == self._gpu.card.used)

    def _ledger(self) -> dict[str, Any]:
        (device,) = (one for one in self.ctl("devices") if one["id"] == "gpu0")
        foreign = sum(one["bytes"] for one in device["foreign"])
        return {"models": device["models"], "foreign": foreign, "sum": sum(device["models"].values()) + foreign}

    def report(self) -> dict[str, Any]:
        """All of it, with the daemon's own account."""
        return {
            "chapters": self.chapters,
            "requests": self.requests,
            "looks": self.looks,
            "failures": self.failures,
            "total": self._gpu.card.total,
            "nvml": {"used": self._gpu.card.used, "processes": sorted(self._gpu.card.processes.values())},
            "ledger": self._ledger(),
            "records": self.ctl("why", "--lines", "10000"),
            "models": {model["name"]: model for model in self.ctl("list")},
        }


def main() -> None:
    """Lives the day and writes the report."""
    path, report, ollama, dash, *ctl = sys.argv[1:]
    assert dash == "--"
    day = Day(path, int(ollama), ctl)
    day.live()
    Path(report).write_text(json.dumps(day.report()))


if __name__ == "__main__":
    main()
