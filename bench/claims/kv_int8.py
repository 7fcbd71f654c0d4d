"""kv-int8: KV in int8 takes about half of the default format's bytes, and gains what that promises.

Attention of one new token over a long context, prompts as long, and the divergence of the next token's distribution
from that with KV in float32 (activations in float32 both times), in nats per token, for both models. What is compared
takes turns within one process; a ratio is the median over the pairs.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from statistics import median

from bench.claims.int8_kl import MODELS, QUICK_TOKENS, TOKENS, divergences
from bench.drive import ModelEngines, load
from bench.harness import Check, Outcome, at_least, at_most, note, worst_of
from bench.text import long_text
from bench.torch_maths import settle_torch_maths
from kvloom.config import DEFAULT_KV_DTYPE, KvDtype, default_threads
from kvloom.engine.engine import Engine
from kvloom.engine.params import SamplingParams
from kvloom.model.decoder import Decoder

ATTEND_GOAL, PROMPT_GOAL, KL_GOAL = 1.6, 0.99, 0.005
FORMATS: tuple[KvDtype, KvDtype] = (DEFAULT_KV_DTYPE, "int8")
"""The one that is given up, and the one that is gained."""


def attention(context: int, pairs: int) -> Check:
    """Of decode steps, as the model's own clock has it: the rate with int8 as a multiple of the default's."""
    loaded = load(MODELS[0]).loaded
    model, engines = loaded.engine.model, [ModelEngines(loaded, kv_dtype).make("512MiB") for kv_dtype in FORMATS]
    assert isinstance(model, Decoder)
    tokens = loaded.tokenizer.encode(long_text())[:context]
    for engine in engines:
        engine.submit("stream", tokens, SamplingParams(temperature=0.0, max_tokens=pairs + 2, ignore_eos=True))
        while not any(update.deltas for update in engine.step()):
            pass

    def attended_ms(engine: Engine) -> float:
        before = model.operator_seconds()["attend"]
        engine.step()
        return 1e3 * (model.operator_seconds()["attend"] - before)

    times = [[attended_ms(engine) for engine in engines] for _ in range(pairs)]
    remark = ", ".join(
        f"{kv_dtype}: {median(each):.2f} ms" for kv_dtype, each in zip(FORMATS, zip(*times, strict=True), strict=True)
    )
    ratio = median(default / int8 for default, int8 in times)
    return at_least(f"attention after {context}", ratio, ATTEND_GOAL, "of the default's rate", remark)


def prompt_seconds(engines: ModelEngines, tokens: list[int]) -> float:
    """From a prompt to its first token, in an engine that knows nothing of it."""
    engine = engines.make("512MiB")
    started = time.perf_counter()
    engine.submit("prompt", tokens, SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True))
    while engine.has_work:
        engine.step()
    return time.perf_counter() - started


def prompts(length: int, pairs: int) -> Check:
    """Prompts through the whole model: their rate with int8 as a multiple of the default's."""
    loaded = load(MODELS[0]).loaded
    engines = [ModelEngines(loaded, kv_dtype) for kv_dtype in FORMATS]
    tokens = engines[0].encode(long_text())[:length]
    for each in engines:
        prompt_seconds(each, tokens)
    times = [[prompt_seconds(each, tokens) for each in engines] for _ in range(pairs)]
    ratio = median(default / int8 for default, int8 in times)
    return at_least(f"prompts of {length}", ratio, PROMPT_GOAL, "of the default's rate", f"{pairs} pairs")


def measure(quick: bool) -> Outcome:
    """Full: after 8,000 tokens, prompts of 8,000, KL over 4,096. Quick: prompts of 512, KL over 768."""
    settle_torch_maths()
    checks = [attention(8000, 15 if quick else 61)]
    note(str(checks[-1]))
    checks.append(prompts(512, 3) if quick else prompts(8000, 7))
    note(str(checks[-1]))
    found = []
    for name in MODELS:
        (each,) = divergences(name, QUICK_TOKENS if quick else TOKENS, default_threads(), [("float32", "int8")])
        found.append(asdict(each))
        note(str(each))
        checks.append(at_most(f"KL of {name}", each.kl, KL_GOAL, "nats per token", f"top token: {each.top1:.1%}"))
    return worst_of("kv-int8", checks, {"quick": quick, "models": found})
