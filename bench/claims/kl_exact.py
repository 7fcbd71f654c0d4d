"""kl-exact: the exact cache is exact, and what is not is noticed.

KL per token of the engine against itself over a cached context (0), and against transformers on the same weights with
KV and activations in float32 (below 1e-4 nats). Beside it a cache that lost half of its entries: every figure must
see that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import torch

from bench.drive import load
from bench.harness import Outcome, note
from bench.peers.dequantized import model_from_gguf
from bench.text import long_text
from bench.torch_maths import settle_torch_maths
from kvloom.eval.fidelity import Fidelity, compare_logits, fidelity, summarize
from kvloom.eval.policy import EXACT, parse_policy
from kvloom.eval.single import SingleSequence
from kvloom.eval.subject import subject_of
from kvloom.model.base import Logits
from kvloom.model.files.store import pull

MODEL = "smollm2-135m-instruct"
GOAL = 1e-4
NOTICED = 1e-2
_ROWS = 64


def noticed(found: Fidelity) -> bool:
    """Whether every figure says that something is wrong."""
    worse = found.perplexity_other > found.perplexity_exact and found.top1_agreement.high < 1.0
    return worse and found.kl.low > NOTICED and found.bytes_ratio < 0.75


def blocks(logits_TV: Logits) -> Iterator[Logits]:
    """Logits of a whole text, a few rows at a time."""
    for first in range(0, len(logits_TV), _ROWS):
        yield logits_TV[first : first + _ROWS]


def measure(quick: bool) -> Outcome:
    """Full: four texts of 512 tokens. Quick: one of 256."""
    size, count = (256, 1) if quick else (512, 4)
    settle_torch_maths()
    manifest = pull(MODEL)
    subject = subject_of(load(MODEL, "float32", "float32").loaded)
    tokens = subject.tokenizer.encode(long_text())
    texts = [tokens[n * size : (n + 1) * size] for n in range(count)]
    itself = fidelity(subject, EXACT, texts)
    note(f"against itself: {itself.kl.mean:g} nats per token")
    damaged = fidelity(subject, parse_policy("random:ratio=0.5"), texts)
    note(f"half of the entries dropped: {damaged.kl.mean:.4g} nats per token")
    theirs = model_from_gguf(manifest.weight_path(0))
    scores = []
    for text in texts:
        with torch.inference_mode():
            reference_TV = theirs(torch.tensor([text[:-1]])).logits[0].numpy()
        ours_TV = np.concatenate(list(SingleSequence(subject.engine, size).score(text[:-1])))
        scores.append(compare_logits(blocks(reference_TV), blocks(ours_TV), text[1:]))
        note(f"against transformers: {len(scores)} of {count} texts")
    found = summarize(scores)
    holds = itself.max_kl == 0.0 and found.kl.mean < GOAL and noticed(damaged)
    details = {
        "quick": quick,
        "itself": asdict(itself),
        "transformers": asdict(found),
        "damaged": asdict(damaged),
        "damage_noticed": noticed(damaged),
    }
    return Outcome("kl-exact", found.kl.mean, GOAL, "nats per token", holds, details)
