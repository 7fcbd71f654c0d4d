"""Rows whose story is known: scores are given, everything else is plain."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from kvloom.eval.records import Row, Settings

SETTINGS = Settings(
    model="m",
    weights_id="ab" * 32,
    kv_dtype="float16",
    activations="int8",
    policy="exact",
    params={},
    protocol="query-agnostic",
    seed=1,
    in_flight=8,
    threads=2,
    versions={"kvloom": "1"},
)
DAMAGED = dataclasses.replace(SETTINGS, policy="random", params={"ratio": 0.5})
FLOOR = dataclasses.replace(SETTINGS, policy="keep_all")
SINK = dataclasses.replace(SETTINGS, policy="sink_recent", params={"ratio": 0.5})


def rows(
    task: str,
    scores: Sequence[float],
    *,
    length: int = 1024,
    control: float = 0.0,
    settings: Settings = SETTINGS,
    documents: Sequence[str] = (),
) -> list[Row]:
    """One row per score; the answers, and so the questions, depend on the task and the place only."""
    return [
        Row(
            settings=settings,
            task=task,
            group="ruler" if task.startswith("niah") else "other",
            length=length,
            index=index,
            turn=0,
            score=score,
            control=None if index == 0 else control,
            output="o",
            answers=(str(index),),
            depth=index / len(scores) if task.startswith("niah") else None,
            prompt_tokens=1000,
            answer_tokens=3,
            cached_tokens=250,
            computed_tokens=753,
            ttft_s=1.0,
            ms_per_token=20.0,
            kv_bytes_per_token=23040.0 if settings.policy == "exact" else 18432.0,
            peak_kv_bytes=2**20,
            context_bytes_per_token=23040.0 if settings.policy == "exact" else 11520.0,
            document=documents[index] if documents else "",
        )
        for index, score in enumerate(scores)
    ]


def seeded(settings: Settings, seed: int) -> Settings:
    """The same policy under another seed of its own."""
    return dataclasses.replace(settings, params={**settings.params, "seed": seed})
