"""``kvloom profile cost``."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from kvloom.cli import backend
from kvloom.cli.profile_progress import profile_bar
from kvloom.cli.say import bytes_text, say, show
from kvloom.cli.settings import Settings
from kvloom.engine.cost_profile import CostProfile, Quality, profile_path, write_profile
from kvloom.learn.cost import BRIEF, FULL, learn_costs, tokens_of
from kvloom.model.files.store import home_dir
from kvloom.policy.tier_cost import TierCost


def profile_cost(
    model: str, brief: bool, disk: Path | None, output: Path | None, as_json: bool, settings: Settings
) -> None:
    """Measure, write the profile, and print it."""
    engine, survey = backend.open_subject(settings.engine(model)).engine, BRIEF if brief else FULL
    with profile_bar() as bar:
        task = bar.add_task("tokens", total=tokens_of(engine, survey))
        profile = learn_costs(
            engine, survey, disk or home_dir(), time.perf_counter, lambda tokens: bar.advance(task, tokens)
        )
    path = output or profile_path(profile.measured_on)
    write_profile(profile, path)
    show(asdict(profile) | {"file": str(path)}, "\n".join(cost_lines(profile)), as_json)
    say(f"the costs are in {path}")


def cost_lines(profile: CostProfile) -> list[str]:
    """A profile for people."""
    cost, tiers = profile.prefill, profile.tiers
    return [
        f"prefill      {_time(cost.start_s)} a step, {_time(cost.token_s)} a token, "
        f"and {_time(cost.position_s)} for each position before it",
        f"twice as     at position {cost.doubling_position:,.0f}",
        f"held out     {_quality(profile.fit)}",
        f"AsymCache's  {_quality(profile.paper_fit)}",
        f"measured     {profile.steps} steps in a context of {profile.longest:,} tokens",
        f"copy in RAM  {_tier(tiers.copy)}",
        f"disk, write  {_tier(tiers.write)}",
        f"disk, read   {_tier(tiers.read)}",
    ]


def _quality(fit: Quality) -> str:
    return f"R2 {fit.r2:.4f}, half of the steps are off by less than {fit.error:.1%}"


def _tier(cost: TierCost) -> str:
    return f"{bytes_text(cost.bytes_per_s)}/s after {_time(cost.latency_s)}"


def _time(seconds: float) -> str:
    """
    >>> _time(0.0123), _time(4.56e-7), _time(0)
    ('12.3 ms', '456 ns', '0 ns')
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
