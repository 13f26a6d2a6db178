"""`run`: one question to a model from a terminal, through the proxy like any other client's.

A model that draws gets the prompt as a picture's; every other one is chatted with, and the answer is written as it
comes.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import mimetypes
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aitherd.core.words import format_seconds
from aitherd.ctl.client import Client, Values
from aitherd.ctl.control import Progress
from aitherd.ctl.failure import Exit, Failure
from aitherd.ctl.terminal import print_json, printable, style
from aitherd.errors import UnknownModel

if TYPE_CHECKING:
    import httpx

SYSTEM_SOCKET = Path("/run/aither/aither.sock")
CHAT, DRAW = "/v1/chat/completions", "/v1/images/generations"
LARGEST_PICTURE = 32 * 2**20
"""Bytes; what is larger is hardly meant."""


def ask(arguments: argparse.Namespace) -> int:
    """Asks, and writes the answer to standard output."""
    return asyncio.run(_ask(arguments))


async def _ask(arguments: argparse.Namespace) -> int:
    prompt = " ".join(arguments.prompt) or _standard_input(arguments.name)
    model = await _known(arguments)
    draws = arguments.output is not None or (
        model is not None and "images" in model["can"] and "chat" not in model["can"]
    )
    if draws:
        if model is not None and model["can"] and "images" not in model["can"]:
            what = ", ".join(model["can"])
            raise Failure(f"{model['name']} does not draw: it can {what}", "leave --output out", status=Exit.USAGE)
        if arguments.output is None and sys.stdout.isatty():
            raise Failure("a picture is nothing for a terminal", "-o FILE writes it to a file", status=Exit.USAGE)
        body: dict[str, Any] = {"model": arguments.name, "prompt": prompt, "response_format": "b64_json"}
    else:
        body = {"model": arguments.name, "messages": [{"role": "user", "content": _content(prompt, arguments.image)}]}
        if arguments.max_tokens:
            body["max_tokens"] = arguments.max_tokens
        if not arguments.json:
            body["stream"] = True
    async with _waiting(arguments, model) as progress, _answer(arguments, DRAW if draws else CHAT, body) as answer:
        await _succeeded(answer)
        if body.get("stream"):
            await _write_stream(answer, progress)
        elif draws:
            progress.end()
            _write_picture(await _whole(answer), arguments)
        else:
            progress.end()
            print_json(await _whole(answer))
        _who(answer)
    return Exit.OK


async def _known(arguments: argparse.Namespace) -> Values | None:
    """The model of that name, or None for a tier or an upstream's, which only the proxy knows. Starts the daemon."""
    try:
        return await Client(user=arguments.user).model(arguments.name)
    except Failure as failure:
        if failure.status != Exit.UNKNOWN:
            raise
        return None


def _standard_input(name: str) -> str:
    example = f'aitherctl run {name} "why is the sky blue?"'
    if sys.stdin.isatty():
        raise Failure("there is no prompt", example, status=Exit.USAGE)
    text = sys.stdin.read().strip()
    if not text:
        raise Failure("the prompt is empty", example, status=Exit.USAGE)
    return text


