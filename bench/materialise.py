"""What it costs to compute passages once, and what that saves: python -m bench.materialise, in a quiet minute or two.

    python -m bench.materialise [--model smollm2-135m-instruct] [--passages 500] [--tokens 256] [--rounds 20]
                                [--together 8] [--kv-bytes 256MiB] [--directory DIR]

Passages of the shipped corpus are computed alone, many at a time, into a cache directory (``llm.chunks.add``). Then,
in an engine with nothing in RAM, the KV of ``together`` random ones is brought there, as a question over them would
need it: loaded from disk, and computed, in turns. Wall time, and CPU seconds of all threads; medians over rounds.
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.harness import note
from kvloom import LLM, CacheParams, TierConfig
from kvloom.config import processor
from kvloom.eval.corpus import shipped_corpus

Passages = Sequence[Sequence[int]]
ALONE = CacheParams(kept_as="chunk")
COMPUTED = CacheParams(kept_as="chunk", read=False, write=False)


def passages_of(llm: LLM, count: int, tokens: int) -> list[list[int]]:
    """Different ones, of so many tokens each: the corpus begins anew with other sentences when it is at its end."""
    sentences, rng = list(shipped_corpus().sentences), random.Random(1)
    encode, made = llm.get_tokenizer().encode, list[list[int]]()
    ids: list[int] = []
    while len(made) < count:
        ids += encode(" " + rng.choice(sentences), add_special_tokens=False)
        if len(ids) >= tokens:
            made.append(ids[:tokens])
            ids = []
    return made


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """(seconds, CPU seconds)"""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall_s, time.process_time() - cpu_s


def materialised(llm: LLM, passages: Passages) -> dict[str, Any]:
    computed = 0

    def add() -> None:
        nonlocal computed
        computed = sum(each.computed for each in llm.chunks.add(passages))
        llm.engine.tiers.flush(600)

    seconds, cpu_s = timed(add)
    (disk,) = llm.engine.tiers.stats().values()
    return {
        "seconds": seconds,
        "cpu_s": cpu_s,
        "tokens": computed,
        "tokens_per_s": computed / seconds,
        "disk_bytes": disk.used_bytes,
        "missed_pages": disk.missed_pages,
    }


def brought(llm: LLM, passages: Passages, rounds: int, together: int) -> dict[str, Any]:
    """``loaded`` and ``computed``: medians of (seconds, CPU seconds)."""
    rng, taken = random.Random(2), dict[str, list[tuple[float, float]]](loaded=[], computed=[])
    for number in range(rounds):
        chosen = rng.sample(list(passages), together)
        order = [("loaded", ALONE), ("computed", COMPUTED)]
        for name, cache in order if number % 2 else order[::-1]:
            llm.engine.ledger.reset()  # RAM alone
            taken[name].append(timed(partial(llm.chunks.compute, chosen, cache, _ignored)))
    middle = {name: [statistics.median(each[n] for each in pairs) for n in range(2)] for name, pairs in taken.items()}
    (loaded_s, loaded_cpu_s), (computed_s, computed_cpu_s) = middle["loaded"], middle["computed"]
    return {
        "loaded_s": loaded_s,
        "loaded_cpu_s": loaded_cpu_s,
        "computed_s": computed_s,
        "computed_cpu_s": computed_cpu_s,
        "time_share": loaded_s / computed_s,
        "cpu_share": loaded_cpu_s / computed_cpu_s,
        "loaded_bytes": sum(level.loaded_bytes for level in llm.engine.tiers.levels),
    }


def _ignored(number: int, output: object) -> None:
    """Only its KV was wanted."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    for name, default in (("passages", 500), ("tokens", 256), ("rounds", 20), ("together", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--kv-bytes", default="256MiB")
    parser.add_argument("--directory", type=Path, help="on the disk to measure; a temporary one unless told")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.directory) as directory:
        tiers = TierConfig(cache_dir=directory, disk_bytes="64GiB")
        with LLM(asked.model, kv_bytes=asked.kv_bytes, tiers=tiers) as llm:
            passages = passages_of(llm, asked.passages, asked.tokens)
            note(f"{len(passages)} passages of {asked.tokens} tokens are computed")
            result = {"machine": processor(), "model": asked.model, "added": materialised(llm, passages)}
        with LLM(asked.model, kv_bytes=asked.kv_bytes, tiers=tiers) as llm:
            found = [llm.chunks.find(passage) for passage in passages]
            result["found_after_restart"] = sum(each is not None and each.kept for each in found)
            note(f"{asked.together} of them are loaded and computed, {asked.rounds} times")
            result["brought"] = brought(llm, passages, asked.rounds, asked.together)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
