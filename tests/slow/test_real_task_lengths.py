"""Lengths of the offline tasks in the tokens of real models."""

from __future__ import annotations

import pytest

from kvloom.eval.task import Task
from kvloom.eval.tasks import make_tasks
from kvloom.model.text.tokenizer import Tokenizer, load_tokenizer
from offline_tasks import names, write_files
from real_models import manifest_of

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", params=["smollm2-135m-instruct", "gemma-3-270m"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return load_tokenizer(manifest_of(request.param))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Task]:
    return make_tasks(write_files(tmp_path_factory.mktemp("questions")))


@pytest.mark.parametrize("length", [1024, 4096])
@pytest.mark.parametrize("name", names())
def test_prompts_are_within_two_percent_of_the_length_and_never_over(
    tokenizer: Tokenizer, tasks: dict[str, Task], name: str, length: int
) -> None:
    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False))

    calls = 0

    def counted(text: str) -> int:
        nonlocal calls
        calls += len(text) > 1000
        return count(text)

    (sample,) = tasks[name].samples(length=length, count=1, seed=1, text_length=counted)
    assert calls <= 32
    longest = max(count(turn.question + sample.answer_prefix) + turn.max_new_tokens for turn in sample.turns)
    apart = len(tokenizer.encode(sample.context)) + longest
    assert 0.98 * length <= apart <= length
    turn = max(sample.turns, key=lambda turn: count(turn.question))
    joined = len(tokenizer.encode(sample.context + turn.question + sample.answer_prefix)) + turn.max_new_tokens
    assert joined <= length
