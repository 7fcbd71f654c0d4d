"""Answers of a given form, over a tiny model that would say anything."""

from __future__ import annotations

import itertools
import json
import re
from functools import cache
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kvloom.engine.grammar import Constraint, Grammars
from kvloom.engine.params import SamplingParams
from kvloom.engine.sampling import Sampler
from kvloom.engine.structured import StructuredOutputsParams
from kvloom.errors import ParamsError, RequestError
from structured_cases import SCHEMAS
from tiny import VOCAB, CharTokenizer, Done, Engine, drain, make_engine, random_prompt, run
from trained_tokenizer import trained_tokenizer

Form = StructuredOutputsParams

DIGITS = Form(regex="[0-9]{3,6}")


def params(form: Form | None = None, **more: Any) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 400, "temperature": 1.0, "seed": 1, "structured_outputs": form} | more)


def one(engine: Engine, wanted: SamplingParams, seed: int = 1) -> Done:
    return run(engine, {"r": random_prompt(20, seed)}, wanted)["r"]


@pytest.mark.parametrize("name", [name for name in SCHEMAS if name != "unicode"])
def test_an_answer_has_the_form_of_its_schema(name: str) -> None:
    engine = make_engine()
    for seed in range(3):
        done = one(engine, params(Form(json=SCHEMAS[name]), seed=seed))
        assert done.reasons == {0: "stop"}
        jsonschema.Draft202012Validator(SCHEMAS[name]).validate(json.loads(done.text[0]))


@pytest.mark.parametrize("name", SCHEMAS)
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32))
def test_any_scores_make_an_answer_of_its_schema(name: str, seed: int) -> None:
    tokenizer, scores = trained_tokenizer(), np.random.default_rng(seed)
    constraint = _trained().of(Form(json=SCHEMAS[name])).constraint([0])
    wanted = SamplingParams(temperature=1.0, max_tokens=None)
    sampler, ids = Sampler.start(wanted, [1], [seed], constraint, [0]), [1]
    while not sampler.over and ids[-1] != 0 and len(ids) < 1000:
        ids.append(sampler.draw(scores.standard_normal(320).astype(np.float32)))
    assume(sampler.over or ids[-1] == 0)  # a key of any length may take any length
    text = tokenizer.decode(ids[1:])
    jsonschema.Draft202012Validator(SCHEMAS[name]).validate(json.loads(text))


@cache
def _trained() -> Grammars:
    return Grammars(trained_tokenizer(), 320)


def test_any_object_without_white_space() -> None:
    form = Form(json_object=True, disable_any_whitespace=True)
    text = one(make_engine(), params(form, max_tokens=60, logit_bias={93: 20.0})).text[0]
    assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_regex_choice_and_grammar(temperature: float) -> None:
    engine = make_engine()
    assert re.fullmatch("[0-9]{3,6}", one(engine, params(DIGITS, temperature=temperature)).text[0])
    texts = ["yes", 'no "way"', "maybe\\not"]
    assert one(engine, params(Form(choice=texts), temperature=temperature)).text[0] in texts
    for grammar in ('start: "a" B "c"\nB: /[xyz]+/', 'root ::= "a" [xyz]+ "c"'):
        text = one(engine, params(Form(grammar=grammar), temperature=temperature)).text[0]
        assert re.fullmatch("a[xyz]+c", text)


def test_an_answer_ends_only_where_its_form_may_end() -> None:
    engine = make_engine()
    wants_to_end = params(DIGITS, logit_bias={0: 100.0})
    assert re.fullmatch("[0-9]{3}", one(engine, wants_to_end).text[0].rstrip(" "))
    cannot_end = params(DIGITS, ignore_eos=True, logit_bias={0: 100.0})
    done = one(engine, cannot_end)
    assert re.fullmatch("[0-9]{6}", done.text[0])
    assert done.reasons == {0: "stop"}


