"""How the cost grows: ``python -m bench.growth [--quick]``. Seconds of a decode step by context and by batch.

Beside each measured slope stands the limit: the KV bytes of one more token, or of one more request, over the read
bandwidth that was measured in the same sitting.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.chart import draw_lines
from bench.compare import measure_limits_apart
from bench.filing import Stamp, folder_for, write_files
from bench.harness import note
from bench.remote import RemotePeer, interpreter, setup_of
from kvloom.bench.target import Answer
from kvloom.bench.workloads import random_tokens
from kvloom.config import default_threads
from kvloom.model.files.store import pull

MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True, slots=True)
class Plan:
    """``contexts`` at batch 1, then ``batches`` after ``context`` tokens each."""

    contexts: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 6000, 8000)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    context: int = 512
    num_new: int = 65
    rounds: int = 3


QUICK = Plan((64, 128, 256), (1, 2), 64, 9, 1)


@dataclass(frozen=True, slots=True)
class Line:
    """Step seconds over x, with the straight line through them and the least that the machine allows."""

    xs: list[int]
    step_s: list[float]
    slope_s: float
    start_s: float
    limit_slope_s: float
    limit_start_s: float

    @classmethod
    def through(cls, points: dict[int, list[float]], limit_slope_s: float, limit_start_s: float) -> Line:
        xs = list(points)
        ys = [median(values) for values in points.values()]
        slope, start = np.polyfit(xs, ys, 1)
        return cls(xs, ys, float(slope), float(start), limit_slope_s, limit_start_s)


def step_s(answers: Sequence[Answer]) -> float:
    """Seconds of a step in which all requests decode: from the last first token to the first last one."""
    start = max(answer.times_s[0] for answer in answers)
    end = min(answer.times_s[-1] for answer in answers)
    if start >= end:
        raise ValueError("no step in which all decode: longer answers are needed")
    return (end - start) / max(sum(start < moment <= end for moment in answer.times_s) for answer in answers)


def measure(plan: Plan, peer: RemotePeer, vocab_size: int) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
    """Step seconds by context and by batch, one value per round."""
    by_context: dict[int, list[float]] = {context: [] for context in plan.contexts}
    by_batch: dict[int, list[float]] = {batch: [] for batch in plan.batches}
    for number in range(plan.rounds):
        tokens = random_tokens(vocab_size, number)
        for context, values in by_context.items():
            peer.reset()
            values.append(step_s(peer.run([tokens(context)], plan.num_new)))
            note(f"round {number + 1}: after {context} tokens {values[-1] * 1e3:.2f} ms")
        for batch, values in by_batch.items():
            peer.reset()
            values.append(step_s(peer.run([tokens(plan.context) for _ in range(batch)], plan.num_new)))
            note(f"round {number + 1}: {batch} together {values[-1] * 1e3:.2f} ms")
    return by_context, by_batch


def overhead(peer: RemotePeer, vocab_size: int, plan: Plan) -> float | None:
    """Seconds per step, at batch 1, that the engine counts outside of the model; None when it does not count them."""
    peer.reset()
    before = peer.counters()
    peer.run([random_tokens(vocab_size, -1)(plan.contexts[0])], plan.num_new)
    after = peer.counters()
    if "seconds" not in after:
        return None
    spent = {phase: seconds - before["seconds"][phase] for phase, seconds in after["seconds"].items()}
    outside = sum(seconds for phase, seconds in spent.items() if phase != "forward")
    return float(outside / (after["steps"] - before["steps"]))


def overhead_line(seconds: float | None) -> str:
    return "" if seconds is None else f"\nOutside of the model, a step at batch 1 takes {seconds * 1e3:.2f} ms.\n"


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m bench.growth")
    parser.add_argument("--quick", action="store_true", help="short contexts, one round; filed only with --out")
    parser.add_argument("--out", type=Path, help="folder; by default one under bench/results")
    options = parser.parse_args(given)
    plan, threads = QUICK if options.quick else Plan(), default_threads()
    manifest, python = pull(MODEL), interpreter("kvloom")
    assert python is not None
    capacity = max(*plan.contexts, max(plan.batches) * (plan.context + plan.num_new)) + 1024
    limits = measure_limits_apart(threads)
    peer = RemotePeer("kvloom", python, setup_of(manifest, threads, capacity))
    try:
        by_context, by_batch = measure(plan, peer, manifest.spec.vocab_size)
        overhead_s = overhead(peer, manifest.spec.vocab_size, plan)
    finally:
        peer.close()
    per_byte_s = 1 / limits.read_gb_s / 1e9
    weights_s, token_s = peer.facts.weight_bytes * per_byte_s, peer.facts.kv_token_bytes * per_byte_s
    lines = {
        "context": Line.through(by_context, token_s, weights_s),
        "batch": Line.through(by_batch, plan.context * token_s, weights_s),
    }
    stamp = Stamp.now(f"python -m bench.growth {' '.join(given)}".strip())
    text = markdown(stamp, lines, plan, limits.read_gb_s) + overhead_line(overhead_s)
    data = {"stamp": stamp, "limits": limits, "plan": plan, "lines": lines}
    plain: dict[str, Any] = json.loads(json.dumps(data, default=_plain)) | {"overhead_s": overhead_s}
    print(text)
    folder = options.out or (None if options.quick else folder_for(stamp))
    if folder is not None:
        data_text = json.dumps(plain, indent=1) + "\n"
        note(f"filed: {write_files(folder, 'growth', text, data_text, lambda path: draw(lines['context'], path))}")
    return 0


def markdown(stamp: Stamp, lines: dict[str, Line], plan: Plan, read_gb_s: float) -> str:
    units = {"context": "token of context, at batch 1", "batch": f"request after {plan.context} tokens"}
    parts = [
        "# Growth of a decode step",
        f"    {stamp.command}",
        f"{stamp.hardware}, {stamp.threads} threads, {stamp.taken}; memory read {read_gb_s:.1f} GB/s in the same "
        f"sitting. Medians of {plan.rounds} rounds. The limit reads weights and KV once, at that rate.",
    ]
    for name, line in lines.items():
        rows = [f"| {x} | {seconds * 1e3:.2f} |" for x, seconds in zip(line.xs, line.step_s, strict=True)]
        parts.append("\n".join([f"| {name} | step, ms |", "|---|---|", *rows]))
        parts.append(
            f"One more {units[name]}: **{line.slope_s * 1e6:.2f} us**, limit {line.limit_slope_s * 1e6:.2f} us. "
            f"Without any: {line.start_s * 1e3:.2f} ms, limit {line.limit_start_s * 1e3:.2f} ms."
        )
    return "\n\n".join(parts) + "\n"


def draw(line: Line, target: Path) -> None:
    fitted = [line.start_s + line.slope_s * x for x in line.xs]
    limit = [line.limit_start_s + line.limit_slope_s * x for x in line.xs]
    curves = {"measured": line.step_s, "fitted": fitted, "limit": limit}
    draw_lines(
        "One decode step, batch 1",
        "tokens of context",
        "ms",
        {name: (line.xs, [seconds * 1e3 for seconds in values]) for name, values in curves.items()},
        target,
    )


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value)


if __name__ == "__main__":
    sys.exit(main())
