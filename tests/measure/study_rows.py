"""Records of methods that never ran, with scores that are known."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bench.side_by_side import JUDGE_SEED, SEED, name_of
from kvloom.eval.policy import EXACT, parse_policy
from kvloom.eval.records import Row, RunStore, Settings

SETTINGS = Settings(
    model="m",
    weights_id="w",
    kv_dtype="float16",
    activations="int8",
    policy="exact",
    params={},
    protocol="query-agnostic",
    seed=0,
    in_flight=8,
    threads=1,
    versions={"tasks": "1"},
)
COST = {"ttft_s": 1.0, "ms_per_token": 1.0, "kv_bytes_per_token": 1.0, "peak_kv_bytes": 1}


def rows_of(words: str, right: float, seed: int = SEED, task: str = "niah", length: int = 2048) -> list[Row]:
    """Forty answers, of which this share is right."""
    policy = EXACT if words == "exact" else parse_policy(words)
    settings = dataclasses.replace(SETTINGS, policy=policy.name, params=dict(policy.params), seed=seed)
    return [
        Row(
            settings=settings,
            task=task,
            group="g",
            length=length,
            index=n,
            turn=0,
            score=float(n < 40 * right),
            control=0.0,
            output=f"{n < 40 * right}",
            answers=(str(n),),
            depth=None,
            prompt_tokens=9,
            answer_tokens=1,
            cached_tokens=0,
            computed_tokens=9,
            document=f"d{n}",
            context_bytes_per_token=1.0,
            **COST,
        )
        for n in range(40)
    ]


def filed(place: Path, scores: dict[str, float], lengths: tuple[int, ...] = (2048, 4096)) -> None:
    for words, right in scores.items():
        policy = EXACT if words == "exact" else parse_policy(words)
        for seed in (SEED, JUDGE_SEED) if words == "exact" else (SEED,):
            rows = [row for length in lengths for row in rows_of(words, right, seed, length=length)]
            canaries = rows_of(words, 0.0 if words != "exact" else 1.0, seed, "niah_multikey_3")
            with RunStore(place / name_of(policy) / f"answers-{seed}", rows[0].settings) as store:
                for row in [*rows, *canaries]:
                    store.append(row)
