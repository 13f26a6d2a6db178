"""curl and the official OpenAI client against every route of a real daemon, in front of real model servers.

llama-server chats, completes, embeds and ranks, whisper-server writes down and translates; only speech and images come
from a stand-in. What curl was told is written to `build/transcripts/routes.txt`.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2
import openai
import pytest

from aitherd.proxy.routes import FIXED, MODEL, SWAP, UNLOAD, UPSTREAM
from tests.testbed import llama, models, speech
from tests.testbed.rig import Rig

TRANSCRIPT = Path(__file__).parents[3] / "build" / "transcripts" / "routes.txt"
SHOWN = 160
"""Characters of an answer in the transcript."""
EVERY = {match.route.name for match in FIXED.values()} | {route.name for route in (MODEL, SWAP, UNLOAD, UPSTREAM)}
PAGE = sorted(route for route in EVERY if route == "/" or route.startswith(("/page/", "/api/h", "/api/page")))
"""The status page, and what it asks for."""
TALK = {"max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]}


@dataclass(frozen=True)
class Call:
    """One request of curl's."""

    route: str
    path: str
    body: object = None
    """Sent as JSON; None for a GET, an empty text for a POST without a body."""
    form: tuple[str, ...] = ()
    expect: str = ""
    """What the answer has in it."""
    status: int = 200
    more: tuple[str, ...] = ()


def calls(sound: Path) -> Iterator[Call]:
    """Every route, streamed where it can be; those that unload come last."""
    for stream, chat, text, said, message in (
        (False, '"content":', '"text":', '"output":', '"type":"message"'),
        (True, "data: [DONE]", "data: [DONE]", "event: response.completed", "event: message_stop"),
    ):
        yield Call("/v1/chat/completions", "/v1/chat/completions", {"model": "vision", "stream": stream, **TALK},
                   expect=chat)  # fmt: skip
        yield Call("/v1/completions", "/v1/completions",
                   {"model": "vision", "stream": stream, "prompt": "the", "max_tokens": 3}, expect=text)  # fmt: skip
        yield Call("/v1/responses", "/v1/responses",
                   {"model": "vision", "stream": stream, "input": "a", "max_output_tokens": 3},
                   expect=said)  # fmt: skip
        yield Call("/v1/messages", "/v1/messages", {"model": "vision", "stream": stream, **TALK}, expect=message)
        yield Call("/upstream/NAME", "/upstream/vision/v1/chat/completions", {"stream": stream, **TALK}, expect=chat)
    yield Call("/v1/messages/count_tokens", "/v1/messages/count_tokens", {"model": "vision", **TALK},
               expect="input_tokens")  # fmt: skip
    yield Call("/v1/embeddings", "/v1/embeddings", {"model": "embed", "input": "a cat"}, expect='"embedding":')
    yield Call("/v1/rerank", "/v1/rerank", {"model": "rank", "query": "cat", "documents": ["a cat", "a dog"]},
               expect="relevance_score")  # fmt: skip
    for what, model in (("transcriptions", "listen"), ("translations", "translate")):
        path = f"/v1/audio/{what}"
        yield Call(path, path, form=(f"model={model}", f"file=@{sound};type=audio/wav"), expect='"text":')
    yield Call("/v1/audio/speech", "/v1/audio/speech", {"model": "speak", "input": "hi", "voice": "a"}, expect="RIFF")
    yield Call("/v1/images/generations", "/v1/images/generations", {"model": "speak", "prompt": "a cat"},
               expect="b64_json")  # fmt: skip
    yield Call("/v1/models", "/v1/models", expect='"id":"vision"')
    yield Call("/v1/models/NAME", "/v1/models/qwen2.5-vl", expect='"model":"vision"')
    yield Call("/upstream/NAME", "/upstream/vision/props", expect="chat_template")
    yield Call("/upstream/NAME", "/upstream/vision/slots", expect="controls the engine", status=404)
    yield Call("/health", "/health", expect='"status":"ok"')
    yield Call("/running", "/running", expect='"state":"ready"')
    yield Call("/metrics", "/metrics", expect="aither_")
    yield Call("/events", "/events", expect="data:", more=("--max-time", "2"))
    for path in PAGE:
        yield Call(path, path)
    yield Call("/swap/request-NAME", "/swap/request-vision", "", expect='"state":"ready"')
    yield Call("/api/models/unload/NAME", "/api/models/unload/vision", "", expect='"unloaded":["vision"]')
    yield Call("/api/models/unload", "/api/models/unload", "", expect="unloaded")


