"""Where the time of a decode step goes: by phase of the engine and by operator of the model, for several batches.

    python -m bench.micro_step [--model smollm2-135m-instruct] [--steps 100] [--context 128] [--batches 1,8,32]

Medians over steps, in milliseconds, as one Markdown table. ``outside of kernels``: the step minus all operators.
"""

from __future__ import annotations

import argparse
import random
import statistics
from dataclasses import asdict

from kvloom import LLM, SamplingParams
from kvloom.engine.engine import Engine
from kvloom.model.decoder import Decoder

Times = dict[str, float]


def start(engine: Engine, count: int, context: int, steps: int) -> None:
    """Submit ``count`` requests with prompts of random tokens, and step until all of them decode."""
    draw = random.Random(count)
    params = SamplingParams(temperature=0.0, max_tokens=steps, ignore_eos=True)
    for n in range(count):
        prompt = [draw.randrange(100, engine.model.vocab_size) for _ in range(context)]
        engine.submit(f"batch-{count}-{n}", prompt, params)
    queues = engine.scheduler.queues
    while queues.waiting or any(len(sequence.kv.missing) > 1 for sequence in queues.running):
        engine.step()


def so_far(engine: Engine, model: Decoder) -> Times:
    """Seconds since the engine started, under every name that the table has."""
    phases, operators = asdict(engine.stats().seconds), model.operator_seconds()
    step = sum(phases.values())
    return {"step": step, "outside of kernels": step - sum(operators.values()), **phases, **operators}


def measure(engine: Engine, model: Decoder, batch: int, context: int, steps: int) -> Times:
    """Median milliseconds of a step with ``batch`` rows."""
    start(engine, batch, context, steps)
    taken: list[Times] = []
    while len(engine.requests) == batch:
        before = so_far(engine, model)
        engine.step()
        after = so_far(engine, model)
        taken.append({name: 1e3 * (after[name] - before[name]) for name in after})
    while engine.has_work:
        engine.step()
    return {name: statistics.median(step[name] for step in taken) for name in taken[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--batches", default="1,8,32")
    asked = parser.parse_args()
    engine = LLM(asked.model, kv_bytes="1GiB").engine
    model = engine.model
    if not isinstance(model, Decoder):
        parser.error(f"{asked.model} is no decoder of this package")
    batches = [int(batch) for batch in asked.batches.split(",")]
    columns = [measure(engine, model, batch, asked.context, asked.steps) for batch in batches]
    print(f"| ms per step of {asked.model} | " + " | ".join(f"batch {batch}" for batch in batches) + " |")
    print("|---|" + "---|" * len(batches))
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(f"{column[name]:.3f}" for column in columns) + " |")


if __name__ == "__main__":
    main()
