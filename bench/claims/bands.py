"""bands: a long prompt that waits for memory begins sooner when a quarter of the layers is enough to begin with.

SmolLM2, a warm tier, and KV memory of which a stream holds the larger part, so that a prompt of 4,096 tokens has room
for its hidden states and one band of layers but not for all of its KV. Engines with one band and with four take turns
at the same work: the prompt arrives when the stream has so many tokens to come. Its first token, and its eighth, are
counted from its arrival. The claim is the first; what the eighth and the stream's tokens take is said beside it. With
less to wait for than the prompt takes beside a stream there is nothing to gain: see dev/LOG.md.
"""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from dataclasses import dataclass
from statistics import median

from bench.claims.lukv_memory import MODEL, contexts
from bench.drive import ModelEngines, load
from bench.harness import Outcome, at_least, note, worst_of
from kvloom.config import CacheConfig, TierConfig
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.engine import Engine
from kvloom.engine.params import SamplingParams
from kvloom.eval.subject import engine_beside
from kvloom.model.files.store import pull

GOAL, BANDS = 2.0, 4


@dataclass(frozen=True, slots=True)
class Load:
    """A prompt of ``length`` tokens; the stream began with as many, and has ``tokens`` to come."""

    length: int
    tokens: int
    rounds: int


QUICK, FULL = Load(length=2048, tokens=1200, rounds=1), Load(length=4096, tokens=2500, rounds=3)


@dataclass(frozen=True, slots=True)
class Ran:
    """Seconds from the prompt's arrival; ``gap_s``: between two tokens of the stream, the mean."""

    first_s: float
    last_s: float
    gap_s: float
    answer: tuple[int, ...]
    begun: int


def room(engines: ModelEngines, load: Load) -> int:
    """For the stream until it ends, and a quarter of the prompt's KV."""
    layout = engines.loaded.engine.layout
    return layout.bytes_for(load.length + load.tokens + load.length // 4)


def engine_of(engines: ModelEngines, load: Load, bands: int) -> Engine:
    cache = CacheConfig(kv_bytes=room(engines, load), kv_dtype=engines.kv_dtype, bands=bands)
    return engine_beside(engines.loaded.engine, cache, tiers=TierConfig(warm_bytes="512MiB"))


def run(engine: Engine, stream: list[int], prompt: list[int], load: Load) -> Ran:
    greedy = SamplingParams(temperature=0.0, max_tokens=load.tokens, ignore_eos=True)
    engine.submit("stream", stream, greedy, cache=CacheParams(read=False, write=False))
    times, answer = defaultdict[str, list[float]](list), list[int]()

    def step() -> None:
        for update in engine.step():
            if update.error is not None:
                raise update.error
            tokens = [token for delta in update.deltas for token in delta.token_ids]
            times[update.request_id] += [time.perf_counter()] * len(tokens)
            answer.extend(tokens if update.request_id == "late" else ())

    while not times:
        step()
    arrived_s = time.perf_counter()
    engine.submit("late", prompt, dataclasses.replace(greedy, max_tokens=8))
    while "late" in engine.requests:
        step()
    for name in list(engine.requests):
        engine.abort(name)
    late, others = times["late"], times["stream"]
    gap_s = (others[-1] - others[0]) / (len(others) - 1)
    engine.check()
    return Ran(late[0] - arrived_s, late[-1] - arrived_s, gap_s, tuple(answer), engine.stats().begun_by_bands)


def measure(quick: bool) -> Outcome:
    """Full: 4,096 tokens, three rounds. Quick: 2,048, one round; only that the first token is not later by half."""
    pull(MODEL)
    load_of, engines = QUICK if quick else FULL, load(MODEL)
    texts = contexts(engines, load_of.length, load_of.rounds + 2)
    found: dict[int, list[Ran]] = {1: [], BANDS: []}
    for number in range(load_of.rounds):
        for bands, runs in found.items():
            engine = engine_of(engines, load_of, bands)
            # What steps and tiers take is learned from those that were; a first prompt is for that alone.
            engine.submit("learn", texts[-1], SamplingParams(temperature=0.0, max_tokens=1))
            while engine.requests:
                engine.step()
            runs.append(run(engine, texts[0], texts[1 + number], load_of))
            engine.close()
            note(f"{bands} bands: first {runs[-1].first_s:.2f} s, eighth {runs[-1].last_s:.2f} s")
    same = all(a.answer == b.answer for a, b in zip(*found.values(), strict=True))
    first, last, gap = (
        [median(getattr(each, of) for each in runs) for runs in found.values()] for of in ("first_s", "last_s", "gap_s")
    )
    said = (
        f"first token {first[0]:.2f} and {first[1]:.2f} s, eighth {last[0]:.2f} and {last[1]:.2f} s, "
        f"the stream's tokens {1e3 * gap[0]:.1f} and {1e3 * gap[1]:.1f} ms"
    )
    checks = [
        at_least("first token", first[0] / first[1], 1 / 1.5 if quick else GOAL, "times sooner", said),
        at_least("begun by bands", sum(each.begun for each in found[BANDS]) / load_of.rounds, 1.0, "of all"),
        at_least("same answers", float(same), 1.0, ""),
    ]
    runs_of = {bands: [dataclasses.asdict(each) for each in runs] for bands, runs in found.items()}
    return worst_of("bands", checks, {"quick": quick, "runs": runs_of})
