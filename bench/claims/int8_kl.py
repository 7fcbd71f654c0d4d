"""int8-kl: int8 activations barely change what a model says.

Teacher-forced over real text, the divergence KL(exact || int8) of the next token's distribution, in nats per token,
between a model with float32 activations and one with int8 activations, both with KV in float32. Reported beside it: how
often the most likely token is the same, the perplexity of both, and the same of the formats of KV that are not exact:
with float32 activations, and, for the format that is the default, with int8 activations too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch

from bench.full_cache import hidden_states
from bench.harness import Outcome, note
from bench.text import real_text
from bench.torch_maths import settle_torch_maths
from kvloom.config import DEFAULT_KV_DTYPE, Activations, KvDtype, default_threads
from kvloom.model.base import Model
from kvloom.model.files.loading import load_model, load_tokenizer
from kvloom.model.files.store import pull

MODELS = ("smollm2-135m-instruct", "gemma-3-270m")
GOAL = 0.002
VARIANTS: tuple[tuple[Activations, KvDtype], ...] = (
    ("int8", "float32"),
    ("float32", "float16"),
    ("float32", "int16"),
    ("float32", "int8"),
    ("int8", DEFAULT_KV_DTYPE),
)
"""What is compared with float32 activations and KV. The claim is about the first, the last is the default."""
TOKENS, QUICK_TOKENS = 4096, 768
_CHUNK, _ROWS = 512, 64
"""Positions computed together, and those whose logits are held at once: each takes a megabyte at 262,144 tokens."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """Of one model from itself with float32 activations and KV.

    ``kl``: mean over tokens, in nats; ``top1``: share of positions with the same best token.
    """

    model: str
    activations: Activations
    kv_dtype: KvDtype
    tokens: int
    kl: float
    largest_kl: float
    top1: float
    perplexity_float32: float
    perplexity: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model made of a text, and how it ran. ``hidden_TC``: float32."""

    model: Model
    activations: Activations
    kv_dtype: KvDtype
    hidden_TC: torch.Tensor


def read(model: Model, activations: Activations, kv_dtype: KvDtype, tokens: list[int], threads: int) -> Reading:
    """Run a model over ``tokens``; ``activations`` are those that it was loaded with."""
    chunks = [min(_CHUNK, len(tokens) - start) for start in range(0, len(tokens), _CHUNK)]
    return Reading(model, activations, kv_dtype, hidden_states(model, tokens, chunks, threads, kv_dtype))


def log_probs(reading: Reading) -> Iterator[torch.Tensor]:
    """Log probabilities of the next token after each of the text, float32 (rows, vocab_size) at a time."""
    for hidden_RC in reading.hidden_TC.split(_ROWS):
        yield torch.from_numpy(reading.model.logits(hidden_RC.numpy())).log_softmax(-1)


def compare(name: str, exact: Reading, rounded: Reading, tokens: list[int]) -> Divergence:
    """Of two readings of ``tokens``."""
    targets_T = torch.tensor(tokens[1:])
    kls, same, losses = [], 0, [0.0, 0.0]
    pairs = zip(log_probs(exact), log_probs(rounded), strict=True)
    for start, (p_RV, q_RV) in zip(range(0, len(tokens), _ROWS), pairs, strict=True):
        kls.append((p_RV.exp() * (p_RV - q_RV)).sum(-1))
        same += int((p_RV.argmax(-1) == q_RV.argmax(-1)).sum())
        next_R = targets_T[start : start + _ROWS]
        for index, each_RV in enumerate((p_RV, q_RV)):
            losses[index] -= float(each_RV[: len(next_R)].gather(1, next_R[:, None]).sum())
    kl_T = torch.cat(kls)
    perplexities = [math.exp(loss / len(targets_T)) for loss in losses]
    found = len(tokens), float(kl_T.mean()), float(kl_T.max()), same / len(tokens)
    return Divergence(name, rounded.activations, rounded.kv_dtype, *found, *perplexities)


def divergences(
    name: str, count: int, threads: int, variants: Sequence[tuple[Activations, KvDtype]] = VARIANTS
) -> list[Divergence]:
    """Of a pulled model, over the first ``count`` tokens of the text, one for each variant."""
    manifest = pull(name)
    tokens = load_tokenizer(manifest).encode(real_text())[:count]
    wanted: set[Activations] = {"float32", *(activations for activations, _ in variants)}
    models = {activations: load_model(manifest, threads, activations) for activations in wanted}
    exact = read(models["float32"], "float32", "float32", tokens, threads)
    rounded = (read(models[activations], activations, kv_dtype, tokens, threads) for activations, kv_dtype in variants)
    return [compare(name, exact, each, tokens) for each in rounded]


def measure(quick: bool) -> Outcome:
    """Full: 4,096 tokens. Quick: 768."""
    settle_torch_maths()
    count, threads = QUICK_TOKENS if quick else TOKENS, default_threads()
    found: list[list[Divergence]] = []
    for name in MODELS:
        found.append(divergences(name, count, threads))
        for each in found[-1]:
            note(str(each))
    worst = max(of_model[0].kl for of_model in found)
    details = {"quick": quick, "models": [asdict(each) for of_model in found for each in of_model]}
    return Outcome("int8-kl", worst, GOAL, "nats per token", worst < GOAL, details)
