"""The claim's situations on a tiny random model, and that they would notice wrong KV."""

from __future__ import annotations

import random

import numpy as np
import pytest

from kvloom.engine.engine import Engine
from kvloom.engine.params import SamplingParams
from kvloom.errors import EvalError
from kvloom.eval.drive import Answer, run_one
from kvloom.eval.trust import situations
from kvloom.eval.trust.matrix import examine, setting_of
from kvloom.eval.trust.situations import SITUATIONS, Cell, Setting
from tiny import VOCAB, make_engine
from toy_tasks import tiny_subject

WINDOWS = {"dense": (None, None), "hybrid": (None, 24)}


def setting(windows: tuple[int | None, ...]) -> Setting:
    text = random.Random(3).choices(range(1, VOCAB), k=400)
    return Setting(lambda kv_bytes: make_engine(windows, kv_bytes=kv_bytes), text, 96, 96, new_tokens=8, roomy="4MiB")


@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS)
def test_every_situation_holds(situation, windows) -> None:
    cell = situation(setting(windows))
    assert cell.identical
    assert 0 < cell.cached_tokens < cell.prompt_tokens


@pytest.mark.parametrize("name", ["page-aligned", "ragged-tail", "hole-in-the-middle", "fork", "after-preemption"])
def test_wrong_bytes_in_the_cache_are_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def scribbling(engine: Engine, prompt: list[int], params: SamplingParams) -> Answer:
        answer = run_one(engine, prompt, params)
        floats = engine.ledger.arena.memory.view(np.float32)
        floats[:] = np.random.default_rng(1).standard_normal(floats.size, np.float32)
        return answer

    monkeypatch.setattr(situations, "run_one", scribbling)
    run_all = situations.run_all

    def scribbling_all(engine: Engine, prompts: list[list[int]], params: SamplingParams) -> list[Answer]:
        answers = run_all(engine, prompts, params)
        engine.ledger.arena.memory.fill(0)
        return answers

    monkeypatch.setattr(situations, "run_all", scribbling_all)
    assert not SITUATIONS[name](setting((None, None))).holds


def test_a_cell_without_a_hit_does_not_hold() -> None:
    assert not Cell(identical=True, cached_tokens=0, prompt_tokens=9).holds


@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
def test_the_matrix_fits_itself_to_a_model(windows) -> None:
    heard = []
    subject = tiny_subject(windows)
    cells = examine(setting_of(subject), lambda name, cell: heard.append(name))
    assert list(cells) == heard == list(SITUATIONS)
    assert all(cell.holds for cell in cells.values())
    assert subject.engine.steps == 0  # the user's own engine is not disturbed


def test_a_model_with_hardly_any_context_is_refused() -> None:
    subject = tiny_subject()
    subject.engine.context_limit = 128
    with pytest.raises(EvalError, match="`tiny` with 128 tokens of context is too short"):
        setting_of(subject)
