"""identical-tokens: greedy decoding gives the tokens that transformers gives on the same weights.

Both run the weights of one GGUF file with float32 activations; kvloom keeps its KV in float32 for the claim (smaller
formats are reported beside it). A divergence is excused, and listed, only where transformers itself sees a tie: its two
best logits within 1e-3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from bench.drive import load
from bench.harness import Outcome, note
from bench.peers.dequantized import model_from_gguf
from bench.text import prompts
from bench.torch_maths import settle_torch_maths
from kvloom.config import KvDtype
from kvloom.engine.params import SamplingParams
from kvloom.eval.drive import run_one
from kvloom.model.files.loading import load_tokenizer
from kvloom.model.files.store import pull

MODEL = "smollm2-135m-instruct"
TIE = 1e-3
SMALLER: tuple[KvDtype, ...] = ("float16", "int16")


@dataclass(frozen=True, slots=True)
class Reference:
    """Transformers' greedy tokens after a prompt, and at each the gap between its two best logits."""

    prompt: list[int]
    tokens: list[int]
    gaps: list[float]


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where the two part. ``gap``: transformers' own, in logits."""

    prompt: int
    step: int
    ours: int
    theirs: int
    gap: float

    @property
    def excused(self) -> bool:
        return self.gap < TIE


def first_divergence(index: int, ours: Sequence[int], reference: Reference) -> Divergence | None:
    """None when the tokens are the same throughout."""
    for step, (mine, theirs) in enumerate(zip(ours, reference.tokens, strict=True)):
        if mine != theirs:
            return Divergence(index, step, mine, theirs, reference.gaps[step])
    return None


def greedy(model: Any, prompt: list[int], count: int) -> Reference:
    """What transformers' own ``generate`` says."""
    result = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=count,
        eos_token_id=None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    tops = [torch.topk(logits[0].float(), 2).values for logits in result.logits]
    return Reference(prompt, result.sequences[0, len(prompt) :].tolist(), [float(top[0] - top[1]) for top in tops])


def compare(references: Sequence[Reference], kv_dtype: KvDtype) -> list[Divergence]:
    """Run kvloom on the same prompts, each with a fresh cache, and list where it differs."""
    engine = load(MODEL, kv_dtype, "float32").make("256MiB")
    found = []
    for index, reference in enumerate(references):
        engine.reset_cache()
        params = SamplingParams(temperature=0.0, max_tokens=len(reference.tokens), ignore_eos=True)
        divergence = first_divergence(index, run_one(engine, reference.prompt, params).tokens[0], reference)
        if divergence is not None:
            note(f"KV in {kv_dtype}: {divergence}")
            found.append(divergence)
    return found


def measure(quick: bool) -> Outcome:
    """Full: 20 prompts of 64 tokens. Quick: 5 prompts of 32."""
    settle_torch_maths()
    texts, count = (prompts()[::4], 32) if quick else (prompts(), 64)
    manifest = pull(MODEL)
    encode = load_tokenizer(manifest).encode
    model = model_from_gguf(manifest.weight_path(0))
    references = []
    for text in texts:
        references.append(greedy(model, encode(text), count))
        note(f"transformers: {len(references)} of {len(texts)}")
    del model
    found = compare(references, "float32")
    smaller = {name: compare(references, name) for name in SMALLER}
    unexcused = [divergence for divergence in found if not divergence.excused]
    value, goal = len(texts) - len(unexcused), len(texts)
    details = {
        "quick": quick,
        "tokens_per_prompt": count,
        "identical": len(texts) - len(found),
        "excused": [asdict(divergence) for divergence in found if divergence.excused],
        "unexcused": [asdict(divergence) for divergence in unexcused],
    }
    for name, divergences in smaller.items():
        details[f"identical_with_{name}_kv"] = len(texts) - len(divergences)
        details[f"divergences_with_{name}_kv"] = [asdict(divergence) for divergence in divergences]
    return Outcome("identical-tokens", value, goal, "prompts", value == goal, details)
