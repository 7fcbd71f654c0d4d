"""Bytes of a context are taken when it is compressed, not when its answer has ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvloom.eval.answering import EngineAnswers
from kvloom.eval.policy import EXACT, Policy, parse_policy
from kvloom.eval.records import Row, RunStore
from kvloom.eval.run import Work, run, settings_of
from kvloom.eval.single import SingleSequence
from tiny import random_prompt
from toy_tasks import ToyNeedle, tiny_subject


@pytest.mark.parametrize("windows", [(None, None), (40, None), (24, 24)])
@pytest.mark.parametrize("tokens", [1, 16, 39, 41, 90])
def test_an_exact_context_takes_what_a_sequence_of_it_holds(windows: tuple[int | None, ...], tokens: int) -> None:
    engine = tiny_subject(windows).engine
    sequence = SingleSequence(engine, tokens)
    sequence.append(random_prompt(tokens, 1))
    assert engine.layout.dense_bytes(tokens) == sequence.held_bytes


def answered(directory: Path, policy: Policy, new_tokens: int) -> list[Row]:
    subject = tiny_subject()
    work = Work(tasks=(ToyNeedle(num_turns=2, new_tokens=new_tokens),), lengths=(90 + new_tokens,), count=3, seed=1)
    with RunStore(directory, settings_of(subject, policy, seed=1)) as store:
        run(work, subject, EngineAnswers(subject, 4, policy), store)
        return list(store.rows.values())


@pytest.mark.parametrize("policy", [EXACT, parse_policy("random:ratio=0.75")])
def test_a_long_answer_adds_nothing_to_its_contexts_bytes(tmp_path: Path, policy: Policy) -> None:
    short, long = answered(tmp_path / "short", policy, 3), answered(tmp_path / "long", policy, 60)
    sizes = {row.context_bytes_per_token for row in (*short, *long)}
    assert len(sizes) == 1  # every turn sees the context as it was compressed, whatever was answered before
    if policy.name == "random":
        assert max(row.kv_bytes_per_token for row in long) > 1.2 * max(sizes)


def test_a_context_of_which_a_quarter_is_kept_takes_less(tmp_path: Path) -> None:
    (exact, *_), (damaged, *_) = (
        answered(tmp_path / "a", EXACT, 3),
        answered(tmp_path / "b", parse_policy("random:ratio=0.75"), 3),
    )
    assert exact.context_bytes_per_token is not None
    assert damaged.context_bytes_per_token is not None
    assert damaged.context_bytes_per_token < 0.6 * exact.context_bytes_per_token
