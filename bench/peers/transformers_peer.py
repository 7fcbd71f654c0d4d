"""transformers: eager PyTorch in float32 on the dequantized weights, as a careful script would use it."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.peers.base import Facts, Setup
from kvloom.bench.target import Answer


def open_peer(setup: Setup) -> Transformers:
    import transformers

    torch.set_num_threads(setup.threads)
    load = transformers.AutoModelForCausalLM.from_pretrained
    model = load(setup.directory, dtype=torch.float32, attn_implementation="sdpa").eval()
    model.requires_grad_(False)
    config = model.config
    facts = Facts(
        version=f"{transformers.__version__}, torch {torch.__version__}",
        settings="float32 weights and KV, sdpa, DynamicCache kept by hand for prompts that go on",
        weight_bytes=sum(each.numel() * each.element_size() for each in model.parameters()),
        kv_token_bytes=int(2 * 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim),
    )
    return Transformers(model, facts)


@dataclass(slots=True)
class Kept:
    """A cache, and the tokens whose KV it holds."""

    tokens: list[int]
    cache: Any


@dataclass(slots=True)
class Transformers:
    """``forward`` with a KV cache, one call per step: what ``generate`` does, without its bookkeeping."""

    model: Any
    facts: Facts
    kept: list[Kept] = field(default_factory=list)

    def reset(self) -> None:
        self.kept.clear()

    @torch.inference_mode()
    def run(self, prompts: Sequence[Sequence[int]], num_new: int) -> list[Answer]:
        """Prompts of one run have one length, and go on from one kept cache or from none."""
        started = time.perf_counter()
        cache, known = self._cache_for(prompts)
        ids_BT = torch.tensor([list(prompt[known:]) for prompt in prompts])
        tokens_NB, times = [], []
        for _ in range(num_new):
            logits = self.model(ids_BT, past_key_values=cache, logits_to_keep=1).logits
            ids_BT = logits[:, -1].argmax(dim=-1, keepdim=True)
            tokens_NB.append(ids_BT[:, 0].tolist())
            times.append(time.perf_counter() - started)
        answers = [Answer(list(tokens), times) for tokens in zip(*tokens_NB, strict=True)]
        if len(prompts) == 1:
            self.kept.append(Kept([*prompts[0], *answers[0].tokens[:-1]], cache))
        return answers

    def _cache_for(self, prompts: Sequence[Sequence[int]]) -> tuple[Any, int]:
        """A cache to go on with, and the number of tokens in it: repeated for a batch, as the documentation shows."""
        from transformers import DynamicCache

        for kept in self.kept:
            count = len(kept.tokens)
            if all(len(prompt) > count and list(prompt[:count]) == kept.tokens for prompt in prompts):
                if len(prompts) == 1:
                    self.kept.remove(kept)
                    return kept.cache, count
                repeated = copy.deepcopy(kept.cache)
                repeated.batch_repeat_interleave(len(prompts))
                return repeated, count
        return DynamicCache(config=self.model.config), 0
