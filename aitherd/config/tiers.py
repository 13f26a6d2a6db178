"""What the tiers and upstreams of `aitherd.toml` mean together with the models: checked, and made into values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from aitherd.config.problem import Problem, shown, suggestion
from aitherd.config.written import SettingsFile, TierSection, UpstreamSection
from aitherd.core.upstreams import PLAIN, Reach, RemoteModel, Route, Tier, Upstream

LEAVE: Mapping[str, Reach] = {"no": Reach.LOCAL, "lan": Reach.LAN, "cloud": Reach.CLOUD}


def upstreams(path: Path, written: SettingsFile, problems: list[Problem]) -> Mapping[str, Upstream]:
    """The upstreams of the file; what is wrong with them is added to `problems`."""
    found = {}
    for name, section in written.upstreams.items():
        problems.extend(_upstream_problems(path, f"upstreams.{name}", section))
        found[name] = _upstream(name, section)
    return MappingProxyType(found)


def tiers(
    path: Path,
    written: SettingsFile,
    upstreams: Mapping[str, Upstream],
    models: Collection[str],
    names: Mapping[str, str],
    problems: list[Problem],
) -> Mapping[str, Tier]:
    """The tiers of the file.

    `models` are the names of all model files, broken ones too; `names` is what clients may ask for, and the model.
    """
    found = {
        name: Tier(
            name,
            tuple(section.routes),
            section.patience,
            LEAVE[section.leave],
            tuple(section.serves),
            tuple(section.effort),
        )
        for name, section in written.tiers.items()
    }
    for name, section in written.tiers.items():
        problems.extend(_tier_problems(path, f"tiers.{name}", section, upstreams, models))
    problems.extend(_names_twice(path, found, names))
    problems.extend(_efforts_twice(path, found))
    return MappingProxyType(found)


def _upstream(name: str, section: UpstreamSection) -> Upstream:
    can = frozenset(section.can) or PLAIN
    weights = section.weights if len(section.weights) == 1 + len(section.nodes) else [1] * (1 + len(section.nodes))
    return Upstream(
        name=name,
        reach=LEAVE[section.kind],
        nodes=tuple(
            replace(node, weight=weight) for node, weight in zip((section.url, *section.nodes), weights, strict=True)
        ),
        can=can,
        models=MappingProxyType(
            {
                key: RemoteModel(one.name or key, frozenset(one.can) or can, one.prompt_price, one.answer_price)
                for key, one in section.models.items()
            }
        ),
        key=section.key or "",
        key_header=section.key_header
        or ("x-api-key" if "messages" in can - {"chat"} and "chat" not in can else "authorization"),
        authority=section.authority or "",
        concurrency=section.concurrency,
        daily_cap=section.daily_cap,
        probe_interval=section.probe_interval,
        connect_timeout=section.connect_timeout,
        first_byte_timeout=section.first_byte_timeout,
    )


def _upstream_problems(path: Path, key: str, section: UpstreamSection) -> Iterator[Problem]:
    for node in (section.url, *section.nodes):
        if not node.tls and section.kind == "cloud":
            yield Problem(
                path, f"{key}.url", str(node), "what goes to the cloud would be readable on the way", "use https"
            )
    if section.weights and len(section.weights) != 1 + len(section.nodes):
        yield Problem(
            path,
            f"{key}.weights",
            shown(section.weights),
            f"{len(section.weights)} weights for {1 + len(section.nodes)} addresses",
            "give one for url and one for each of nodes",
        )
    if section.daily_cap is not None and not any(
        one.prompt_price or one.answer_price for one in section.models.values()
    ):
        yield Problem(
            path,
            f"{key}.daily-cap",
            str(section.daily_cap),
            "nothing counts against it",
            f"give prices in [{key}.models.NAME]",
            error=False,
        )


def _tier_problems(
    path: Path, key: str, section: TierSection, upstreams: Mapping[str, Upstream], models: Collection[str]
) -> Iterator[Problem]:
    if not section.routes:
        yield Problem(path, f"{key}.routes", "[]", "nobody could answer", 'name a model, as in ["vision"]')
    for entry in section.routes:
        if section.routes.count(entry) > 1:
            yield Problem(path, f"{key}.routes", shown(str(entry)), "it is there more than once", "remove one")
            return
        yield from _route_problems(path, key, section, entry, upstreams, models)


def _route_problems(
    path: Path, key: str, section: TierSection, entry: Route, upstreams: Mapping[str, Upstream], models: Collection[str]
) -> Iterator[Problem]:
    said = shown(str(entry))
    if not entry.upstream:
        if entry.model not in models:
            remedy = suggestion(entry.model, sorted(models), "name one of models.d, or UPSTREAM/MODEL")
            yield Problem(path, f"{key}.routes", said, "there is no model of that name", remedy)
        return
    upstream = upstreams.get(entry.upstream)
    if upstream is None:
        remedy = suggestion(entry.upstream, sorted(upstreams), f"describe it in [upstreams.{entry.upstream}]")
        yield Problem(path, f"{key}.routes", said, f"there is no upstream {entry.upstream}", remedy)
    elif upstream.reach > LEAVE[section.leave]:
        yield Problem(
            path,
            f"{key}.routes",
            said,
            f'it is never taken: leave = "{section.leave}" keeps requests out of the {upstream.reach}',
            f'remove it, or set leave = "{upstream.reach}"',
            error=False,
        )


def _names_twice(path: Path, tiers: Mapping[str, Tier], names: Mapping[str, str]) -> Iterator[Problem]:
    owners: dict[str, str] = {name: f"the model {model}" for name, model in names.items()}
    for tier in tiers.values():
        for name in dict.fromkeys((tier.name, *tier.serves)):
            owner = owners.setdefault(name, f"the tier {tier.name}")
            if owner != f"the tier {tier.name}":
                key = f"tiers.{tier.name}" + ("" if name == tier.name else ".serves")
                yield Problem(path, key, shown(name), f"{owner} goes by that name", "let one go by another name")


def _efforts_twice(path: Path, tiers: Mapping[str, Tier]) -> Iterator[Problem]:
    owners: dict[str, str] = {}
    for tier in tiers.values():
        for effort in tier.efforts:
            owner = owners.setdefault(effort, tier.name)
            if owner != tier.name:
                yield Problem(
                    path,
                    f"tiers.{tier.name}.effort",
                    shown(effort),
                    f"it chooses the tier {owner} already",
                    "let one effort choose one tier",
                )
