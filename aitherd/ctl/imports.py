"""Drafts of model files from what other tools are configured with: llama-swap, Docker Compose, Ollama.

Their files are read as they document them. What has no counterpart here becomes a note in the draft, never a silence.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aitherd.ctl.drafts import Draft, draft, file_name, split
from aitherd.ctl.failure import Exit, Failure

IMAGES: Mapping[str, tuple[str, ...]] = {
    "llama.cpp": ("llama-server",),
    "vllm-openai": ("vllm", "serve"),
    "vllm": ("vllm", "serve"),
    "speaches": ("uvicorn", "--factory", "speaches.main:create_app"),
    "ollama": ("ollama", "serve"),
}
"""What a well-known image runs before the arguments of a container, by the last part of the image's name."""
OLLAMA_STORES = ("/usr/share/ollama/.ollama/models", "~/.ollama/models")
"""Where Ollama's service, and a person's own, keep models. Ollama FAQ, "Where are models stored?\""""
WEIGHTS, PROJECTOR = "application/vnd.ollama.image.model", "application/vnd.ollama.image.projector"
"""Kinds of layer in Ollama's manifests."""


def imported(source: str) -> list[Draft]:
    """The drafts of what `source` configures: the path of a YAML file, or `ollama`. Raises Failure."""
    drafts = list(_ollama() if source == "ollama" else _configured(source))
    taken: set[str] = set()
    for made in drafts:
        # Two of their names may become the same of ours.
        base, number = made.name, 1
        while made.name in taken:
            number += 1
            made.name = f"{base[:60]}-{number}"
        taken.add(made.name)
    return drafts


def _configured(source: str) -> Iterator[Draft]:
    document = _document(Path(source))
    if isinstance(document.get("models"), dict):
        return _llama_swap(document)
    if isinstance(document.get("services"), dict):
        return _compose(document["services"])
    raise Failure(
        f"{source} has neither models, as llama-swap's configuration, nor services, as Docker Compose's",
        "see aitherctl new --help",
    )


