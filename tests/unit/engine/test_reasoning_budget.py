"""Reasoning that may not get longer than so many tokens, over a tiny model that would say anything."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from kvloom.engine.params import SamplingParams
from kvloom.engine.reasoning import ReasoningBudget, ReasoningForm, ReasoningLimit, ReasoningTokens
from kvloom.engine.structured import StructuredOutputsParams
from kvloom.errors import ParamsError
from tiny import CharTokenizer, Done, drain, make_engine, random_prompt, run
from trained_tokenizer import trained_tokenizer

THINK = ReasoningForm("<t>", "</t>")
END = "</t>"


def params(tokens: int | None, inside: bool | None = True, **more: Any) -> SamplingParams:
    budget = None if tokens is None else ReasoningBudget(tokens, THINK, inside)
    return SamplingParams(**{"max_tokens": 40, "ignore_eos": True, "temperature": 0.0, "reasoning": budget} | more)


def one(wanted: SamplingParams, engine: Any = None) -> Done:
    return run(engine or make_engine(), {"r": random_prompt(20, 1)}, wanted)["r"]


@pytest.mark.parametrize("how", [{}, {"temperature": 1.0, "seed": 3}, {"temperature": 0.0, "repetition_penalty": 1.3}])
@pytest.mark.parametrize("tokens", [0, 1, 7, 30])
def test_it_ends_after_so_many_tokens_which_are_those_without_a_limit(tokens: int, how: dict[str, Any]) -> None:
    free, held = one(params(None, **how)).text[0], one(params(tokens, **how)).text[0]
    assert END not in free
    assert held[:tokens] == free[:tokens]
    assert held[tokens : tokens + len(END)] == END
    assert len(held) == 40


def test_what_follows_is_what_the_model_says_after_that_text() -> None:
    held = one(params(7))
    prompt, answer = random_prompt(20, 1), held.tokens[0]
    rest = run(make_engine(), {"r": prompt + answer[:11]}, params(None, max_tokens=29))["r"]
    assert rest.tokens[0] == answer[11:]


@pytest.mark.parametrize("tokens", [2, 5])
def test_it_is_counted_from_the_opening_mark_on(tokens: int) -> None:
    limit = ReasoningLimit.of(ReasoningBudget(tokens, THINK), CharTokenizer())
    ids = CharTokenizer().encode(" <t>abcdefghij")
    while limit.next is None:
        limit.take(ids.pop(0))
    assert len(ids) == 10 - tokens
    for character in END:
        assert limit.next == ord(character) - 32
        limit.take(limit.next)
    assert limit.over
    assert limit.next is None


@pytest.mark.parametrize("said", ["abc", "<x>abc", "<t>ab</t>cdefghijkl"])
def test_nothing_is_ended_that_is_not_there_or_has_ended(said: str) -> None:
    limit = ReasoningLimit.of(ReasoningBudget(8, THINK), CharTokenizer())
    for token in CharTokenizer().encode(said):
        if not limit.over:
            assert limit.next is None
            limit.take(token)
    assert limit.over


def test_a_mark_that_was_begun_is_said_in_full() -> None:
    limit = ReasoningLimit.of(ReasoningBudget(3, THINK, True), CharTokenizer())
    text = ""
    for token in CharTokenizer().encode("a</bcdefg"):
        chosen = token if limit.next is None else limit.next
        if limit.over:
            break
        limit.take(chosen)
        text += CharTokenizer.token_text(chosen)
    assert text == f"a</{END}"


def test_tokens_of_several_characters_are_tokens() -> None:
    tokenizer = trained_tokenizer()
    limit = ReasoningLimit.of(ReasoningBudget(5, THINK, True), tokenizer)
    ids = tokenizer.encode("The quick brown fox, 123 jumps", False)
    seen = ReasoningTokens(THINK, tokenizer, True)
    while limit.next is None:
        limit.take(ids.pop(0))
    while (token := limit.next) is not None:
        seen.take((token,))
        limit.take(token)
    assert limit.over
    assert seen.inside is False
    assert seen.value == len(tokenizer.encode(END, False))


def test_every_continuation_and_every_row_of_a_batch_has_its_own() -> None:
    wanted = {
        "plain": params(None),
        "short": params(3, temperature=1.0, seed=5),
        "many": params(6, temperature=1.0, seed=7, n=3),
        "early": params(0, min_tokens=20, logit_bias={0: 5.0}, ignore_eos=False),
    }
    prompts = {name: random_prompt(15 + len(name), n) for n, name in enumerate(wanted)}
    alone = {name: run(make_engine(), {name: prompts[name]}, wanted[name])[name].tokens for name in wanted}
    engine = make_engine()
    for name, prompt in prompts.items():
        engine.submit(name, prompt, wanted[name])
    together = drain(engine, list(prompts))
    assert {name: done.tokens for name, done in together.items()} == alone
    for text in together["many"].text.values():
        assert text[6:].startswith(END)
    assert len(together["early"].tokens[0]) >= 20
    engine.check()


def test_a_preempted_answer_goes_on_where_it_was() -> None:
    prompts = {f"r{n}": random_prompt(60, n) for n in range(6)}
    wanted = params(50, temperature=1.0, seed=1, max_tokens=100)
    roomy, tight = make_engine(), make_engine(kv_bytes="256KiB")
    assert {name: done.text for name, done in run(tight, prompts, wanted).items()} == {
        name: done.text for name, done in run(roomy, prompts, wanted).items()
    }
    assert tight.stats().preemptions > 0


def test_what_may_not_be() -> None:
    for budget in (ReasoningBudget(-1, THINK), ReasoningBudget(3, ReasoningForm("", "x")), "5"):
        with pytest.raises(ParamsError) as error:
            SamplingParams(reasoning=budget)  # type: ignore[arg-type]
        assert error.value.param == "reasoning"
    with pytest.raises(ParamsError, match="no reasoning to bound"):
        dataclasses.replace(params(3), structured_outputs=StructuredOutputsParams(regex="a"))
