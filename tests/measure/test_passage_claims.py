"""The claims ``matkv`` and ``sustained-reuse`` in small: they measure what they say, and fail when that is false."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tiny
import tiny_decoder
from bench.claims import matkv, sustained_reuse
from bench.materialise import materialised
from bench.passage_questions import FULL, Answered, Question, answered, question_over
from dict_tier import DictTier
from kvloom import LLM
from kvloom.engine.defaults import SamplingDefaults
from kvloom.engine.tiers import tiers as tiers_of

PASSAGES = [tiny.random_prompt(40, seed) for seed in range(8)]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Opens LLMs over a tiny engine that fuses in any case. ``bytes``: of KV."""
    monkeypatch.setattr(tiers_of, "_LEAST_PATIENCE_S", 60.0)

    def open_one(tier: DictTier, kv_bytes: int | str = "4MiB") -> LLM:
        engine = tiny.make_engine(model=tiny_decoder.decoder((None, None, None)), tiers=[tier], kv_bytes=kv_bytes)
        engine.intake.worth = lambda cache, prompt_tokens: True
        loaded = SimpleNamespace(engine=engine, tokenizer=tiny.CharTokenizer(), defaults=SamplingDefaults())
        monkeypatch.setattr("kvloom.engine.llm.build", lambda config: loaded)
        return LLM("tiny")

    return open_one


def short(llm: LLM, passages: Any, rng: random.Random, number: int) -> Question:
    """As ``question_over``, of few tokens."""
    tokens, documents = tiny.random_prompt(5, number), []
    for passage in passages:
        documents.append((len(tokens), len(tokens) + len(passage)))
        tokens = tokens + list(passage)
    return Question(tokens + tiny.random_prompt(9, 100 + number), tuple(documents))


def test_a_question_says_where_its_passages_are(opened: Any) -> None:
    llm = opened(DictTier())
    question = question_over(llm, PASSAGES[:2], random.Random(1), 3)
    assert [question.tokens[start:stop] for start, stop in question.documents] == PASSAGES[:2]
    assert question.fused("epic", read=False).fusion.name == "epic"
    other = question_over(llm, PASSAGES[:2], random.Random(2), 3)
    assert other.tokens[: other.documents[0][0]] != question.tokens[: question.documents[0][0]]


def test_passages_are_loaded_or_computed(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matkv, "question_over", short)
    tier = DictTier()
    llm = opened(tier)
    materialised(llm, PASSAGES)
    rounds = matkv.compared(llm, PASSAGES, matkv.Size(8, 40, 3, 4, 0))
    assert len(rounds) == 4
    assert all(each["fused"].found == each["reused"].found == 120 for each in rounds)
    assert all(each["full"].found == 0 for each in rounds)
    checks = {check.name: check for check in matkv.judged(rounds, 120)}
    assert checks["tokens of passages that came from disk"].value == 1.0
    assert checks["time"].value > 0
    question = short(llm, PASSAGES[:3], random.Random(0), 50)
    stored, anew = (answered(llm, question, question.fused(read=read), 6) for read in (True, False))
    assert stored.tokens == anew.tokens
    assert (stored.found, anew.found) == (120, 0)


def taken(seconds: float, found: int) -> Answered:
    return Answered([1], seconds, seconds, seconds, found)


@pytest.mark.parametrize(
    ("fused", "wrong"),
    [
        (taken(0.4, 100), []),
        (taken(0.6, 100), ["time", "CPU time"]),
        (taken(0.4, 99), ["tokens of passages that came from disk"]),
    ],
)
def test_matkv_notices(fused: Answered, wrong: list[str]) -> None:
    rounds = [{"full": taken(1.0, 0), "fused": fused, "reused": fused}] * 3
    assert [check.name for check in matkv.judged(rounds, 100) if not check.holds] == wrong


@pytest.mark.parametrize(
    ("lost", "differs", "faults", "wrong"),
    [
        (False, False, {"slow": 3}, []),
        (True, False, {}, ["passages after kills"]),
        (False, True, {}, ["right answers after kills"]),
        (False, False, {"corrupt": 1}, ["files and budget in order"]),
    ],
)
def test_matkv_notices_what_kills_have_done(
    lost: bool, differs: bool, faults: dict[str, int], wrong: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Opened:
        chunks = SimpleNamespace(find=lambda passage: SimpleNamespace(kept=not lost or passage != PASSAGES[0]))
        disk = SimpleNamespace(faults=faults, used_bytes=1, budget_bytes=2)
        tiers = SimpleNamespace(stats=lambda: {"disk": Opened.disk})
        engine = SimpleNamespace(check=lambda: None, tiers=tiers)

        def __enter__(self) -> type[Opened]:
            return Opened

        def __exit__(self, *raised: object) -> None: ...

    def answer(llm: object, question: Question, cache: Any, tokens: int) -> Answered:
        return dataclasses.replace(taken(1.0, 0), tokens=[int(differs and cache.read)])

    monkeypatch.setattr(matkv, "kill_one_that_adds", lambda *args: None)
    monkeypatch.setattr(matkv, "opened", lambda directory: Opened())
    monkeypatch.setattr(matkv, "question_over", short)
    monkeypatch.setattr(matkv, "answered", answer)
    checks = matkv.surviving(tmp_path, PASSAGES, matkv.Size(6, 40, 3, 1, 2))
    assert [check.name for check in checks if not check.holds] == wrong


def test_a_day_with_memory_for_some_of_the_passages(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sustained_reuse, "question_over", short)
    tier = DictTier()
    materialised(opened(tier), PASSAGES)
    llm = opened(tier, "640KiB")
    size = sustained_reuse.Size(8, 40, 2, 12, 4, 4, 2)
    asked = sustained_reuse.day(llm, PASSAGES, size)
    assert len(asked) == 12
    assert sum(each.full_s is not None for each in asked) == 6
    assert 0 < sum(each.loaded for each in asked) < sum(each.of for each in asked)
    checks, figures = sustained_reuse.judged(asked, size)
    assert len(figures["gains"]) == len(figures["from_disk"]) == 3
    assert len(checks) == 2
    llm.engine.check()


@pytest.mark.parametrize(
    ("speeds", "wrong"),
    [
        ([3.0, 3.0, 3.0, 3.0], []),
        ([3.0, 2.4, 3.0, 3.0], ["the slowest stretch"]),
        ([3.0, 3.0, 3.0, 2.7], ["the last 10"]),
    ],
)
def test_sustained_reuse_notices(speeds: list[float], wrong: list[str]) -> None:
    """Whatever the machine does: it is half as fast in the end."""
    size = sustained_reuse.Size(8, 40, 2, 40, 10, 10, 2)
    asked = [
        sustained_reuse.Asked(slow / speed, slow if n % 2 else None, 1, 2)
        for speed, slow in zip(speeds, (1.0, 1.0, 1.0, 2.0), strict=True)
        for n in range(10)
    ]
    checks, _ = sustained_reuse.judged(asked, size)
    assert [check.name for check in checks if not check.holds] == wrong


def test_the_full_prefill_leaves_nothing(opened: Any) -> None:
    llm = opened(DictTier())
    question = short(llm, PASSAGES[:2], random.Random(0), 1)
    answered(llm, question, FULL, 2)
    assert not llm.engine.ledger.index.entries
