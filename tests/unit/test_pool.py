"""The team of threads behind the kernels: right under concurrency, after a fork, and with more threads than cores."""

from __future__ import annotations

import multiprocessing
import threading

import pytest
import torch

from in_torch import linear
from kvloom.model.weight import Weight


@pytest.fixture(scope="module")
def weight() -> Weight:
    values = torch.randn(256, 128, generator=torch.Generator().manual_seed(1))
    return Weight.pack(values.numpy().view("uint8").reshape(-1), "F32", (256, 128))


def rows(seed: int) -> torch.Tensor:
    return torch.randn(40, 128, generator=torch.Generator().manual_seed(seed))


def test_many_callers_at_once_get_their_own_answers(weight: Weight) -> None:
    expected = {seed: linear(rows(seed), weight, None, 1) for seed in range(8)}
    wrong: list[int] = []

    def call(seed: int) -> None:
        for _ in range(300):
            if not torch.equal(linear(rows(seed), weight, None, 3), expected[seed]):
                wrong.append(seed)

    callers = [threading.Thread(target=call, args=(seed,)) for seed in expected]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=120)
        assert not caller.is_alive(), "a caller hangs"
    assert wrong == []


@pytest.mark.parametrize("threads", [2, 16])
def test_any_number_of_threads_gives_the_same_bits(weight: Weight, threads: int) -> None:
    alone = linear(rows(3), weight, None, 1)
    assert all(torch.equal(linear(rows(3), weight, None, threads), alone) for _ in range(200))


def _child(weight: Weight, expected: torch.Tensor, answers: multiprocessing.SimpleQueue) -> None:
    answers.put(bool((linear(rows(5), weight, None, 2) == expected).all()))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="the platform has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_starts_its_own_team(weight: Weight) -> None:
    expected = linear(rows(5), weight, None, 2)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_child, args=(weight, expected, answers))
    child.start()
    child.join(timeout=60)
    assert child.exitcode == 0
    assert answers.get() is True
