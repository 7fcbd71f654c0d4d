"""Contexts and continuations are cut where lm-evaluation-harness cuts them."""

from __future__ import annotations

import re

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from kvloom.eval.likelihood import likelihoods
from kvloom.eval.pairs import cut_left, encode_pair, encode_text, first_token, score_pairs
from kvloom.model.text.rules import TextRules
from kvloom.model.text.tokenizer import Tokenizer
from tiny import CharTokenizer, make_engine, random_prompt

MERGES = [(":", "Ċ"), ("Ċ", "4"), ("Ġ", "Ġ"), ("a", "b"), ("b", "a"), ("Ġ", "a"), (":", "a"), ("Ċ", "Ċ")]


def make(with_bos: bool) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    pieces = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in MERGES)]
    backend = tokenizers.Tokenizer(models.BPE({piece: n for n, piece in enumerate(pieces)}, MERGES))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True) for text in ("<s>", "</s>")])
    if with_bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return Tokenizer(backend, TextRules((1,), 0, {}, None), "test"), backend


TOKENIZERS = {"bos": make(True), "no bos": make(False)}
every_tokenizer = pytest.mark.parametrize(("tokenizer", "backend"), TOKENIZERS.values(), ids=TOKENIZERS)
texts = st.text("ab4: \n\t\u00a0", max_size=8)


@every_tokenizer
@given(context=texts, continuation=texts)
def test_pairs_are_those_of_the_harness(
    tokenizer: Tokenizer, backend: tokenizers.Tokenizer, context: str, continuation: str
) -> None:
    """What the harness documents, said with the tokenizer's own library: trailing white space moves over, both parts
    are encoded as one text, and it is cut after as many tokens as the context alone has."""
    found = encode_pair(tokenizer, context, continuation)
    if not context:
        assert found == ([0], backend.encode(continuation, add_special_tokens=False).ids)
        return
    alone = backend.encode(re.sub(r"\s+\Z", "", context)).ids
    together = backend.encode(f"{context}{continuation}").ids
    assert found == (alone or [0], together[len(alone) :])


@every_tokenizer
def test_a_newline_belongs_to_the_answer(tokenizer: Tokenizer, backend: tokenizers.Tokenizer) -> None:
    context, continuation = encode_pair(tokenizer, "a:\n", "4")
    assert tokenizer.decode(context) == "a:"
    assert [tokenizer.token_text(token) for token in continuation] == ["4"], "`:\\n` is one token, and it is cut"
    context, continuation = encode_pair(tokenizer, "a\n", "4")
    assert [tokenizer.token_text(token) for token in continuation] == ["\n4"], "a token may span the seam"


def test_a_text_that_brings_its_first_token_gets_no_other() -> None:
    tokenizer, _ = TOKENIZERS["bos"]
    assert encode_text(tokenizer, "<s>ab") == encode_text(tokenizer, "ab")
    assert encode_pair(tokenizer, "<s>a", "b") == encode_pair(tokenizer, "a", "b")
    assert encode_pair(tokenizer, "", "<s>ab") == ([0], tokenizer.encode("ab", add_special_tokens=False))
    assert first_token(tokenizer) == 0
    assert first_token(CharTokenizer()) == 0


@given(before=st.integers(1, 12), after=st.integers(0, 12), limit=st.integers(1, 12))
def test_the_beginning_is_cut_at_the_models_context(before: int, after: int, limit: int) -> None:
    context, continuation = list(range(before)), list(range(100, 100 + after))
    kept, scored = cut_left((context, continuation), limit)
    if after <= limit:  # longer continuations the harness does not take
        whole = [*context, *continuation]
        assert [*kept, *scored] == whole[max(0, len(whole) - limit - 1) :]
        assert scored == continuation
    assert kept
    assert len(kept) + len(scored) - 1 <= limit
    assert continuation[len(continuation) - len(scored) :] == scored


def test_scores_come_in_their_order_and_nothing_is_certain() -> None:
    engine = make_engine()
    context, other = random_prompt(20, 1), random_prompt(9, 2)
    pairs = [(context, [5, 6]), (other, [7]), (context, []), ([3], []), (context, [8])]
    found = score_pairs(engine, pairs)
    assert [(one.logprob, one.greedy) for one in (found[2], found[3])] == [(0.0, True)] * 2
    assert [found[0], found[4]] == likelihoods(engine, context, [[5, 6], [8]])
    assert [found[1]] == likelihoods(engine, other, [[7]])
    assert score_pairs(engine, []) == []


@pytest.mark.parametrize(
    "pair",
    [("", ""), ("x", ""), ("", "y"), ("  \n", " "), (" ", ""), ("x" * 700, "y"), ("x", "y" * 700), ("", "y" * 700)],
)
def test_nothing_ends_a_run(pair: tuple[str, str]) -> None:
    engine, tokenizer = make_engine(), CharTokenizer()
    keep = {"\n": " "}  # the tiny model knows no newline
    texts = [text.translate(str.maketrans(keep)) for text in pair]
    (found,) = score_pairs(engine, [cut_left(encode_pair(tokenizer, *texts), engine.context_limit)])
    assert found.logprob <= 0.0


def test_half_characters_are_replaced() -> None:
    tokenizer, _ = TOKENIZERS["no bos"]
    assert encode_text(tokenizer, "a\ud83d") == encode_text(tokenizer, "a?")
    assert encode_pair(tokenizer, "", "\ud83d")[1] == encode_text(tokenizer, "?")
