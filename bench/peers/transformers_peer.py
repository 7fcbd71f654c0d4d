"""transformers, eager PyTorch in float32 on the dequantized weights, as a plain script would use it."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.peers.base import Stream
from bench.peers.dequantized import llama_from_gguf
from kvloom.torch_maths import settle_torch_maths


def open_peer(model: str, weights: Path, threads: int) -> Transformers:
    settle_torch_maths()
    torch.set_num_threads(threads)
    return Transformers(llama_from_gguf(weights))


@dataclass(slots=True)
class Transformers:
    """``forward`` with a dynamic KV cache, one call per step: what ``generate`` does, without its bookkeeping."""

    model: Any

    @property
    def version(self) -> str:
        import transformers

        return f"{transformers.__version__}, torch {torch.__version__}"

    @property
    def weight_bytes(self) -> int:
        return sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())

    @property
    def kv_token_bytes(self) -> int:
        config = self.model.config
        return int(2 * 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim)

    def one(self, prompt: list[int], num_new: int) -> Stream:
        return Stream(self._decode(torch.tensor([prompt]), None, num_new))

    def batch(self, prompts: list[list[int]], num_new: int) -> float:
        return self._decode(torch.tensor(prompts), None, num_new)[-1]

    def shared(self, prefix: list[int], tails: list[list[int]], num_new: int) -> float:
        """The cache of the prefix is kept by hand, as transformers' documentation shows, and repeated for the batch."""
        from transformers import DynamicCache

        with torch.inference_mode():
            cache = DynamicCache(config=self.model.config)
            self.model(torch.tensor([prefix]), past_key_values=cache, logits_to_keep=1)
            started = time.perf_counter()
            repeated = copy.deepcopy(cache)
            repeated.batch_repeat_interleave(len(tails))
        copying = time.perf_counter() - started
        return copying + self._decode(torch.tensor(tails), repeated, num_new)[-1]

    @torch.inference_mode()
    def _decode(self, ids_BT: torch.Tensor, cache: Any, num_new: int) -> list[float]:
        from transformers import DynamicCache

        started, times = time.perf_counter(), []
        past = DynamicCache(config=self.model.config) if cache is None else cache
        for _ in range(num_new):
            logits = self.model(ids_BT, past_key_values=past, logits_to_keep=1).logits
            ids_BT = logits[:, -1].argmax(dim=-1, keepdim=True)
            times.append(time.perf_counter() - started)
        return times
