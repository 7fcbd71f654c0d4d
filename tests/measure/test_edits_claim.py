"""The claim ``edits`` in small: it measures what it says, and fails when that is false."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import bench.edited
import tiny
import tiny_decoder
from bench.claims import edits
from bench.edited import COLOURS, context, encoded, forks_of
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.edits import Edit
from kvloom.policy.fusion import fusion_of

MODEL = tiny_decoder.decoder((None,) * 3, activations="float32", context_length=2048)
SIZE = edits.Size(length=480, deleted=90, contexts=1, colours=2, forks=3)


class TinyEngines:
    """Every character is a token."""

    loaded = SimpleNamespace(
        tokenizer=SimpleNamespace(encode=lambda text, add_special_tokens: [ord(each) % 96 + 1 for each in text])
    )

    def make(self, kv_bytes: str) -> tiny.Engine:
        engine = tiny.make_engine(model=MODEL, kv_bytes="16MiB")
        engine.intake.worth = lambda cache, prompt_tokens: True
        return engine


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(bench.edited, "real_text", lambda: "It was a quiet night, and nobody spoke of it. " * 40)
    return TinyEngines()


def test_a_context_is_the_same_but_for_what_is_deleted(engines: Any) -> None:
    red, green = (context(engines, 480, 90, 7, colour) for colour in COLOURS[:2])
    assert red.tokens != green.tokens
    rests = [it.tokens[: it.tool[0]] + it.tokens[it.tool[1] :] for it in (red, green)]
    assert rests[0] == rests[1]
    assert red.questions == green.questions
    forks = forks_of(engines, red, 3)
    tail = red.tokens[-300:]
    assert all("".join(map(chr, tail)) in "".join(map(chr, fork.tokens)) for fork in forks)
    assert len({tuple(fork.tokens[:60]) for fork in forks}) == 3


def test_exact_mode_is_compared_with_cold_requests(engines: Any) -> None:
    deleted = edits.Deleted()
    deleted.add(engines, context(engines, 480, 90, 1))
    assert deleted.exact
    heard = deleted.ways["reuse"]
    assert len(heard.same) == 4
    assert len(heard.kls) == 4 * 6 + 24
    assert max(heard.kls) > 0  # or nothing is reused
    names = [check.name for check in deleted.checks()]
    assert len(names) == len(set(names)) == 7


def test_an_answer_that_differs_is_found() -> None:
    heard = edits.Heard()
    question = edits.Question("?", 1)
    one, other = ([0.0, 3.0], [3.0, 0.0])
    exact = edits.Said([1], [tiny_logits(one)], timed())
    heard.add(exact, edits.Said([1], [tiny_logits(one)], timed()), question)
    heard.add(exact, edits.Said([1], [tiny_logits(other)], timed()), question)
    assert heard.same == [True, False]
    assert heard.kls[0] == 0
    assert heard.kls[1] > 1


def tiny_logits(values: list[float]) -> Any:
    import numpy as np

    return np.array(values, np.float32)


def timed() -> Any:
    return SimpleNamespace(ttft_s=1.0)


def test_a_trace_of_what_was_deleted_is_found(engines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    alike, right = edits.guessed(engines, SIZE, number=3)
    assert alike
    assert right["exact"] == 0.5
    monkeypatch.setattr(edits, "without_tool", lambda engines, it, question: whole(engines, it, question))
    assert not edits.guessed(engines, SIZE, number=3)[0]


def whole(engines: Any, it: Any, question: Any) -> Edit:
    """Nothing is deleted."""
    return Edit.of(it.tokens, lambda text: encoded(engines, text)).append(bench.edited.asked(engines, question))


def test_forks_that_share_nothing_are_found(engines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    checks, figures = edits.forked(engines, SIZE)
    shared = next(check for check in checks if "memory" in check.name).value
    assert figures["fork_reuse_kl"] >= 0
    monkeypatch.setattr(edits, "reusing", lambda edit, text: CacheParams(read=False, write=False))
    checks, _ = edits.forked(engines, SIZE)
    alone = next(check for check in checks if "memory" in check.name)
    assert shared < alone.value
    assert alone.value > 1.8
    assert not alone.holds
    assert fusion_of("reuse").ratio == 0
