"""Run workloads on an engine repeatedly, and compare the figures with the machine's limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from kvloom.bench.bounds import Bound, best_rates
from kvloom.bench.engine_target import EngineTarget
from kvloom.bench.workloads import Workload, random_tokens
from kvloom.engine.engine import Engine
from kvloom.errors import ConfigError

_WARM_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Row:
    """A figure over all rounds. ``limit``: the rate at which the machine's limits would be met."""

    name: str
    unit: str
    values: tuple[float, ...]
    limit: float

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def share(self) -> float:
        return self.median / self.limit


def check_fits(workloads: Sequence[Workload], engine: Engine) -> None:
    """Raise ConfigError when a sequence of a workload is longer than the engine can hold."""
    for workload in workloads:
        if workload.longest > engine.max_len:
            raise ConfigError(
                f"`{workload.name}` needs sequences of {workload.longest} tokens, the engine holds {engine.max_len}",
                hint="ask for less, or raise --kv-bytes",
            )


def measure(
    engine: Engine, workloads: Sequence[Workload], rounds: int, bound: Bound, on_token: Callable[[int], None]
) -> list[Row]:
    """Interleaved: every workload once per round, with random tokens that differ between rounds."""
    target = EngineTarget(engine, on_token)
    vocab = engine.model.vocab_size
    target.run([random_tokens(vocab, -1)(_WARM_TOKENS)], 2)
    values: dict[str, list[float]] = {}
    units: dict[str, str] = {}
    limits: dict[str, float] = {}
    for number in range(rounds):
        for n, workload in enumerate(workloads):
            for figure in workload.measure(target, random_tokens(vocab, 1000 * number + n)):
                values.setdefault(figure.name, []).append(figure.value)
                units[figure.name] = figure.unit
            limits |= best_rates(workload, bound)
    return [Row(name, units[name], tuple(each), limits[name]) for name, each in values.items()]
