"""What prefill and the tiers cost, as it was measured on a machine (``kvloom profile cost``), and its file.

On disk a profile is one JSON object, UTF-8:

    format       "kvloom-cost-profile"
    version      1
    measured_on  {"weights", "kv_dtype", "activations", "threads", "cpu", "isa", "kvloom"}: what it is bound to
    prefill      {"start_s", "token_s", "position_s"} seconds (``policy.cost.PrefillCost``)
    fit          {"r2", "error"}: how well it says what held-out steps took
    paper_fit    the same for AsymCache's own form, fitted to the same steps
    tiers        {"copy", "write", "read"}: each {"bytes_per_s", "latency_s"} (``policy.tier_cost``)
    steps        how many different steps were measured
    longest      tokens of the context that they were in

Profiles are kept in $KVLOOM_HOME (or the user's cache directory)/costs, one for each thing to be bound to.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kvloom.config import EngineConfig, default_threads, processor
from kvloom.errors import DataFileError
from kvloom.kernels import choose_isa
from kvloom.model.files.store import home_dir
from kvloom.model.files.typed_json import typed
from kvloom.policy.cost import PrefillCost
from kvloom.policy.tier_cost import TierCosts

FORMAT, VERSION = "kvloom-cost-profile", 1

_AGAIN = "measure again: kvloom profile cost MODEL"
_REMOVE = f"remove it, and {_AGAIN}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredOn:
    """All that costs depend on: of which ``weights`` (the id that they run under), with which settings, and where.

    ``kvloom``: version.
    """

    weights: str
    kv_dtype: str
    activations: str
    threads: int
    cpu: str
    isa: str
    kvloom: str

    @classmethod
    def here(cls, weights: str, config: EngineConfig) -> MeasuredOn:
        """This machine, and an engine of these settings."""
        return cls(
            weights=weights,
            kv_dtype=config.cache.kv_dtype,
            activations=config.activations,
            threads=config.threads or default_threads(),
            cpu=processor(),
            isa=choose_isa(),
            kvloom=version("kvloom"),
        )

    @property
    def digest(self) -> str:
        """Names it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, other: MeasuredOn) -> list[str]:
        """What differs, in words."""
        pairs = [(each.name, getattr(self, each.name), getattr(other, each.name)) for each in fields(self)]
        return [f"{name} {ours!r}, not {theirs!r}" for name, ours, theirs in pairs if ours != theirs]


@dataclass(frozen=True, slots=True)
class Quality:
    """Of a fit, on steps that it has not seen. ``r2``: part of the variance of their seconds that it explains, 1 at
    best. ``error``: median of by which part of the seconds it is off.
    """

    r2: float
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CostProfile:
    """What was measured, and where. ``steps``: how many; ``longest``: tokens of the context that they were in."""

    measured_on: MeasuredOn
    prefill: PrefillCost
    fit: Quality
    paper_fit: Quality
    tiers: TierCosts
    steps: int
    longest: int


def profile_path(measured_on: MeasuredOn) -> Path:
    """Where the profile of this is kept."""
    return home_dir() / "costs" / f"{measured_on.digest}.json"


def stored_profile(measured_on: MeasuredOn) -> CostProfile | None:
    """What was measured here before, with these settings; None: nothing. Raises DataFileError when it is damaged."""
    path = profile_path(measured_on)
    return read_profile(path, measured_on) if path.exists() else None


def write_profile(profile: CostProfile, path: Path) -> None:
    """At once or not at all. Raises DataFileError when it cannot be written."""
    shown = json.dumps({"format": FORMAT, "version": VERSION, **asdict(profile)}, indent=1, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="utf-8", delete=False) as file:
            file.write(shown)
        os.replace(file.name, path)
    except OSError as error:
        raise DataFileError(f"cannot be written: {error.strerror or error}", path=path) from error


def read_profile(path: Path, wanted: MeasuredOn) -> CostProfile:
    """Raises DataFileError when it is no profile, or was measured on something else than ``wanted``."""
    profile = any_profile(path)
    if different := profile.measured_on.differences(wanted):
        raise DataFileError(f"was measured on something else: {'; '.join(different)}", path=path, hint=_AGAIN)
    return profile


def any_profile(path: Path) -> CostProfile:
    """Whatever it was measured on. Raises DataFileError when it is no profile."""
    try:
        return _profile(json.loads(path.read_text(encoding="utf-8")), path)
    except OSError as error:
        raise DataFileError(f"cannot be read: {error.strerror or error}", path=path) from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataFileError):
            raise
        raise DataFileError(f"is no profile of costs: {error}", path=path, hint=_REMOVE) from error


def _profile(shown: Any, path: Path) -> CostProfile:
    if not isinstance(shown, dict) or shown.pop("format", None) != FORMAT:
        raise ValueError(f"it does not say `{FORMAT}`")
    found = shown.pop("version", None)
    if found != VERSION:
        raise DataFileError(f"is of version {found!r}, this reads {VERSION}", path=path, hint=_REMOVE)
    profile = typed(CostProfile, shown, "profile")
    cost, tiers = profile.prefill, profile.tiers
    if min(cost.start_s, cost.position_s) < 0 or cost.token_s <= 0:
        raise ValueError("`prefill` has costs that are negative, or tokens that cost nothing")
    for tier in (tiers.copy, tiers.write, tiers.read):
        if tier.bytes_per_s <= 0 or tier.latency_s < 0:
            raise ValueError("`tiers` has a bandwidth that is not positive, or a negative latency")
    return profile
