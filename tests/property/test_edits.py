"""Edits of contexts: whatever is done to one, its parts say where its tokens come from; and parts found by content."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
import tiny_decoder
from fused_in_torch import full_prefill, fused_prefill
from kvloom.engine.aligned import ANCHOR, Part, aligned
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.edits import Edit
from kvloom.engine.params import SamplingParams
from kvloom.errors import RequestError
from kvloom.policy.fusion import fusion_of

SCORED = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True)
MODEL = tiny_decoder.decoder((None,) * 3, activations="float32")


def words(text: str) -> list[int]:
    return [ord(character) % 90 + 1 for character in text]


class Plain:
    """The same edits of a list."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = list(tokens)

    def replace(self, start: int, stop: int, text: list[int]) -> None:
        self.tokens[start:stop] = text

    def move(self, start: int, stop: int, to: int) -> None:
        moved = self.tokens[start:stop]
        rest = self.tokens[:start] + self.tokens[stop:]
        at = to if to <= start else to - (stop - start)
        self.tokens = rest[:at] + moved + rest[at:]


@st.composite
def edits(draw: Any, tokens: list[int], most: int = 5) -> tuple[Edit, Plain]:
    edit, plain = Edit.of(tokens, words), Plain(tokens)
    for _ in range(draw(st.integers(0, most))):
        start, stop = sorted(draw(st.tuples(*[st.integers(0, len(edit))] * 2)))
        match draw(st.sampled_from(["delete", "replace", "insert", "move", "append"])):
            case "delete" if stop - start < len(edit):
                edit = edit.delete(start, stop)
                plain.replace(start, stop, [])
            case "replace":
                text = draw(st.lists(st.integers(1, 96), min_size=1, max_size=20))
                edit = edit.replace(start, stop, text)
                plain.replace(start, stop, text)
            case "insert":
                edit = edit.insert(start, "hello")
                plain.replace(start, start, words("hello"))
            case "append":
                edit = edit.append([7, 8])
                plain.tokens += [7, 8]
            case "move":
                to = draw(st.sampled_from([*range(start + 1), *range(stop, len(edit) + 1)]))
                edit = edit.move(start, stop, to=to)
                plain.move(start, stop, to)
    return edit, plain


CONTEXT = tiny.random_prompt(120, 3)


def assert_of(parts: tuple[Part, ...], earlier: list[int], tokens: list[int]) -> None:
    """Parts are the tokens, and those that say so stand in the earlier text."""
    assert [token for part in parts for token in part.tokens] == tokens
    for part in parts:
        if part.start is not None:
            assert earlier[part.start : part.start + len(part.tokens)] == list(part.tokens)


@given(edits(CONTEXT))
def test_edits_are_those_of_a_list(made: tuple[Edit, Plain]) -> None:
    edit, plain = made
    assert edit.tokens == plain.tokens == edit.prompt["prompt_token_ids"]
    assert len(edit) == len(plain.tokens)
    assert_of(edit.parts, CONTEXT, plain.tokens)


@given(edits(CONTEXT))
def test_documents_are_parts_behind_the_first_edit(made: tuple[Edit, Plain]) -> None:
    edit, plain = made
    cache = edit.reusing(fusion_of("reuse"), CacheParams(salt="mine"))
    assert cache.salt == "mine"
    assert (cache.fusion is None) == (cache.source is None) == (not cache.documents)
    if cache.source is None:
        return
    for (start, stop), at in zip(cache.documents, cache.source.starts, strict=True):
        assert stop - start >= 16
        assert stop < len(plain.tokens)
        assert CONTEXT[at : at + stop - start] == plain.tokens[start:stop]
    first = cache.documents[0][0]
    assert first == 0 or cache.source.starts[0] != first or plain.tokens[:first] != CONTEXT[:first]


@given(edits(CONTEXT))
def test_by_content_as_much_is_found(made: tuple[Edit, Plain]) -> None:
    edit, plain = made
    parts = aligned(CONTEXT, plain.tokens)
    assert_of(parts, CONTEXT, plain.tokens)
    assert Edit.of(CONTEXT, words).into(plain.tokens).tokens == plain.tokens
    told = sum(len(part.tokens) for part in edit.parts if part.start is not None and len(part.tokens) >= ANCHOR)
    found = sum(len(part.tokens) for part in parts if part.start is not None)
    assert found >= told - 2 * ANCHOR * len(edit.parts)  # where parts that are not of the context happen to be alike


@settings(max_examples=15)
@given(edits(CONTEXT, most=3), st.sampled_from(["reuse", "epic", "recompute"]))
def test_whatever_was_edited_the_engine_does_what_the_reference_does(made: tuple[Edit, Plain], name: str) -> None:
    edit = made[0].append([5, 6, 7])
    engine = tiny.make_engine(model=MODEL, kv_bytes="4MiB", step_tokens=48)
    engine.intake.worth = lambda cache, prompt_tokens: True
    tiny.run(engine, {"earlier": CONTEXT}, SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True))
    fusion = fusion_of(name)
    cache = edit.reusing(fusion)
    done = tiny.run(engine, {"edited": edit.tokens}, SCORED, cache=cache)["edited"]
    if cache.fusion is None:
        expected = full_prefill(MODEL, edit.tokens)
    else:
        expected = fused_prefill(MODEL, edit.tokens, cache.documents, fusion, source=cache.source)
        assert done.updates[-1].metrics.fused is not None
    assert done.tokens[0] == expected.greedy(3)
    assert engine.ledger.held_pages == 0


@pytest.mark.parametrize("tokens", [[1] * 3000, [*range(1, 40)] * 60], ids=["one", "many"])
def test_texts_that_repeat_themselves(tokens: list[int]) -> None:
    changed = [*tokens[:700], 9, 9, *tokens[900:]]
    assert_of(aligned(tokens, changed), tokens, changed)
    assert sum(len(part.tokens) for part in aligned(tokens, changed) if part.start is None) <= 2


def test_spans_that_there_are_not() -> None:
    edit = Edit.of(CONTEXT, words)
    for ask in (
        lambda: edit.delete(-1, 3),
        lambda: edit.delete(4, 3),
        lambda: edit.replace(0, 121, "x"),
        lambda: edit.insert(121, "x"),
        lambda: edit.move(0, 5, to=121),
        lambda: edit.move(0, 5, to=3),
    ):
        with pytest.raises(RequestError):
            ask()


def test_nothing_to_reuse() -> None:
    edit = Edit.of(CONTEXT, words)
    for same in (
        edit,
        edit.append("more"),
        edit.delete(100, 120),
        edit.delete(50, 118),
        Edit.of([], words).append("x"),
    ):
        assert same.reusing(fusion_of("reuse")) == CacheParams()
