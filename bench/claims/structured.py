"""structured: what holding an answer to a form costs a token, one stream and eight, and that every answer has its form.

Streams with and without a form take turns in one run, over the same prompt and the same number of tokens; the ratio is
the median over pairs. The form is a JSON schema whose answers do not end by themselves.
"""

from __future__ import annotations

import json
import time
from statistics import median
from typing import Any

from bench.drive import ModelEngines, load
from bench.harness import Check, Outcome, at_least, at_most, note, worst_of
from bench.text import long_text
from kvloom.engine.engine import Engine
from kvloom.engine.params import SamplingParams
from kvloom.engine.structured import StructuredOutputsParams
from kvloom.model.files.store import pull

MODEL = "smollm2-135m-instruct"
COST_GOAL = 1.10
CONTEXT = 256

ENDLESS = StructuredOutputsParams(
    json={
        "type": "array",
        "minItems": 100_000,
        "items": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 40},
                "kind": {"enum": ["one", "two", "three"]},
                "sizes": {"type": "array", "items": {"type": "integer"}, "maxItems": 4},
            },
            "required": ["name", "kind", "sizes"],
            "additionalProperties": False,
        },
    }
)
FORMS: dict[str, dict[str, Any]] = {
    "person": {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 30}, "age": {"type": "integer", "maximum": 120}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "choice": {"enum": ["red", "green", "blue"]},
    "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 3, "maxItems": 5},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
    "union": {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 0, "maximum": 999}]},
}


def token_ms(engine: Engine, prompt: list[int], params: SamplingParams, streams: int) -> float:
    """Mean time of a step after the first token, with so many streams of equal parameters."""
    for n in range(streams):
        engine.submit(f"s{n}", prompt, params)
    stamps: list[float] = []
    while engine.has_work:
        updates = engine.step()
        if sum(bool(update.deltas) for update in updates) == streams:
            stamps.append(time.perf_counter())
    return 1e3 * (stamps[-1] - stamps[0]) / (len(stamps) - 1)


def cost(engine: Engine, prompt: list[int], streams: int, tokens: int, pairs: int, temperature: float) -> Check:
    def asked(form: StructuredOutputsParams | None) -> SamplingParams:
        return SamplingParams(
            temperature=temperature, seed=1, max_tokens=tokens, ignore_eos=True, structured_outputs=form
        )

    both = asked(None), asked(ENDLESS)
    times = [[token_ms(engine, prompt, each, streams) for each in both] for _ in range(pairs + 1)][1:]
    ratio = median(held / free for free, held in times)
    said = f"{median(free for free, _ in times):.2f} and {median(held for _, held in times):.2f} ms"
    how = "greedy" if temperature == 0 else "sampled"
    return at_most(f"time of a token, {streams} {how}", ratio, COST_GOAL, "times the time without a form", said)


def valid(engines: ModelEngines, count: int) -> Check:
    """Of answers that ended by themselves, those that have their form. The judge is independent of what made them."""
    from jsonschema import Draft202012Validator

    engine, prompt, good, ended = engines.make("512MiB"), engines.encode("A record in JSON:\n"), 0, 0
    for name, schema in FORMS.items():
        form = StructuredOutputsParams(json=schema)
        for seed in range(count):
            engine.submit("x", prompt, SamplingParams(max_tokens=200, seed=seed, structured_outputs=form))
            text, reason = "", None
            while engine.has_work:
                for update in engine.step():
                    text += "".join(delta.text for delta in update.deltas)
                    reason = update.deltas[-1].finish_reason if update.deltas else reason
            ended += reason == "stop"
            good += reason == "stop" and Draft202012Validator(schema).is_valid(json.loads(text))
        note(f"{name}: {good} of {ended} so far")
    return at_least(
        "answers that have their form", good / max(1, ended), 1.0, "of those that ended", f"{ended} answers"
    )


def measure(quick: bool) -> Outcome:
    """Full: 256 tokens, 11 pairs. Quick: 64 tokens, 3 pairs."""
    pull(MODEL)
    engines = load(MODEL)
    tokens, pairs = (64, 3) if quick else (256, 11)
    engine, prompt = engines.make("2GiB"), engines.encode(long_text())[:CONTEXT]
    checks = [valid(engines, 2 if quick else 10)]
    for streams, temperature in ((1, 0.0), (1, 1.0), (8, 0.0)):
        checks.append(cost(engine, prompt, streams, tokens, pairs, temperature))
        note(str(checks[-1]))
    return worst_of("structured", checks, {"quick": quick})
