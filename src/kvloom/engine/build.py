"""From settings to a model ready to serve: resolve, load, and make an engine of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from kvloom.attend.cpu import CpuAttend
from kvloom.config import EngineConfig, default_threads
from kvloom.engine.cost_profile import CostProfile, MeasuredOn, stored_profile
from kvloom.engine.defaults import SamplingDefaults
from kvloom.engine.engine import Engine
from kvloom.engine.factory import make_engine
from kvloom.engine.layout import identity_of
from kvloom.engine.retention import make_retention
from kvloom.engine.tiers.open import open_tiers
from kvloom.memory.tier.writer import Writer
from kvloom.model.files.loading import load_model, load_tokenizer
from kvloom.model.files.manifest import Manifest
from kvloom.model.files.store import resolve
from kvloom.model.text.tokenizer import Tokenizer
from kvloom.policy.tier_cost import TierCost


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to serve."""

    manifest: Manifest
    tokenizer: Tokenizer
    engine: Engine
    defaults: SamplingDefaults = field(default_factory=SamplingDefaults)


def build(config: EngineConfig) -> Loaded:
    """Resolve, load and wire. Raises ModelError or ConfigError, and DataFileError for a damaged profile of costs."""
    manifest = resolve(config.model)
    threads = config.threads or default_threads()
    tokenizer = load_tokenizer(manifest)
    model = load_model(manifest, threads, config.activations)
    measured = stored_profile(MeasuredOn.here(model.weights_id, config))
    cost = None if measured is None else measured.prefill
    retention = make_retention(config.cache.retention, model, cost)
    engine = make_engine(
        model,
        tokenizer,
        config,
        lambda arena: CpuAttend(arena.memory, threads),
        retention,
        cost=cost,
        tier_factory=lambda formats: open_tiers(
            config.tiers, formats, Writer(model.weights_id, identity_of(formats), model=manifest.name)
        ),
        tier_costs={} if measured is None else _measured(measured),
        lead=tokenizer.lead,
    )
    defaults = SamplingDefaults(manifest.text.sampling if config.generation_config == "auto" else {})
    return Loaded(manifest, tokenizer, engine, defaults)


def _measured(profile: CostProfile) -> dict[str, TierCost]:
    """What reading costs, by tier."""
    copy, read = profile.tiers.copy, profile.tiers.read
    return {"warm": copy, "warm_int8": copy, "disk": read}
