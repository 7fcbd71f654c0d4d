"""A random soak of everything that keeps KV: requests (fused ones and chunks too), aborts, resets, injected faults,
tiers that die, restarts.

    python -m bench.tier_soak --minutes 60 --output bench/results/tier_soak.json

After every step all budgets hold to the byte, the audit passes, and whoever was answered from exact KV got the tokens
that an engine with nothing cached gives. The first thing that is wrong ends the soak with an error that names the seed.
It prints one line of what happened.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from bench.filing import Stamp
from bench.harness import note
from bench.soak_requests import Asked, Cold, drawn, drawn_chunk, drawn_fused, texts_of
from kvloom.config import CacheConfig, EngineConfig, KvDtype, RetentionName, TierConfig, TierName
from kvloom.engine.engine import Engine
from kvloom.engine.outputs import RequestUpdate
from kvloom.eval.subject import engine_beside
from kvloom.memory.tier.disk_index import INDEX_BYTES

MODEL = "smollm2-135m-instruct"
_DISK_OVERHEAD = INDEX_BYTES + 2 * 2**20
"""For folders and the index."""

_MOST_RUNNING = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``length``: tokens of the longest text, of which there are ``texts``. All else follows from ``seed``: so does
    every decision, but not what threads do meanwhile.
    """

    length: int
    texts: int
    kv_dtype: KvDtype
    slab_bytes: int = 2 * 2**20
    seed: int = 0


@dataclass
class Tally:
    """What happened. ``checked``: answers that were compared with cold ones; ``fullest``: the largest part that was
    ever used of each budget.
    """

    steps: int = 0
    did: Counter[str] = field(default_factory=Counter)
    checked: int = 0
    lossy_answers: int = 0
    hit_tokens: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    fullest: dict[str, float] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}

    def line(self) -> str:
        return "; ".join(
            (
                f"{self.steps:,} steps, {self.did['answered']:,} answers ({self.checked:,} as cold, "
                f"{self.lossy_answers:,} lossy)",
                ", ".join(f"{name} {count:,}" for name, count in sorted(self.did.items()) if name != "answered"),
                "tokens from " + ", ".join(f"{name} {count:,}" for name, count in sorted(self.hit_tokens.items())),
                "faults " + ", ".join(f"{name} {count:,}" for name, count in sorted(self.faults.items())),
                "at most " + ", ".join(f"{name} {share:.1%}" for name, share in sorted(self.fullest.items())),
            )
        )


class SoakError(AssertionError):
    """Something is wrong with the engine."""


