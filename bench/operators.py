"""Where the time goes, per operator, at three operating points: ``python -m bench.operators [--quick]``.

A lone prompt, a lone stream, and a batch of streams. Seconds are the engine's own counts; the medians of the rounds are
filed beside the limits of the same sitting.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from bench.compare import measure_limits_apart
from bench.filing import Stamp, folder_for, write_files
from bench.harness import note
from kvloom import LLM
from kvloom.bench.bounds import Bound, Demand
from kvloom.bench.engine_target import EngineTarget
from kvloom.bench.workloads import random_tokens
from kvloom.config import CacheConfig, default_threads
from kvloom.model.decoder import Decoder
from kvloom.model.files.store import pull

MODEL = "smollm2-135m-instruct"
OUTSIDE = "outside of operators"


@dataclass(frozen=True, slots=True)
class Point:
    """``requests`` prompts of ``context`` tokens at once. ``num_new`` 1: the prompts are what is looked at."""

    name: str
    requests: int
    context: int
    num_new: int

    def least_s(self, bound: Bound) -> float:
        """Of the whole prompt, or of one step."""
        if self.num_new == 1:
            return bound.prefill_s(0, self.context)
        return bound.decode_s([self.context + self.num_new // 2] * self.requests)


POINTS = (
    Point("one prompt of 2048 tokens", 1, 2048, 1),
    Point("a step of one stream after 2048", 1, 2048, 33),
    Point("a step of 16 streams after 512", 16, 512, 33),
)
QUICK = (Point("one prompt of 128 tokens", 1, 128, 1), Point("a step of 2 streams after 64", 2, 64, 5))


@dataclass(frozen=True, slots=True)
class Finding:
    """Seconds per operator, of the whole prompt or of one step, and the least that the machine allows."""

    point: Point
    seconds: dict[str, float]
    least_s: float


def spent(llm: LLM) -> dict[str, float]:
    """Seconds since the start: each operator's, and what the phases of a step take beyond them."""
    model = llm.engine.model
    assert isinstance(model, Decoder)
    operators = model.operator_seconds()
    return {**operators, OUTSIDE: sum(asdict(llm.engine.stats().seconds).values()) - sum(operators.values())}


def observe(llm: LLM, point: Point, number: int) -> dict[str, float]:
    """One round. Where steps count, prompts are computed before; finding them again, in the first step, counts not."""
    tokens = random_tokens(llm.engine.model.vocab_size, number)
    prompts = [tokens(point.context) for _ in range(point.requests)]
    target = EngineTarget(llm.engine)

    def cost(num_new: int) -> tuple[int, dict[str, float]]:
        steps, before = llm.engine.stats().steps, spent(llm)
        target.run(prompts, num_new)
        return llm.engine.stats().steps - steps, {name: value - before[name] for name, value in spent(llm).items()}

    target.reset()
    _, whole = cost(1)
    if point.num_new == 1:
        return whole
    (first_steps, first), (steps, found) = cost(1), cost(point.num_new)
    return {name: (value - first[name]) / (steps - first_steps) for name, value in found.items()}


def measure(llm: LLM, points: Sequence[Point], rounds: int, bound: Bound) -> list[Finding]:
    """Medians of interleaved rounds."""
    seen = [[observe(llm, point, number) for point in points] for number in range(rounds)]
    return [
        Finding(point, {name: median(each[name] for each in column) for name in column[0]}, point.least_s(bound))
        for point, column in zip(points, zip(*seen, strict=True), strict=True)
    ]


def markdown(stamp: Stamp, findings: Sequence[Finding], bound: Bound, rounds: int) -> str:
    head = "| ms (share) | " + " | ".join(found.point.name for found in findings) + " |"
    rows = [head, "|---|" + "---|" * len(findings)]
    rows += [
        f"| {name} | " + " | ".join(_share(found.seconds[name], found) for found in findings) + " |"
        for name in sorted(findings[0].seconds, key=lambda name: -findings[0].seconds[name])
    ]
    rows.append("| all | " + " | ".join(f"**{sum(each.seconds.values()) * 1e3:.2f}**" for each in findings) + " |")
    rows.append("| least | " + " | ".join(f"{found.least_s * 1e3:.2f}" for found in findings) + " |")
    limits = bound.limits
    circumstances = (
        f"{stamp.hardware}, {stamp.threads} threads, {stamp.taken}; memory read {limits.read_gb_s:.1f} GB/s, sgemm "
        f"{limits.sgemm_gflop_s:.0f} GFLOP/s in the same sitting. {MODEL}, medians of {rounds} rounds. `least`: the "
        "prompt's arithmetic at sgemm's rate, or weights and KV read once at the read rate."
    )
    return "\n\n".join(["# Where the time goes", f"    {stamp.command}", circumstances, "\n".join(rows)]) + "\n"


def _share(seconds: float, found: Finding) -> str:
    return f"{seconds * 1e3:.2f} ({seconds / sum(found.seconds.values()):.0%})"


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m bench.operators")
    parser.add_argument("--quick", action="store_true", help="short contexts, one round; filed only with --out")
    parser.add_argument("--out", type=Path, help="folder; by default one under bench/results")
    options = parser.parse_args(given)
    points, rounds = (QUICK, 1) if options.quick else (POINTS, 5)
    manifest, threads = pull(MODEL), default_threads()
    bound = Bound(Demand.of(manifest, CacheConfig()), measure_limits_apart(threads))
    findings = measure(LLM(MODEL, kv_bytes="512MiB", threads=threads), points, rounds, bound)
    stamp = Stamp.now(f"python -m bench.operators {' '.join(given)}".strip())
    text = markdown(stamp, findings, bound, rounds)
    print(text)
    folder = options.out or (None if options.quick else folder_for(stamp))
    if folder is not None:
        data = {"stamp": asdict(stamp), "limits": asdict(bound.limits), "findings": [asdict(each) for each in findings]}
        note(f"filed: {write_files(folder, 'operators', text, json.dumps(data, indent=1) + chr(10), None)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
