"""Lengths of the offline tasks in the tokens of real models."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from kvloom.engine.engine import Engine
from kvloom.eval.frame import frame_of
from kvloom.eval.prompt import prompts_of
from kvloom.eval.subject import Subject
from kvloom.eval.task import Sample, Task
from kvloom.eval.tasks import TASKS, TaskFiles, make_tasks
from kvloom.eval.tasks.filler import noise_lines
from kvloom.eval.tasks.material import Material
from kvloom.eval.tasks.wording import RULER_LENGTHS, Asking
from kvloom.model.files.loading import load_tokenizer
from kvloom.model.text.tokenizer import Tokenizer
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
    asked = [turn.question + sample.answer_begins(n) for n, turn in enumerate(sample.turns)]
    longest = max(count(text) + turn.max_new_tokens for text, turn in zip(asked, sample.turns, strict=True))
    apart = len(tokenizer.encode(sample.context)) + longest
    assert 0.98 * length <= apart <= length
    text, turn = max(zip(asked, sample.turns, strict=True), key=lambda pair: count(pair[0]))
    assert len(tokenizer.encode(sample.context + text)) + turn.max_new_tokens <= length


AS_LONG_AS: dict[str, tuple[int, int]] = {
    "one": (27, 31),
    "many": (27, 32),
    "tracking": (20, 59),
    "common": (29, 34),
    "frequent": (24, 47),
    "documents": (31, 32),
}
"""Tokens before the context, and of question and answer prefix, in RULER's own words (synthetic/constants.py)."""
NEEDLE = 21
NOISE = 25


@pytest.fixture(scope="module")
def smollm2() -> Tokenizer:
    return load_tokenizer(manifest_of("smollm2-135m-instruct"))


@pytest.mark.parametrize("name", AS_LONG_AS)
def test_the_long_wording_is_as_long_as_the_authors(smollm2: Tokenizer, name: str) -> None:
    asking: Asking = getattr(RULER_LENGTHS, name)
    filled = {"kind": "number", "keys": "amber-anchor", "value": "12345", "count": "5", "question": "Who?"}
    found = [
        len(smollm2.encode(text.format(**filled), add_special_tokens=False))
        for text in (asking.opening, asking.question + asking.prefix)
    ]
    assert found == pytest.approx(AS_LONG_AS[name], abs=2)
    needle = RULER_LENGTHS.needle.format(kind="number", key="amber-anchor", value="1234567")
    assert len(smollm2.encode(needle, add_special_tokens=False)) == NEEDLE
    assert len(smollm2.encode(noise_lines(5)[0] + "\n", add_special_tokens=False)) == pytest.approx(NOISE, abs=1)


def test_as_many_needles_and_words_fill_a_length_as_the_authors_have(smollm2: Tokenizer) -> None:
    """166 needles, and 36 rare words, in 4,096 tokens: so many the authors' generator has."""
    tasks = make_tasks(TaskFiles(), Material(wording="ruler"))

    def samples(name: str) -> list[Sample]:
        return list(
            tasks[name].samples(length=4096, count=2, seed=1, text_length=lambda t: len(smollm2.encode(t, False)))
        )

    for sample in samples("niah_multikey_2"):
        assert len(RULER_LENGTHS.needles_in(sample.context)) == pytest.approx(166, rel=0.03)
    for sample in samples("cwe"):
        assert 36 <= sample.facts["other_words"] <= 48  # our words have a tenth fewer tokens than theirs


def test_a_chat_has_the_tokens_that_its_template_writes(smollm2: Tokenizer) -> None:
    """The oracle is the whole chat in one piece: what is compressed, and what is asked, are cut from it."""
    subject = Subject("smollm2", smollm2, cast(Engine, SimpleNamespace(max_len=8192)))
    frame = frame_of(subject)
    assert frame is not None
    (sample,) = TASKS["niah"].samples(length=512, count=1, seed=1, text_length=subject.text_length)
    (prompt,) = prompts_of(TASKS["niah"], sample, subject, frame)
    content = sample.context + sample.turns[0].question.rstrip()
    whole = smollm2.chat_prompt([{"role": "user", "content": content}]) + sample.answer_begins(0)
    assert prompt.ids == smollm2.encode(whole, add_special_tokens=False)
    assert smollm2.decode(prompt.context_ids, skip_special_tokens=False) == frame.header + sample.context