class Soak:
    """``first``: whose model is used. ``place``: for the directory of a disk tier."""

    def __init__(self, first: Engine, place: Path, plan: Plan) -> None:
        self.first, self.plan, self.directory = first, plan, place / "cache"
        self.random, self.tally = random.Random(plan.seed), Tally()
        self.texts = texts_of(self.random, plan.texts, plan.length, first.model.vocab_size)
        self.cold = Cold(lambda: _fusing(engine_beside(first, self._cache("lru", 4))))
        self.asked: dict[str, Asked] = {}
        self.said: dict[str, defaultdict[int, list[int]]] = {}
        self.number = 0
        self.engine = self._started()

    def run(self, until: Callable[[Tally], bool]) -> Tally:
        """Raises SoakError, or whatever the engine raises."""
        try:
            while not until(self.tally):
                self._act()
                self._step()
            while self.engine.has_work:
                self._step()
            if self.engine.ledger.held_bytes:
                raise SoakError(f"{self.engine.ledger.held_bytes} bytes are held when all is over")
        except Exception as error:
            error.add_note(f"after {self.tally.steps} steps with {self.plan}")
            raise
        finally:
            self._stop(seconds=1.0)
        return self.tally

    # -- what happens ----------------------------------------------------------------------------------------------

    def _act(self) -> None:
        """Something, or nothing."""
        chance = self.random.random()
        if chance < 0.35 and len(self.asked) < _MOST_RUNNING:
            self._ask()
        elif chance < 0.37 and self.asked:
            self._abort(self.random.choice(sorted(self.asked)))
        elif chance < 0.373:
            self.engine.reset_cache()
            self.tally.did["resets"] += 1
        elif chance < 0.38:
            self.engine.tiers.flush(5.0)
        elif chance < 0.383:
            self._kill()
        elif chance < 0.388:
            self._restart()

    def _ask(self) -> None:
        kind = self.random.choice((drawn, drawn, drawn, drawn_fused, drawn_fused, drawn_chunk))
        asked, name = kind(self.random, self.texts), f"r{self.number}"
        self.number += 1
        self.engine.submit(name, list(asked.prompt), asked.params, cache=asked.cache, client=str(self.number % 3))
        self.asked[name], self.said[name] = asked, defaultdict(list)

    def _abort(self, name: str) -> None:
        self.engine.abort(name)
        del self.asked[name], self.said[name]
        self.tally.did["aborted"] += 1

    def _kill(self) -> None:
        """A tier dies under the engine, or its directory goes."""
        if self.random.random() < 0.5:
            shutil.rmtree(self.directory, ignore_errors=True)
        elif self.engine.tiers.levels:
            self.random.choice(self.engine.tiers.levels).tier.close()
        self.tally.did["killed tiers"] += 1

    def _restart(self) -> None:
        """Over the same directory, whatever has been written by then."""
        for name in list(self.asked):
            self._abort(name)
        self._stop(self.random.choice((0.0, 5.0)))
        self.engine = self._started()
        self.tally.did["restarts"] += 1

    # -- what must be true -----------------------------------------------------------------------------------------

    def _step(self) -> None:
        if self.engine.has_work and not self.engine.runnable:
            self.engine.sleep(0.05)
        for update in self.engine.step():
            self._hear(update)
        self.tally.steps += 1
        self.check()

    def check(self) -> None:
        """Budgets and audits. Raises SoakError or InternalError."""
        self.engine.check()
        stats = self.engine.stats().cache
        budgets = {"ram": (stats.used_bytes, stats.budget_bytes)}
        for name, tier in stats.tiers.items():
            budgets[name] = tier.used_bytes, tier.budget_bytes
        if self.tally.steps % 50 == 0 and "disk" in stats.tiers:
            budgets["files"] = _occupied_bytes(self.directory), stats.tiers["disk"].budget_bytes
        budgets["pins"] = stats.pinned_bytes, int(self.engine.config.cache.max_pinned_share * stats.budget_bytes)
        for name, (used, budget) in budgets.items():
            if used > budget:
                raise SoakError(f"{name}: {used} bytes are in use, {budget} were allowed")
            self.tally.fullest[name] = max(self.tally.fullest.get(name, 0.0), used / budget)

    def _hear(self, update: RequestUpdate) -> None:
        for delta in update.deltas:
            self.said[update.request_id][delta.index] += delta.token_ids
        if update.error is not None:
            raise update.error
        if update.finished:
            self._judge(update)

    def _judge(self, update: RequestUpdate) -> None:
        """An answer is complete."""
        asked, said = self.asked.pop(update.request_id), self.said.pop(update.request_id)
        metrics = update.metrics
        self.tally.did["answered"] += 1
        self.tally.did["fused"] += metrics.fused is not None
        if metrics.lossy_tokens and not asked.cache.lossy:
            raise SoakError(f"{metrics.lossy_tokens} tokens in fewer bits for {asked.cache}")
        if metrics.lossy_tokens:
            self.tally.lossy_answers += 1
            return
        expected = self.cold.answer(asked)
        wrong = [answer for answer in said.values() if answer != expected]
        if wrong or len(said) != asked.n:
            raise SoakError(f"{asked}: {wrong} was answered, {expected} is right; {metrics}")
        self.tally.checked += 1

    # -- engines ---------------------------------------------------------------------------------------------------

    def _started(self) -> Engine:
        policy = self.random.choice(get_args(RetentionName))
        return _fusing(engine_beside(self.first, self._cache(policy, 2), tiers=self._tiers()))

    def _cache(self, policy: RetentionName, requests: int) -> CacheConfig:
        """With room for so many of the longest requests."""
        kv_bytes = requests * self._request_bytes()
        plan = self.plan
        return CacheConfig(kv_bytes=kv_bytes, kv_dtype=plan.kv_dtype, slab_bytes=plan.slab_bytes, retention=policy)

    def _tiers(self) -> TierConfig:
        """Any of them, and what goes wrong in each."""
        size, rare, seed = self._request_bytes(), self.random.choice((0.0, 0.02, 0.2)), self.random.randrange(1000)
        there = [tier for tier in get_args(TierName) if tier != "remote" and self.random.random() < 0.6]
        often = f"fail={rare},corrupt={rare},full={rare},slow={rare / 4}@0.02s,seed={seed}"
        return TierConfig(
            warm_bytes=size if "warm" in there else None,
            warm_int8_bytes=2 * size if "warm_int8" in there else None,
            cache_dir=str(self.directory) if "disk" in there else None,
            disk_bytes=3 * size + _DISK_OVERHEAD,
            tier_faults=";".join(f"{tier}:{often}" for tier in there) or None,
        )

    def _request_bytes(self) -> int:
        """Of the longest, with a slab for the lists of a compressed context, and for what recoded pages leave empty."""
        return self.first.layout.bytes_for(self.plan.length + 16) + 2 * self.plan.slab_bytes

    def _stop(self, seconds: float) -> None:
        stats = self.engine.stats().cache
        self.tally.hit_tokens.update(stats.hit_tokens_by_tier)
        for name, tier in stats.tiers.items():
            self.tally.faults.update({f"{name} {fault}": count for fault, count in tier.faults.items()})
        self.engine.close(seconds)


def _fusing(engine: Engine) -> Engine:
    """One that fuses whether or not that is faster: what is faster depends on what steps took."""
    engine.intake.worth = lambda cache, prompt_tokens: True
    return engine


def _occupied_bytes(directory: Path) -> int:
    """Of its files on disk, as the system counts. What goes meanwhile counts nothing."""
    occupied = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):
            occupied += path.lstat().st_blocks * 512
    return occupied


def result(tally: Tally, plan: Plan, seconds: float) -> dict[str, Any]:
    stamp = Stamp.now(f"python -m bench.tier_soak --minutes {seconds / 60:.1f} --seed {plan.seed}")
    return {"stamp": asdict(stamp), "plan": asdict(plan), "seconds": round(seconds, 1)} | tally.plain()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--output", type=Path, help="a JSON file for the result")
    said = parser.parse_args(arguments)
    from kvloom.engine.build import build
    from kvloom.model.files.store import pull

    pull(said.model)
    config = EngineConfig(model=said.model, cache=CacheConfig(kv_bytes="64MiB"))
    plan = Plan(length=480, texts=40, kv_dtype="int16", seed=said.seed)
    began_s, told_s = time.monotonic(), time.monotonic()

    def over(tally: Tally) -> bool:
        nonlocal told_s
        if time.monotonic() - told_s > 60:
            told_s = time.monotonic()
            note(tally.line())
        return time.monotonic() - began_s > 60 * said.minutes

    with tempfile.TemporaryDirectory() as place:
        tally = Soak(build(config).engine, Path(place), plan).run(over)
    if said.output is not None:
        said.output.write_text(json.dumps(result(tally, plan, time.monotonic() - began_s), indent=2) + "\n")
    print(tally.line())


if __name__ == "__main__":
    main()
