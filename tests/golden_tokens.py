"""Greedy tokens that the two real models are to give for ever: ``python -m tests.golden_tokens`` writes them anew.

Only a change that is meant to change what models say, and says so, writes the file again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from bench.drive import ModelEngines
from bench.text import long_text, prompts
from kvloom.engine.params import SamplingParams
from kvloom.eval.drive import run_all

PATH = Path(__file__).parent / "data" / "greedy_tokens.json"
MODELS = ("smollm2-135m-instruct", "gemma-3-270m")
_SEED, _SLICES, _NEW = 13, 20, 24


def golden_prompts(encode: Callable[[str], list[int]]) -> list[list[int]]:
    """Forty: twenty short texts, and twenty stretches of a document, from 20 tokens to more than two windows."""
    document, rng = encode(long_text()), random.Random(_SEED)
    lengths = [round(20 * (1300 / 20) ** (n / (_SLICES - 1))) for n in range(_SLICES)]
    starts = [rng.randrange(len(document) - length) for length in lengths]
    slices = [document[start : start + length] for start, length in zip(starts, lengths, strict=True)]
    return [*(encode(text) for text in prompts()), *slices]


def greedy_tokens(engines: ModelEngines) -> list[list[int]]:
    """What follows each of them. All together: answers do not depend on company."""
    params = SamplingParams(temperature=0.0, max_tokens=_NEW, ignore_eos=True)
    return [answer.tokens[0] for answer in run_all(engines.make("256MiB"), golden_prompts(engines.encode), params)]


def stored(model: str) -> list[list[int]]:
    tokens: list[list[int]] = json.loads(PATH.read_text(encoding="utf-8"))[model]
    return tokens


def main() -> None:
    from bench.drive import load
    from kvloom.model.files.store import pull

    found = {}
    for model in MODELS:
        pull(model)
        found[model] = greedy_tokens(load(model))
    lines = [
        f" {json.dumps(model)}: [\n" + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n ]"
        for model, rows in found.items()
    ]
    PATH.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