def test_stop_tokens_are_ends_too() -> None:
    x = ord("x") - 32
    done = one(make_engine(), params(DIGITS, stop_token_ids=[x], logit_bias={x: 100.0}))
    assert re.fullmatch("[0-9]{3}", done.text[0])
    assert done.updates[-1].deltas[0].stop_reason == x


def test_stop_strings_cut_it() -> None:
    done = one(make_engine(), params(Form(regex="aaabbb"), stop=["ab"]))
    assert (done.text[0], done.reasons[0]) == ("aa", "stop")


@pytest.mark.parametrize("wanted", [{}, {"temperature": 0.0}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.2}])
@pytest.mark.parametrize("penalty", [{}, {"repetition_penalty": 1.5, "frequency_penalty": 1.0, "presence_penalty": -1}])
def test_it_goes_with_every_other_parameter(wanted: dict[str, Any], penalty: dict[str, Any]) -> None:
    done = one(make_engine(), params(Form(json=SCHEMAS["person"]), logprobs=2, **wanted, **penalty))
    jsonschema.validate(json.loads(done.text[0]), SCHEMAS["person"])
    scores = [score for update in done.updates for delta in update.deltas for score in delta.logprobs or ()]
    assert len(scores) == len(done.tokens[0])


def test_log_probabilities_are_those_of_the_raw_logits() -> None:
    engine, prompt = make_engine(), random_prompt(20, 1)
    free = run(engine, {"free": prompt}, SamplingParams(temperature=0.0, max_tokens=1, logprobs=VOCAB))["free"]
    held = run(engine, {"held": prompt}, params(DIGITS, temperature=0.0, logprobs=0))["held"]
    (all_scores,) = free.updates[-1].deltas[0].logprobs
    ((token, score),) = held.updates[0].deltas[0].logprobs[0].items()
    assert score.logprob == all_scores[token].logprob


def test_a_seed_says_it_all() -> None:
    forms = [one(make_engine(), params(Form(json=SCHEMAS["person"]), seed=5)).tokens[0] for _ in range(2)]
    assert forms[0] == forms[1]
    assert forms[0] != one(make_engine(), params(Form(json=SCHEMAS["person"]), seed=6)).tokens[0]


def test_every_row_of_a_batch_is_what_it_is_alone() -> None:
    wanted = {
        "plain": SamplingParams(temperature=0.0, max_tokens=30),
        "drawn": SamplingParams(temperature=1.0, seed=3, max_tokens=30),
        "object": params(Form(json=SCHEMAS["person"])),
        "digits": params(DIGITS, temperature=0.0),
        "many": params(DIGITS, n=3),
    }
    prompts = {name: random_prompt(15 + len(name), n) for n, name in enumerate(wanted)}
    alone = {name: run(make_engine(), {name: prompts[name]}, wanted[name])[name].tokens for name in wanted}
    engine = make_engine()
    for name, sampling in wanted.items():
        engine.submit(name, prompts[name], sampling)
    together = drain(engine, list(wanted))
    assert {name: done.tokens for name, done in together.items()} == alone


def test_every_continuation_has_a_grammar_of_its_own() -> None:
    done = one(make_engine(), params(Form(json=SCHEMAS["person"]), n=4))
    assert len({tuple(tokens) for tokens in done.tokens.values()}) == 4
    for text in done.text.values():
        jsonschema.validate(json.loads(text), SCHEMAS["person"])