def curl(socket: Path, call: Call) -> tuple[int, str]:
    """The status and the answer."""
    command = ["curl", "--silent", "--no-buffer", "--unix-socket", str(socket), "--write-out", "\n%{http_code}"]
    if call.form:
        command += [word for field in call.form for word in ("--form", field)]
    elif call.body is not None:
        data = json.dumps(call.body) if call.body else ""
        command += ["--header", "Content-Type: application/json", "--data", data]
    done = subprocess.run(
        [*command, *call.more, f"http://aither{call.path}"], capture_output=True, check=False, stdin=subprocess.DEVNULL
    )
    # 28: the time that was given for a stream without an end is over.
    assert done.returncode in ({0, 28} if call.more else {0}), done
    text, _, status = done.stdout.decode(errors="replace").rpartition("\n")
    return int(status), text


@pytest.fixture
def house(rig: Rig) -> Rig:
    """A daemon with a model of every kind."""
    if shutil.which("curl") is None:
        pytest.skip("curl is needed: apt-get install curl")
    try:
        server = str(llama.programs() / "llama-server")
        whisper = str(llama.programs("whisper-server") / "whisper-server")
    except llama.LlamaUnavailable as problem:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no llama-server or whisper-server: {problem}")
    hears = [whisper, "-m", str(speech.whisper_model()), "--threads", "1", "--inference-path"]

    def model(name: str, engine: str, command: Sequence[str], *serves: str) -> None:
        rig.model(name, f'engine = "{engine}"\nvram = "0 B"\nserves = {json.dumps(serves)}\n'
                        f"command = {json.dumps(command)}\n")  # fmt: skip

    model("vision", "llama-server", [server, *models.llama_flags(vision=True)], "qwen2.5-vl")
    model("embed", "llama-server", [server, *models.llama_flags(), "--embedding", "--pooling", "mean"])
    model("rank", "llama-server", [server, *models.llama_flags(), "--reranking"])
    model("listen", "whisper-server", [*hears, "/v1/audio/transcriptions"])
    model("translate", "whisper-server", [*hears, "/v1/audio/translations", "--translate"])
    model("speak", "exec", ["engine", "--socket", "{socket}"])
    rig.reload()
    return rig


def test_curl_reaches_every_route_over_the_socket(house: Rig, tmp_path: Path) -> None:
    sound = tmp_path / "sound.wav"
    sound.write_bytes(speech.sound())
    said = []
    for call in calls(sound):
        status, text = curl(house.socket, call)
        assert (status, call.expect in text) == (call.status, True), (call, status, text[-2000:])
        streamed = isinstance(call.body, dict) and call.body.get("stream") is True
        shown = " ".join(text.split())[:SHOWN].encode("ascii", "replace").decode()
        said.append(f"{status}  {call.path}{' (stream)' if streamed else ''}\n     {shown}\n")
    assert {call.route for call in calls(sound)} == EVERY
    TRANSCRIPT.parent.mkdir(parents=True, exist_ok=True)
    TRANSCRIPT.write_text("".join(said))


def test_the_official_client_speaks_to_every_route_that_it_knows(house: Rig) -> None:
    transport = httpx2.HTTPTransport(uds=str(house.socket))
    talk = TALK["messages"]
    with openai.OpenAI(
        api_key="none", base_url="http://aither/v1", http_client=httpx2.Client(transport=transport), max_retries=0
    ) as client:
        chat = client.chat.completions.create(model="qwen2.5-vl", max_tokens=3, messages=talk)  # type: ignore[call-overload]
        assert chat.usage.completion_tokens == 3
        stream = client.chat.completions.create(model="vision", max_tokens=3, messages=talk, stream=True)  # type: ignore[call-overload]
        assert any(piece.choices and piece.choices[0].delta.content for piece in stream)
        text = client.completions.create(model="vision", prompt="the cat", max_tokens=3)
        assert text.usage is not None and text.usage.completion_tokens == 3
        assert len(list(client.completions.create(model="vision", prompt="the", max_tokens=3, stream=True))) > 2
        response = client.responses.create(model="vision", input="hi", max_output_tokens=16)
        assert response.output_text
        events = [event.type for event in client.responses.create(
            model="vision", input="hi", max_output_tokens=16, stream=True)]  # fmt: skip
        assert events[0] == "response.created" and events[-1] == "response.completed"
        assert len(client.embeddings.create(model="embed", input="a cat").data[0].embedding) == models.EMBEDDING
        sound: Callable[[], io.BytesIO] = lambda: io.BytesIO(speech.sound())  # noqa: E731
        assert client.audio.transcriptions.create(model="listen", file=("a.wav", sound())).text is not None
        # The route is OpenAI's still; its client advises against it.
        with pytest.deprecated_call():
            translated = client.audio.translations.create(model="translate", file=("a.wav", sound()))
        assert translated.text is not None
        assert client.audio.speech.create(model="speak", input="hi", voice="alloy").content.startswith(b"RIFF")
        images = client.images.generate(model="speak", prompt="a cat").data
        assert images is not None and images[0].b64_json
        assert {"vision", "qwen2.5-vl", "embed", "listen"} <= {one.id for one in client.models.list()}
        assert client.models.retrieve("vision").id == "vision"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nobody")