def _document(path: Path) -> dict[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Failure(f"cannot read {path}: {(error.strerror or '').lower()}", status=Exit.USAGE) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        text = " ".join(str(error).split())
        raise Failure(f"{path} is not YAML that can be read: {text}", "correct it") from error
    if not isinstance(document, dict):
        raise Failure(f"{path} holds nothing that is known here", "see aitherctl new --help")
    return document


# --- llama-swap -----------------------------------------------------------------------------------------------------


def _llama_swap(document: Mapping[str, Any]) -> Iterator[Draft]:
    """llama-swap, "config.yaml": models with cmd, env, ttl, aliases, checkEndpoint; groups; macros."""
    shared = _texts(document.get("macros"))
    slots, kept = _groups(document)
    preload = _words(_table(_table(document.get("hooks")).get("on_startup")).get("preload"))
    for name, entry in document["models"].items():
        model = _table(entry)
        macros = {**shared, **_texts(model.get("macros")), "MODEL_ID": str(name), "PORT": "{port}"}
        words = split(_filled(str(model.get("cmd", "")).replace("\\\n", " "), macros), str(name))
        made = draft(file_name(str(name)), words)
        aliases = [str(name), *_words(model.get("aliases")), *made.serves]
        made.serves = tuple(dict.fromkeys(one for one in aliases if one != made.name and " " not in one))
        made.environment = {**dict(_assignments(model.get("env"))), **made.environment}
        ttl = model.get("ttl", document.get("globalTTL", 0))
        made.idle = f"{ttl}s" if isinstance(ttl, int) and ttl > 0 else "infinity"
        if made.kind == "exec" and model.get("checkEndpoint") not in (None, "none"):
            made.health = str(model["checkEndpoint"])
        made.swap_slot = slots.get(str(name), "")
        notes = [f"Taken over from llama-swap, where it is called {name}."]
        if str(name) in kept:
            made.residency_class = "resident"
        if str(name) in preload:
            notes.append(f"llama-swap loads it at start: aitherctl hold {made.name}, or systemctl enable its unit.")
        for key in ("cmdStop", "filters", "useModelName", "concurrencyLimit", "proxy"):
            if model.get(key):
                notes.append(f"Not taken over: {key}.")
        made.notes = tuple(notes)
        yield made


def _groups(document: Mapping[str, Any]) -> tuple[dict[str, str], set[str]]:
    """The slot of each model whose group has one awake at a time, and those that nobody evicts."""
    slots: dict[str, str] = {}
    kept: set[str] = set()
    for name, entry in _table(document.get("groups")).items():
        group = _table(entry)
        members = _words(group.get("members"))
        if group.get("persistent") is True:
            kept.update(members)
        if group.get("swap", True) is True and len(members) > 1:
            slots.update(dict.fromkeys(members, file_name(str(name))))
    return slots, kept


def _filled(text: str, macros: Mapping[str, str]) -> str:
    """With macros put in, also within each other, and variables of the environment."""
    for _ in range(len(macros) + 1):
        before = text
        for name, value in macros.items():
            text = text.replace(f"${{{name}}}", value)
        if text == before:
            break
    return re.sub(r"\$\{env\.([A-Za-z0-9_]+)\}", lambda found: os.environ.get(found[1], ""), text)


# --- Docker Compose -------------------------------------------------------------------------------------------------


def _compose(services: Mapping[str, Any]) -> Iterator[Draft]:
    """The Compose Specification, "Services top-level elements": those that are model servers by their image."""
    for name, entry in services.items():
        service = _table(entry)
        image = str(service.get("image", ""))
        program = IMAGES.get(image.split("@")[0].split(":")[0].rsplit("/", 1)[-1])
        own = _command(service.get("entrypoint"), name)
        arguments = _command(service.get("command"), name)
        if program is None and not own:
            continue
        words = [*(own or program or ()), *arguments]
        mounts = dict(_mounts(service.get("volumes")))
        made = draft(file_name(str(name)), [_outside(word, mounts) for word in words])
        made.environment = {key: value for key, value in _assignments(service.get("environment")) if value}
        limits = _table(_table(_table(service.get("deploy")).get("resources")).get("limits"))
        limit = str(service.get("mem_limit") or limits.get("memory") or "")
        made.memory_max = limit.upper().removesuffix("B") if re.fullmatch(r"[0-9]+[kmgKMG][bB]?", limit) else ""
        notes = [f"Taken over from the Compose service {name} ({image or 'built there'}), which ran in a container:"]
        notes.append("its program has to be installed on this machine, and paths inside of the container corrected.")
        for key in ("healthcheck", "depends_on", "secrets", "env_file"):
            if service.get(key):
                notes.append(f"Not taken over: {key}.")
        made.notes = tuple(notes)
        yield made


def _command(value: object, name: object) -> tuple[str, ...]:
    if isinstance(value, list):
        return tuple(str(word) for word in value)
    return split(str(value), str(name)) if value else ()


def _mounts(value: object) -> Iterator[tuple[str, str]]:
    """Path in the container -> path on this machine."""
    for entry in value if isinstance(value, list) else ():
        if isinstance(entry, dict) and entry.get("type") == "bind":
            yield str(entry.get("target", "")), str(entry.get("source", ""))
        elif isinstance(entry, str) and entry.count(":") >= 1:
            source, target = entry.split(":")[:2]
            if source.startswith(("/", "~", ".")):
                yield target.rstrip("/"), str(Path(source).expanduser())


def _outside(word: str, mounts: Mapping[str, str]) -> str:
    for target, source in mounts.items():
        if word == target or word.startswith(f"{target}/"):
            return source + word.removeprefix(target)
    return word


# --- Ollama ---------------------------------------------------------------------------------------------------------


def _ollama() -> Iterator[Draft]:
    """Ollama's own store: manifests name the GGUF files, which llama-server reads as they are."""
    places = [Path(os.environ["OLLAMA_MODELS"])] if os.environ.get("OLLAMA_MODELS") else []
    places += [Path(place).expanduser() for place in OLLAMA_STORES]
    store = next((place for place in places if (place / "manifests").is_dir()), None)
    if store is None:
        raise Failure("Ollama keeps no models here", "set OLLAMA_MODELS to where it does")
    for manifest in sorted((store / "manifests").glob("*/*/*/*")):
        model, tag = manifest.parts[-2:]
        layers = _layers(manifest)
        if WEIGHTS not in layers:
            continue
        words = ["llama-server", "-m", str(store / "blobs" / layers[WEIGHTS]), "-ngl", "99", "--jinja"]
        if PROJECTOR in layers:
            words += ["--mmproj", str(store / "blobs" / layers[PROJECTOR])]
        known = model if tag == "latest" else f"{model}:{tag}"
        made = draft(file_name(known), words)
        made.serves = tuple(one for one in dict.fromkeys([known, f"{model}:{tag}"]) if one != made.name)
        made.notes = (
            f"Taken over from Ollama's {model}:{tag}, whose files are read where they are: ollama rm would take them.",
            "The engine's user must be able to read them.",
        )
        yield made


def _layers(manifest: Path) -> dict[str, str]:
    """Kind of layer -> name of its file."""
    try:
        document = json.loads(manifest.read_text(encoding="utf-8"))
        layers = document["layers"]
        return {str(one["mediaType"]): str(one["digest"]).replace(":", "-") for one in layers}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure(
            f"{manifest} cannot be read as Ollama writes it: {error}", "is it this user's to read?"
        ) from error


# --- values as YAML has them ----------------------------------------------------------------------------------------


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _words(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []


def _texts(value: object) -> dict[str, str]:
    return {str(key): str(text) for key, text in _table(value).items()}


def _assignments(value: object) -> Iterator[tuple[str, str]]:
    """Variables, written as a table or as a list of KEY=VALUE."""
    if isinstance(value, dict):
        yield from ((str(key), "" if text is None else str(text)) for key, text in value.items())
    entries: Sequence[object] = value if isinstance(value, list) else ()
    for entry in entries:
        key, _, text = str(entry).partition("=")
        yield key, text