def test_preemption_changes_nothing() -> None:
    form = params(Form(regex="[a-z]{60}"), n=2)
    prompts = {f"r{n}": random_prompt(40, n) for n in range(4)}
    roomy, tight = make_engine(), make_engine(kv_bytes="128KiB")
    expected = {name: one.tokens for name, one in run(roomy, prompts, form).items()}
    assert {name: one.tokens for name, one in run(tight, prompts, form).items()} == expected
    assert tight.stats().preemptions > 0


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (Form(json={"type": "foo"}), "Invalid type: foo"),
        (Form(json="{"), "cannot be held to"),
        (Form(json="[]"), "a JSON schema is an object"),
        (Form(regex="(a"), "unclosed group"),
        (Form(grammar="start: foo"), "unknown name"),
        (Form(json={"type": "array", "uniqueItems": True}), "uniqueItems"),
        (
            Form(json={"allOf": [{"anyOf": [{"required": [f"{i}{j}"]} for j in range(4)]} for i in range(8)]}),
            "too large",
        ),
    ],
)
def test_what_is_no_form_is_refused_before_anything_runs(form: Form, words: str) -> None:
    engine = make_engine()
    with pytest.raises(ParamsError, match=re.escape(words)) as caught:
        engine.submit("r", [1, 2], params(form))
    assert caught.value.param == "structured_outputs"
    assert not engine.has_work
    engine.check()


@pytest.mark.parametrize(
    ("draft", "tuples"),
    [
        ("http://json-schema.org/draft-07/schema#", "items"),
        ("https://json-schema.org/draft-07/schema", "items"),
        ("https://www.json-schema.org/draft-04/schema#", "items"),
        ("https://json-schema.org/draft/2020-12/schema", "prefixItems"),
        ("http://json-schema.org/draft/2020-12/schema#", "prefixItems"),
        ("http://json-schema.org/schema#", "prefixItems"),
    ],
)
def test_a_schema_is_of_the_draft_that_it_names(draft: str, tuples: str) -> None:
    """What says that an array begins with a number is another keyword in each."""
    schema = {"$schema": draft, "type": "array", tuples: [{"enum": [5]}], "minItems": 1, "maxItems": 1}
    assert one(make_engine(), params(Form(json=schema))).text[0].replace(" ", "") == "[5]"


def test_a_draft_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ParamsError, match=r"https://schemas\.invalid/mine"):
        _trained().of(Form(json={"$schema": "https://schemas.invalid/mine", "type": "null"}))


@pytest.mark.parametrize(
    ("schema", "words", "hint"),
    [
        ({"if": {}, "then": {}, "else": {}}, "`else`, `if`, `then` are not supported", "without `strict`"),
        ({"uniqueItems": True}, "`uniqueItems` is not supported", "without `strict`"),
        ({"oneOf": [{"minimum": 1}, {"maximum": 5}]}, "`oneOf` is not supported where a value might fit", "`anyOf`"),
        ({"$ref": "https://schemas.invalid/x"}, "a reference leads to `https://schemas.invalid/x`", "`$defs`"),
        ({"format": "fruit"}, "the format `fruit` is not supported", "without `strict`"),
    ],
)
def test_a_refusal_speaks_of_the_schema_and_of_what_to_do(schema: dict[str, Any], words: str, hint: str) -> None:
    with pytest.raises(ParamsError) as caught:
        _trained().of(Form(json=schema))
    assert str(caught.value).startswith(f"the form of the answer cannot be held to: {words}")
    assert caught.value.hint is not None
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "form",
    [
        {"grammar": "start: a0\n" + "\n".join(f'a{i}: a{i + 1} | "x"' for i in range(3000)) + '\na3000: "y"'},
        {"grammar": "start: a0\n" + "\n".join(f'a{i}[capture="c"]: a{i + 1}' for i in range(3000)) + '\na3000: "y"'},
        {"json": {"$ref": "#/$defs/0", "$defs": {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(3000)}}},
        {
            "json": json.dumps({"$defs": {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(600)}}).replace(
                "$r", "\\u0024r"
            )
        },
    ],
)
def test_chains_that_the_library_would_follow_too_far_are_refused(form: dict[str, Any]) -> None:
    with pytest.raises(ParamsError, match="more than 500 rules or references"):
        Form(**form)