def _content(prompt: str, pictures: list[Path]) -> str | list[Mapping[str, Any]]:
    """The user's message, with pictures as data URLs: OpenAI, "Images and vision"."""
    if not pictures:
        return prompt
    parts: list[Mapping[str, Any]] = [{"type": "text", "text": prompt}]
    for path in pictures:
        kind, _ = mimetypes.guess_type(path.name)
        if kind is None or not kind.startswith("image/"):
            raise Failure(f"{path} is not named like a picture", "name it .png or .jpg", status=Exit.USAGE)
        try:
            if path.stat().st_size > LARGEST_PICTURE:
                raise Failure(f"{path} is larger than 32 MiB", "make it smaller", status=Exit.USAGE)
            data = base64.b64encode(path.read_bytes()).decode("ascii")
        except OSError as error:
            raise Failure(f"cannot read {path}: {(error.strerror or '').lower()}", status=Exit.USAGE) from error
        parts.append({"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}})
    return parts


class _Line:
    """The line that shows what is waited for; ended before the first word of the answer."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress

    def end(self) -> None:
        if self._progress is not None:
            self._progress.close()
            self._progress = None


@asynccontextmanager
async def _waiting(arguments: argparse.Namespace, model: Values | None) -> AsyncIterator[_Line]:
    """Shows on a terminal what happens to the model while it is brought in."""
    if model is None or not sys.stderr.isatty():
        yield _Line(None)
        return
    client = Client(user=arguments.user)
    with Progress(model) as progress:
        slot = await client.watch(model["name"], progress.changed)
        try:
            yield _Line(progress)
        finally:
            slot.close()


@asynccontextmanager
async def _answer(arguments: argparse.Namespace, path: str, body: Mapping[str, Any]) -> AsyncIterator[httpx.Response]:
    """The proxy's answer to one request; its body is not read yet. Raises Failure when there is none."""
    import httpx

    socket = _socket(user=arguments.user)
    transport = httpx.AsyncHTTPTransport(uds=str(socket))
    try:
        async with (
            # The proxy bounds the waiting and says so; a person interrupts.
            httpx.AsyncClient(transport=transport, base_url="http://aither", timeout=None, trust_env=False) as client,
            client.stream("POST", path, json=body) as answer,
        ):
            yield answer
    except httpx.ConnectError as error:
        user = "--user " if arguments.user else ""
        raise Failure(
            f"cannot connect to {socket}",
            f"are you in the group aither, and does aitherd.socket run? systemctl {user}status aitherd.socket",
        ) from error
    except httpx.TransportError as error:
        raise Failure("the answer was cut off", f"aitherctl why {arguments.name}") from error


def _socket(*, user: bool) -> Path:
    """Where the proxy listens: units/aitherd.socket."""
    if not user:
        return SYSTEM_SOCKET
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}") / "aither" / "aither.sock"


async def _succeeded(answer: httpx.Response) -> None:
    """Raises Failure with what an error says."""
    if answer.is_success:
        return
    await answer.aread()
    said, code = _error(answer.text)
    upstream = answer.headers.get("x-aither-upstream")
    if upstream:
        # Its own words may be no more than two, and none of ours.
        said = f"{upstream} answers with {answer.status_code}: {said}" if said else ""
    status = Exit.UNKNOWN if code == UnknownModel.code and not upstream else Exit.FAILED
    raise Failure(said or f"the answer is an error, {answer.status_code}", status=status)


def _error(text: str) -> tuple[str, str]:
    """Message and code of an error in the shape of OpenAI's; empty when it is none."""
    try:
        error = json.loads(text)["error"]
        return (str(error["message"]), str(error.get("code"))) if isinstance(error, dict) else (str(error), "")
    except (ValueError, KeyError, TypeError):
        return "", ""


async def _whole(answer: httpx.Response) -> Any:
    try:
        return json.loads(await answer.aread())
    except ValueError as error:
        raise Failure("the answer is not JSON", "aitherctl logs shows what the engine says") from error


async def _write_stream(answer: httpx.Response, progress: _Line) -> None:
    """The text of server-sent events as it comes. OpenAI, "Streaming"; WHATWG HTML, 9.2."""
    ended = False
    async for line in answer.aiter_lines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            ended = True
            break
        if problem := _error(data)[0]:
            raise Failure(problem)
        text = _delta(data)
        if text:
            progress.end()
            sys.stdout.write(_shown(text))
            sys.stdout.flush()
    progress.end()
    print()
    if not ended:
        raise Failure("the answer was cut off", "what is above is not all of it")


def _delta(data: str) -> str:
    """The text that one event adds."""
    try:
        choices = json.loads(data)["choices"]
        delta = choices[0]["delta"] if choices else {}
        return str(delta.get("content") or delta.get("reasoning_content") or "")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return ""


def _shown(text: str) -> str:
    """A model's words; on a terminal without what would change it."""
    if not sys.stdout.isatty():
        return text
    return "".join(c if c in "\n\t" else printable(c) for c in text)


def _write_picture(body: Any, arguments: argparse.Namespace) -> None:
    try:
        picture = base64.b64decode(body["data"][0]["b64_json"], validate=True)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise Failure("there is no picture in the answer", f"aitherctl logs {arguments.name}") from error
    if arguments.output is not None:
        try:
            arguments.output.write_bytes(picture)
        except OSError as error:
            raise Failure(f"cannot write {arguments.output}: {(error.strerror or '').lower()}") from error
        print(arguments.output)
    else:
        sys.stdout.buffer.write(picture)


def _who(answer: httpx.Response) -> None:
    """On a terminal, who answered and how it came to that."""
    if not sys.stderr.isatty():
        return
    upstream, reason = (answer.headers.get(f"x-aither-{name}", "") for name in ("upstream", "reason"))
    waited = answer.headers.get("x-aither-waited-ms", "0")
    text = f"{upstream}: {reason}" if upstream else reason
    if waited.isdigit() and int(waited) >= 100:
        text += f", waited {format_seconds(int(waited) / 1000)}"
    print(style(printable(text), "dim"), file=sys.stderr)
