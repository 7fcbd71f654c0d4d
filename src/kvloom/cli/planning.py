"""``kvloom plan trace``: a progress bar on standard error; the table, or one JSON object, on standard output."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from kvloom.cli import backend
from kvloom.cli.benching import progress
from kvloom.cli.say import bytes_text
from kvloom.cli.settings import Settings
from kvloom.config import CacheConfig, EngineConfig, KvDtype, RetentionName, parse_bytes
from kvloom.engine.cost_profile import CostProfile, MeasuredOn, any_profile, stored_profile
from kvloom.errors import ConfigError, DataFileError
from kvloom.memory.arena import MOST_BYTES
from kvloom.memory.format import PAGE_TOKENS
from kvloom.model.files.loading import weights_id_of
from kvloom.model.files.manifest import Manifest
from kvloom.policy.retention import POLICIES
from kvloom.simulate.machines import MACHINES, Machine, measured
from kvloom.simulate.plan import SHARES, Tried, overloaded, recommended, tried
from kvloom.simulate.plan_tiers import TierPlan, TierSizes, planned_tiers, sizes_for
from kvloom.simulate.simulation import Setting
from kvloom.simulate.traces.mooncake import mooncake
from kvloom.simulate.traces.recorded_agents import RecordedAgents
from kvloom.simulate.traces.trace import Trace

_PAGES = 100_000
"""A grain is chosen so that a trace has no more: a setting is then simulated in half a minute or less."""

_DEFAULT_MACHINE = "llama-8b-h100"
_WIDTH = 120
"""Of a table that is not for a terminal."""


@dataclass(frozen=True, slots=True)
class Source:
    """Which requests: see the flags of ``kvloom plan trace``."""

    file: Path
    format: str
    users: int
    scale: float
    limit: int | None
    speed: float
    grain: int | None

    def trace(self) -> Trace:
        """Raises TraceError with the line, ConfigError, or OSError."""
        if self.format not in _FORMATS:
            raise ConfigError(f"no trace format `{self.format}`", hint=f"one of {', '.join(_FORMATS)}")
        return self._at(self.grain) if self.grain else self._fast_enough()

    def _fast_enough(self) -> Trace:
        coarse = self._at(_COARSEST)
        tokens = sum(request.tokens for request in coarse.requests)
        fits = (2**n for n in range(_COARSEST.bit_length() - 1) if tokens <= 2**n * PAGE_TOKENS * _PAGES)
        grain = next(fits, _COARSEST)
        return coarse if grain == _COARSEST else self._at(grain)

    def _at(self, grain: int) -> Trace:
        whole = _FORMATS[self.format](self, grain * PAGE_TOKENS)
        return whole if self.limit is None else whole.head(self.limit)


@dataclass(frozen=True, slots=True)
class AskedTiers:
    """Sizes of tiers to try, comma-separated; ``none``: none are; None: parts of what the trace stores."""

    warm: str | None
    disk: str | None

    def sizes(self, trace: Trace, machine: Machine) -> TierSizes:
        """Raises ConfigError."""
        return TierSizes(_tier_sizes(self.warm, trace, machine, MOST_BYTES), _tier_sizes(self.disk, trace, machine))


def _tier_sizes(asked: str | None, trace: Trace, machine: Machine, most: int = sys.maxsize) -> list[int]:
    if asked is None:
        return sizes_for(trace, machine, most)
    return [] if asked == "none" else sorted({parse_bytes(size) for size in asked.split(",")})


_COARSEST = 32

_FORMATS: Mapping[str, Callable[[Source, int], Trace]] = {
    "mooncake": lambda source, block_tokens: mooncake(source.file, block_tokens, source.limit),
    "agent": lambda source, block_tokens: RecordedAgents(source.file, source.users, source.scale).trace(block_tokens),
}


def plan_trace(
    source: Source,
    profile: str | None,
    model: str | None,
    kv_bytes: str | None,
    policies: str | None,
    asked: AskedTiers,
    settings: Settings,
    as_json: bool,
) -> None:
    """Simulate every policy with every size, and say which serves best; then the best with tiers of every size."""
    names = _policies(policies)
    machine = _machine(profile, model, settings)
    sizes = _sizes(kv_bytes, machine)
    trace = source.trace()
    choices = [Setting(name, size) for size in sizes for name in names]
    tier_sizes = asked.sizes(trace, machine)
    with progress("requests", (len(choices) + len(tier_sizes)) * len(trace.requests)) as advance:
        results = list(tried(trace, machine, choices, source.speed, lambda: advance(1)))
        tiers = planned_tiers(trace, machine, recommended(results), tier_sizes, source.speed, lambda: advance(1))
    facts = _facts(source, trace, machine, tiers.best)
    if as_json:
        curves = {"warm": tiers.warm, "disk": tiers.disk}
        plain = {name: [_plain(each) for each in curve] for name, curve in curves.items()}
        print(json.dumps(facts | {"results": [_plain(each) for each in results], "tiers": plain}, indent=2))
    else:
        _print(facts, results, tiers)


def _policies(asked: str | None) -> list[RetentionName]:
    names = list(POLICIES) if asked is None else list(dict.fromkeys(asked.split(",")))
    known: dict[str, RetentionName] = {name: name for name in get_args(RetentionName)}
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"no retention policy `{unknown[0]}`", hint=f"there are {', '.join(known)}")
    return [known[name] for name in names]


def _sizes(asked: str | None, machine: Machine) -> list[int]:
    if asked is None:
        return [int(share * machine.kv_bytes) for share in SHARES]
    return sorted({parse_bytes(size) for size in asked.split(",")})


def _machine(profile: str | None, model: str | None, settings: Settings) -> Machine:
    if model is not None:
        machine = _here(backend.resolve(model), profile, settings)
    elif (profile or _DEFAULT_MACHINE) in MACHINES:
        machine = MACHINES[profile or _DEFAULT_MACHINE]()
    else:
        hint = f"one of {', '.join(MACHINES)}; a file needs --model"
        raise ConfigError(f"no profile `{profile}`", hint=hint)
    return dataclasses.replace(machine, scheduler=settings.scheduler(machine.scheduler))


def _here(manifest: Manifest, profile: str | None, settings: Settings) -> Machine:
    """A model that is here, by the profile in a file, or the one that is stored."""
    config = settings.engine(manifest.name)
    if profile is not None:
        found = any_profile(Path(profile))
        _check_weights(found, manifest, Path(profile))
        config = dataclasses.replace(config, cache=CacheConfig(kv_dtype=_dtype(found)))
    else:
        found = _stored(manifest, config)
    return measured(manifest.name, manifest.spec, found, config.cache, config.scheduler)


def _stored(manifest: Manifest, config: EngineConfig) -> CostProfile:
    found = stored_profile(MeasuredOn.here(weights_id_of(manifest, config.activations), config))
    if found is None:
        raise ConfigError(
            f"nothing is known of what `{manifest.name}` costs here", hint=f"kvloom profile cost {manifest.name}"
        )
    return found


def _check_weights(profile: CostProfile, manifest: Manifest, path: Path) -> None:
    on = profile.measured_on
    ids = {weights_id_of(manifest, "float32"), weights_id_of(manifest, "int8")}
    if on.weights not in ids:
        raise DataFileError(
            f"was measured on another model than `{manifest.name}`", path=path, hint="the model that it is of"
        )


def _dtype(profile: CostProfile) -> KvDtype:
    known: dict[str, KvDtype] = {name: name for name in get_args(KvDtype)}
    return known[profile.measured_on.kv_dtype]


def _facts(source: Source, trace: Trace, machine: Machine, best: Tried) -> dict[str, Any]:
    some = best.summary
    return {
        "trace": trace.name,
        "requests": some.requests,
        "machine": machine.name,
        "speed": source.speed,
        "grain": trace.block_tokens // PAGE_TOKENS,
        "endless_block_hits": some.endless_block_hits,
        "endless_saved": some.endless_saved,
        "recommended": dataclasses.asdict(best.setting),
        "overloaded": overloaded(best, trace, machine),
    }


def _plain(result: Tried) -> dict[str, Any]:
    return dataclasses.asdict(result.setting) | dataclasses.asdict(result.summary)


def _print(facts: Mapping[str, Any], results: Sequence[Tried], tiers: TierPlan) -> None:
    console = Console()
    console = console if console.is_terminal else Console(width=_WIDTH)
    console.print(results_table(facts, results))
    if len(tiers.warm) + len(tiers.disk) > 2:
        console.print(tiers_table(tiers))
    lines = [
        f"A cache without limits would find {facts['endless_block_hits']:.1%} of the blocks, and save "
        f"{facts['endless_saved']:.1%} of the seconds of computing prompts.",
        sentence(tiers.best),
    ]
    if facts["grain"] > 1:
        lines.append(f"{facts['grain']} tokens were simulated as one: --grain 1 is exact, and slower.")
    if facts["overloaded"]:
        lines.append("Requests arrive faster than they are answered: try a lower --speed, as on more machines.")
    for line in lines:
        console.print(line, soft_wrap=True)


def sentence(best: Tried) -> str:
    """The recommendation."""
    setting, summary = best.setting, best.summary
    warm = f" --warm-bytes {setting.warm_bytes} ({bytes_text(setting.warm_bytes)})" if setting.warm_bytes else ""
    disk = f" --cache-dir DIR --disk-bytes {setting.disk_bytes} ({bytes_text(setting.disk_bytes)})"
    return (
        f"Recommended: --retention {setting.retention} --kv-bytes {setting.kv_bytes} ({bytes_text(setting.kv_bytes)})"
        f"{warm}{disk if setting.disk_bytes else ''}: first tokens after {_digits(summary.ttft.mean)} s on average, "
        f"{summary.block_hits:.1%} of the blocks found."
    )


def results_table(facts: Mapping[str, Any], results: Sequence[Tried]) -> Table:
    title = f"{facts['trace']}: {facts['requests']:,} requests on {facts['machine']}; times in seconds"
    columns = ("KV", "policy", "TTFT", "median", "p95", "p99", "TPOT")
    table = Table(
        *columns, "found", "saved", "again", "holes", "evicted", "refused", title=title, box=SIMPLE, pad_edge=False
    )
    for each in results:
        found, ttft = each.summary, each.summary.ttft
        times = [_digits(seconds) for seconds in (ttft.mean, ttft.median, ttft.p95, ttft.p99)]
        shares = f"{found.block_hits:.1%}", f"{found.saved:.1%}"
        counts = f"{found.holes:.2f}", f"{found.evictions:,}", f"{found.refused:,}"
        size = bytes_text(each.setting.kv_bytes)
        per_token = _digits(found.tpot_s)
        table.add_row(size, each.setting.retention, *times, per_token, *shares, f"{found.recompute_s:,.1f}", *counts)
    return table


def tiers_table(tiers: TierPlan) -> Table:
    columns = ("warm RAM", "disk", "TTFT", "p95", "found", "from warm RAM", "from disk")
    table = Table(*columns, title="with tiers; times in seconds", box=SIMPLE, pad_edge=False)
    for each in (*tiers.warm, *tiers.disk[1:]):
        setting, found = each.setting, each.summary
        sizes = (bytes_text(size) if size else "none" for size in (setting.warm_bytes, setting.disk_bytes))
        tokens = sum(found.tier_tokens.values()) or 1
        shares = (f"{found.tier_tokens.get(name, 0) / tokens:.1%}" for name in ("warm", "disk"))
        times = _digits(found.ttft.mean), _digits(found.ttft.p95)
        table.add_row(*sizes, *times, f"{found.block_hits:.1%}", *shares)
    return table


def _digits(value: float) -> str:
    """
    >>> _digits(0.012345), _digits(1.2), _digits(12345.6)
    ('0.0123', '1.2', '12,346')
    """
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