def test_what_cannot_be_held_to_may_be_passed_over() -> None:
    form = Form(json={"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "maxItems": 2}, lenient=True)
    assert isinstance(json.loads(one(make_engine(), params(form)).text[0]), list)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"regex": "a", "choice": ["b"]},
        {"choice": []},
        {"choice": [""]},
        {"choice": ["a"] * 1001},
        {"regex": ""},
        {"json": 3},
        {"json": {"enum": ["x" * 300_000]}},
    ],
)
def test_no_form_and_two_forms_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ParamsError):
        Form(**said)


def test_a_form_that_becomes_too_complex_ends_its_own_request(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, allowed = make_engine(), Constraint.allowed

    def limited(self: Constraint) -> Any:
        return (
            self.take(VOCAB - 1) if next(masks) > 3 else allowed(self)
        )  # not allowed by the form: the library objects

    engine.submit("hard", random_prompt(10, 1), params(Form(regex="[a-z]{30}")))
    masks = itertools.count()
    monkeypatch.setattr(Constraint, "allowed", limited)
    engine.submit("plain", random_prompt(10, 2), SamplingParams(temperature=0.0, max_tokens=20, ignore_eos=True))
    done = drain(engine, ["hard", "plain"])
    assert done["plain"].reasons == {0: "length"}
    assert done["hard"].reasons == {0: "error"}
    assert isinstance(done["hard"].updates[-1].error, RequestError)


def test_grammars_are_kept_by_content_and_bounded() -> None:
    grammars = Grammars(CharTokenizer(), VOCAB, count=2)
    first = grammars.of(Form(json={"type": "integer"}))
    assert grammars.of(Form(json='{"type": "integer"}')) is first
    assert grammars.of(Form(json='{"type": "integer"}', lenient=True)) is not first
    grammars.of(Form(regex="a"))
    assert len(grammars) == 2
    assert grammars.of(Form(json={"type": "integer"})) is not first


def test_a_spoiled_grammar_is_compiled_again() -> None:
    grammars = Grammars(CharTokenizer(), VOCAB)
    first = grammars.of(DIGITS)
    first.spoiled = True
    assert grammars.of(DIGITS) is not first


# -- min_tokens ----------------------------------------------------------------------------------------------------


def test_no_end_before_min_tokens() -> None:
    x = ord("x") - 32
    eager = SamplingParams(temperature=0.0, max_tokens=30, min_tokens=7, logit_bias={0: 100.0})
    assert len(one(make_engine(), eager).tokens[0]) == 8
    stops = SamplingParams(
        temperature=0.0, max_tokens=30, min_tokens=7, stop_token_ids=[x], logit_bias={x: 100.0, 0: -100.0}
    )
    assert len(one(make_engine(), stops).tokens[0]) == 8


def test_no_stop_string_before_min_tokens() -> None:
    form = Form(regex="(ab){20}")
    done = one(make_engine(), params(form, stop=["b"], min_tokens=4))
    assert done.text[0] == "ababa"


def test_a_form_that_is_over_ends_before_min_tokens() -> None:
    done = one(make_engine(), params(DIGITS, min_tokens=100))
    assert re.fullmatch("[0-9]{6}", done.text[0])
    assert done.reasons[0] == "stop"


def test_min_tokens_has_a_range() -> None:
    with pytest.raises(ParamsError, match="more than max_tokens"):
        SamplingParams(max_tokens=3, min_tokens=4)
    with pytest.raises(ParamsError):
        SamplingParams(min_tokens=-1)


def test_after_min_tokens_the_argmax_is_taken_as_it_is() -> None:
    sampler = Sampler.start(SamplingParams(temperature=0.0, min_tokens=1), [1], [0], None, [0])
    logits = np.array([2.0, 1.0], np.float32)
    assert not sampler.takes_argmax
    assert sampler.draw(logits, 0) == 1
    assert sampler.takes_argmax
    assert sampler.draw(logits, 0) == 0
