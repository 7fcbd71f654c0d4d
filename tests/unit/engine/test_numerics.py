"""A model that computes NaN or infinity: a typed error for the request at fault, and for no other."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx2
import numpy as np
import pytest
import torch
import transformers

import tiny
from kvloom.engine.async_engine import AsyncEngine
from kvloom.engine.llm import LLM
from kvloom.engine.params import SamplingParams
from kvloom.engine.sampling import NextScores, Sampler, token_logprobs
from kvloom.errors import NumericsError, ParamsError
from kvloom.server.app import create_app
from tiny_gguf import write_gguf

INF, NAN = float("inf"), float("nan")
BAD = 96  # a token whose embedding is broken
GOOD_PROMPT = [token for token in tiny.random_prompt(60, 1) if token != BAD]
KINDS = {
    "greedy": SamplingParams(temperature=0.0, max_tokens=8),
    "adjusted": SamplingParams(temperature=0.0, max_tokens=8, repetition_penalty=1.5, logit_bias={3: 5.0}),
    "random": SamplingParams(seed=1, max_tokens=8),
    "filtered": SamplingParams(seed=1, max_tokens=8, top_k=5, top_p=0.5, min_p=0.1),
    "scored": SamplingParams(temperature=0.0, max_tokens=8, logprobs=3),
    "prompt scored": SamplingParams(temperature=0.0, max_tokens=8, prompt_logprobs=3),
    "forked": SamplingParams(seed=1, max_tokens=8, n=3),
}
every_kind = pytest.mark.parametrize("params", KINDS.values(), ids=KINDS)


def broken_engine(value: float = NAN, **settings) -> tiny.Engine:
    engine = tiny.make_engine(**settings)
    engine.model.embedding[BAD] = value
    return engine


@every_kind
def test_nan_ends_the_request_at_fault(params: SamplingParams) -> None:
    want = tiny.run(tiny.make_engine(), {"good": GOOD_PROMPT}, params)["good"].tokens
    engine = broken_engine()
    done = tiny.run(engine, {"bad": [1, 2, BAD, 3], "good": GOOD_PROMPT}, params)
    assert isinstance(done["bad"].updates[-1].error, NumericsError)
    assert set(done["bad"].reasons.values()) == {"error"}
    assert set(map(tuple, done["bad"].tokens.values())) == {()}
    assert done["good"].tokens == want
    assert tiny.run(engine, {"again": GOOD_PROMPT}, params)["again"].tokens == want, "on pages that held NaN"


@pytest.mark.parametrize("reference", [False, True])
def test_pages_that_held_nan_are_as_good_as_new(reference: bool) -> None:
    """In an arena with room for little else, whoever comes next gets the same pages."""
    params, want = KINDS["greedy"], tiny.run(tiny.make_engine(), {"good": GOOD_PROMPT}, KINDS["greedy"])["good"].tokens
    engine = broken_engine(kv_bytes=140_000, reference=reference)
    for n in range(4):
        assert tiny.run(engine, {"bad": [BAD, n] * 30}, params)["bad"].tokens == {0: []}
        engine.reset_cache()
        assert tiny.run(engine, {"good": GOOD_PROMPT[: 50 + n]}, params)["good"].tokens == (
            tiny.run(tiny.make_engine(), {"good": GOOD_PROMPT[: 50 + n]}, params)["good"].tokens
        )
    assert tiny.run(engine, {"good": GOOD_PROMPT}, params)["good"].tokens == want


def test_an_answer_may_begin_well_and_break_later() -> None:
    engine = broken_engine()
    params = SamplingParams(temperature=0.0, max_tokens=8, logit_bias={BAD: 100.0})
    done = tiny.run(engine, {"bad": GOOD_PROMPT}, params)["bad"]
    assert done.tokens == {0: [BAD]}
    assert isinstance(done.updates[-1].error, NumericsError)


@pytest.mark.parametrize(
    ("values", "fine"),
    [
        ([1.0, NAN, 2.0], False),
        ([NAN, 1.0, 2.0], False),
        ([1.0, 2.0, NAN], False),
        ([1.0, INF, 2.0], False),
        ([-INF, -INF, -INF], False),
        ([-INF, 1.0, -INF], True),
        ([3e38, -3e38, 0.0], True),
    ],
)
def test_one_look_tells(values: list[float], fine: bool) -> None:
    logits = np.array(values, np.float32)
    scores = NextScores(logits, int(logits.argmax()))
    if fine:
        scores.check()
        entries = token_logprobs(logits, 1, 1, str)
        assert all(entry.logprob <= 0.0 for entry in entries.values())
        return
    with pytest.raises(NumericsError, match="not finite"):
        scores.check()
    with pytest.raises(NumericsError, match="not finite"):
        token_logprobs(logits, 1, 1, str)


def test_what_overflows_on_the_way_is_noticed() -> None:
    logits = np.array([3e38, -3e38, 1.0], np.float32)
    for params in (
        SamplingParams(temperature=0.0, repetition_penalty=0.01),
        SamplingParams(temperature=1e-4, seed=1),
        SamplingParams(temperature=1e-4, seed=1, top_k=2, top_p=0.5),
    ):
        with pytest.raises(NumericsError), np.errstate(over="ignore"):
            Sampler.start(params, [0, 1], (1,)).draw(logits, 0)


@pytest.mark.parametrize("value", [1e-38, 0.0, -1.0, 0.0099, 101, NAN])
def test_repetition_penalties_that_leave_nothing_are_refused(value: float) -> None:
    with pytest.raises(ParamsError, match=r"repetition_penalty must be a number from 0\.01 to 100"):
        SamplingParams(repetition_penalty=value)


@every_kind
@pytest.mark.parametrize("stream", [False, True])
async def test_http_says_so(params: SamplingParams, stream: bool) -> None:
    engine = AsyncEngine.over(broken_engine(), tiny.CharTokenizer(), "tiny")
    app = create_app(engine)
    body = {"model": "tiny", "prompt": [1, 2, BAD], "max_tokens": 4, "stream": stream, "seed": 1, "n": params.n}
    body |= {"temperature": params.temperature, "logprobs": params.logprobs, "top_k": params.top_k}
    if not stream:
        body["prompt_logprobs"] = params.prompt_logprobs
    try:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://kvloom") as http:
            bad, good = await asyncio.gather(
                http.post("/v1/completions", json=body),
                http.post("/v1/completions", json=body | {"prompt": GOOD_PROMPT, "stream": False}),
            )
    finally:
        engine.close()
    assert good.status_code == 200
    assert "NaN" not in good.text
    error = bad.json()["error"] if not stream else _last_event(bad.text)
    assert error["code"] == "not_finite"
    assert error["type"] == "server_error"
    assert "not finite" in error["message"]


def _last_event(text: str) -> dict:
    return json.loads(text.strip().split("data: ")[-1])["error"]


@pytest.mark.parametrize(("place", "value"), [("embed", NAN), ("embed", INF), ("head", INF)])
def test_through_the_kernels(place: str, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``embed``: one token spoils its own request; ``head``: every request has a score of infinity or NaN."""
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=2000,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
    )
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        (model.model.embed_tokens if place == "embed" else model.lm_head).weight[1500] = value
    write_gguf(tmp_path / "model.gguf", model, "llama", "F32")
    monkeypatch.setenv("KVLOOM_HOME", str(tmp_path / "home"))
    llm = LLM(str(tmp_path / "model.gguf"), kv_bytes="32MiB")
    greedy = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
    if place == "head":
        with pytest.raises(NumericsError):
            llm.generate([[2, 3, 4]], greedy)
        return
    (alone,) = llm.generate([[2, 3, 4]], greedy)
    bad, good = llm.generate([[2, 1500, 4], [2, 3, 4]], greedy)
    assert isinstance(bad.error, NumericsError)
    assert bad.outputs[0].finish_reason == "error"
    assert good.outputs[0].token_ids == alone.outputs[0].token_ids
