"""int8-kl: int8 activations barely change what a model says.

Teacher-forced over real text, the divergence KL(exact || int8) of the next token's distribution, in nats per token,
between a model with float32 activations and one with int8 activations, both with KV in float32. Reported beside it: how
often the most likely token is the same, and the perplexity of both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch

from bench.full_cache import hidden_states
from bench.harness import Outcome, note
from bench.text import real_text
from bench.torch_maths import settle_torch_maths
from kvloom.config import Activations, default_threads
from kvloom.model.base import Model
from kvloom.model.loading import load_model
from kvloom.model.store import pull
from kvloom.model.tokenizer import load_tokenizer

MODELS = ("smollm2-135m-instruct", "gemma-3-270m")
GOAL = 0.002
TOKENS, QUICK_TOKENS = 4096, 768
_CHUNK, _ROWS = 512, 64
"""Positions computed together, and those whose logits are held at once: each takes a megabyte at 262,144 tokens."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """Of one model. ``kl``: mean over tokens, in nats; ``top1``: share of positions with the same best token."""

    model: str
    tokens: int
    kl: float
    largest_kl: float
    top1: float
    perplexity_float32: float
    perplexity_int8: float


def log_probs(model: Model, tokens: list[int], threads: int) -> Iterator[torch.Tensor]:
    """Log probabilities of the next token after each of ``tokens``, float32 (rows, vocab_size) at a time."""
    chunks = [min(_CHUNK, len(tokens) - start) for start in range(0, len(tokens), _CHUNK)]
    hidden_TC = hidden_states(model, tokens, chunks, threads)
    for start in range(0, len(tokens), _ROWS):
        yield torch.from_numpy(model.logits(hidden_TC[start : start + _ROWS].numpy())).log_softmax(-1)


def compare(name: str, exact: Model, rounded: Model, tokens: list[int], threads: int) -> Divergence:
    """Run both models over ``tokens``."""
    targets_T = torch.tensor(tokens[1:])
    kls, same, losses = [], 0, [0.0, 0.0]
    pairs = zip(log_probs(exact, tokens, threads), log_probs(rounded, tokens, threads), strict=True)
    for start, (p_RV, q_RV) in zip(range(0, len(tokens), _ROWS), pairs, strict=True):
        kls.append((p_RV.exp() * (p_RV - q_RV)).sum(-1))
        same += int((p_RV.argmax(-1) == q_RV.argmax(-1)).sum())
        next_R = targets_T[start : start + _ROWS]
        for index, each_RV in enumerate((p_RV, q_RV)):
            losses[index] -= float(each_RV[: len(next_R)].gather(1, next_R[:, None]).sum())
    kl_T = torch.cat(kls)
    perplexities = [math.exp(loss / len(targets_T)) for loss in losses]
    return Divergence(name, len(tokens), float(kl_T.mean()), float(kl_T.max()), same / len(tokens), *perplexities)


def divergence(name: str, count: int, threads: int) -> Divergence:
    """Of a pulled model, over the first ``count`` tokens of the text."""
    manifest = pull(name)
    tokens = load_tokenizer(manifest).encode(real_text())[:count]
    settings: tuple[Activations, Activations] = ("float32", "int8")
    exact, rounded = (load_model(manifest, threads, each) for each in settings)
    return compare(name, exact, rounded, tokens, threads)


def measure(quick: bool) -> Outcome:
    """Full: 4,096 tokens. Quick: 768."""
    settle_torch_maths()
    count, threads = QUICK_TOKENS if quick else TOKENS, default_threads()
    found = []
    for name in MODELS:
        found.append(divergence(name, count, threads))
        note(str(found[-1]))
    worst = max(each.kl for each in found)
    details = {"quick": quick, "models": [asdict(each) for each in found]}
    return Outcome("int8-kl", worst, GOAL, "nats per token", worst < GOAL, details)
