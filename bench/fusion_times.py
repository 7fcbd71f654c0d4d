"""Times to the first token by way to fuse, passages in RAM and on disk: in a few minutes, in an engine of its own."""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from bench.claims.a3_ttft import Asked, asked, ttft_s
from bench.drive import ModelEngines, load
from bench.harness import note
from bench.side_by_side import KV_BYTES
from bench.text import real_text
from kvloom.config import TierConfig
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.engine import Engine
from kvloom.eval.subject import engine_beside
from kvloom.policy.fusion import parse_fusion

SELECTORS = ("a3", "cacheblend", "epic", "fusionrag", "prophetkv")
FULL, PREFIX = "full prefill", "prefix caching"
FUSED = (
    "reuse",
    *(f"{name}:ratio={ratio}" for name in SELECTORS for ratio in (0.05, 0.15, 0.3)),
    "recompute",
)
LENGTHS, PASSAGE, ROUNDS = (1024, 2048), 256, 5
ON_DISK = 0.15
"""From disk, at this ratio alone."""

FILE = "times.json"


@dataclass(frozen=True, slots=True)
class Times:
    """``seconds``: medians, by way and column."""

    model: str
    taken: str
    passage: int
    rounds: int
    seconds: Mapping[str, Mapping[str, float]]

    @property
    def ways(self) -> list[str]:
        return list(self.seconds)

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(column for found in self.seconds.values() for column in found))

    def cells(self, way: str) -> list[str]:
        found = self.seconds[way]
        return [f"{1e3 * found[column]:.0f}" if column in found else "-" for column in self.columns]


def read_times(place: Path) -> Times | None:
    path = place / FILE
    return Times(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def measure_times(model: str, place: Path, quick: bool) -> Path:
    """Full: five questions over each length. Quick: one over the shorter."""
    engines, rounds = load(model), 1 if quick else ROUNDS
    lengths = LENGTHS[:1] if quick else LENGTHS
    seconds: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        for column, engine in (("RAM", engines.make(KV_BYTES)), ("disk", _with_disk(engines, Path(directory)))):
            engine.intake.worth = lambda cache, prompt_tokens: True
            for length in lengths:
                ways = _ways(column)
                for way, found in _medians(engines, engine, length, rounds, ways, column == "disk").items():
                    seconds.setdefault(way, {})[f"{length}, {column}"] = found
                note(f"{length} tokens of passages, {column}: {len(ways)} ways")
            engine.check()
            engine.close()
    times = Times(model, time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()), PASSAGE, rounds, seconds)
    place.mkdir(parents=True, exist_ok=True)
    (place / FILE).write_text(json.dumps(asdict(times), indent=1) + "\n", encoding="utf-8")
    return place / FILE


def _ways(column: str) -> Sequence[str]:
    if column == "disk":
        return ("reuse", *(way for way in FUSED if way.endswith(f"ratio={ON_DISK}")))
    return (FULL, PREFIX, *FUSED)


def _medians(
    engines: ModelEngines, engine: Engine, length: int, rounds: int, ways: Sequence[str], from_disk: bool
) -> dict[str, float]:
    """All ways in turn; the first round, in which passages are computed, is not counted."""
    ids, count = engines.encode(real_text()), length // PASSAGE
    passages = [ids[n * PASSAGE : (n + 1) * PASSAGE] for n in range(count)]
    took: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        prompt = asked(engines, passages, random.Random(f"times/{length}/{number}").sample(range(count), count), number)
        for way in ways:
            if from_disk:
                engine.tiers.flush(30)
                engine.ledger.reset()
            took[way].append(ttft_s(engine, prompt, _cache(way, prompt)))
    return {way: median(found[1:]) for way, found in took.items()}


def _cache(way: str, prompt: Asked) -> CacheParams:
    if way == FULL:
        return CacheParams(read=False, write=False)
    if way == PREFIX:  # questions before are in the cache, none over these passages in this order
        return CacheParams()
    return CacheParams(fusion=parse_fusion(way), documents=prompt.documents)


def _with_disk(engines: ModelEngines, directory: Path) -> Engine:
    first = engines.loaded.engine
    cache = replace(first.config.cache, kv_bytes=KV_BYTES)
    return engine_beside(first, cache, tiers=TierConfig(cache_dir=str(directory), disk_bytes="1GiB"))
