"""The traces that retention policies are compared on, and what prefill costs there.

Recorded traces are not in the repository: they are read from ``TRACES_DIR``, by default ``.traces`` in its root
(``mooncake_conversation_trace.jsonl`` and ``mooncake_synthetic_trace.jsonl`` of Mooncake's release, and
``agent_traces.jsonl.gz``, see ``kvloom.simulate.traces.recorded_agents``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kvloom.policy.cost import PrefillCost
from kvloom.simulate.traces.made_agents import MadeAgents
from kvloom.simulate.traces.mooncake import mooncake
from kvloom.simulate.traces.multi_turn import HIGH_DISPERSION, LOW_DISPERSION, MultiTurn
from kvloom.simulate.traces.recorded_agents import RecordedAgents
from kvloom.simulate.traces.trace import Trace

ROOT = Path(__file__).parents[1]

SMALL = PrefillCost(0.0, 1e-3, 1e-3 / 1143)
"""Of a model of 135M parameters: a token at position 8,000 costs eight times one at 0."""

LARGE = PrefillCost(0.0, 1e-4, 1e-4 / 26_624)
"""Of a model of 8B parameters, by its shape (``kvloom.policy.cost.estimated``)."""

_MADE_BLOCK, _MOONCAKE_BLOCK, _AGENTS_BLOCK = 32, 512, 2048
"""Tokens. Recorded contexts are long: larger blocks keep a replay short."""

_SESSIONS, _TASKS = 240, 100
"""Of made traces: more than an hour of traffic, so that who learns is not judged by the first minutes alone."""

AGENTS = "agent_traces.jsonl.gz"
RECORDED = 5
"""Cases, where all files are there."""


@dataclass(frozen=True, slots=True)
class Case:
    """``traces``: made or read when they are needed, one for each seed."""

    name: str
    cost: PrefillCost
    traces: Callable[[], list[Trace]]


def traces_directory() -> Path:
    return Path(os.environ.get("TRACES_DIR", ROOT / ".traces"))


def cases(seeds: int) -> list[Case]:
    """All for which there are files."""
    return [*made(seeds), *recorded(traces_directory())]


def made(seeds: int, sessions: int = _SESSIONS, tasks: int = _TASKS) -> Iterator[Case]:
    for think_cv in (0.25, 1.0):
        for label, dispersion in (("low", LOW_DISPERSION), ("high", HIGH_DISPERSION)):
            source = MultiTurn(sessions, dispersion=dispersion, think_cv=think_cv)
            yield Case(f"made multi-turn, {label} dispersion, cv {think_cv:g}", SMALL, partial(_seeded, source, seeds))
    yield Case("made agents", SMALL, partial(_seeded, MadeAgents(tasks), seeds))


def recorded(directory: Path) -> Iterator[Case]:
    for kind in ("conversation", "synthetic"):
        path = directory / f"mooncake_{kind}_trace.jsonl"
        if path.exists():
            yield Case(f"mooncake {kind}", LARGE, partial(_mooncake, path))
    if (directory / AGENTS).exists():
        for users in (4, 16, 64):
            source = RecordedAgents(directory / AGENTS, users)
            yield Case(f"recorded agents, {users} users", LARGE, partial(_agents, source))


def _seeded(source: MultiTurn | MadeAgents, seeds: int) -> list[Trace]:
    return [source.trace(seed, _MADE_BLOCK) for seed in range(seeds)]


def _mooncake(path: Path) -> list[Trace]:
    return [mooncake(path, _MOONCAKE_BLOCK)]


def _agents(source: RecordedAgents) -> list[Trace]:
    return [source.trace(_AGENTS_BLOCK)]
