"""vLLM on a CPU, its engine driven in this process."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.peers.base import Facts, Setup
from kvloom.bench.target import Answer

_BLOCK_TOKENS = 128
_LONGEST = 8192
"""The same for all workloads: what vLLM compiles, it keeps for as long as this does not change."""


def open_peer(setup: Setup) -> Vllm:
    os.environ |= {
        "VLLM_CPU_OMP_THREADS_BIND": "auto" if setup.threads == (os.cpu_count() or 1) else f"0-{setup.threads - 1}",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "OMP_NUM_THREADS": str(setup.threads),
    }
    import vllm

    config = json.loads((setup.directory / "config.json").read_text(encoding="utf-8"))
    token_bytes = 2 * 4 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"]
    length = min(config["max_position_embeddings"], _LONGEST)
    capacity = -(-max(length, setup.kv_tokens) // _BLOCK_TOKENS) + 2
    llm = vllm.LLM(
        model=str(setup.directory),
        dtype="float32",
        skip_tokenizer_init=True,
        max_model_len=length,
        kv_cache_memory_bytes=capacity * _BLOCK_TOKENS * token_bytes,
        enable_prefix_caching=True,
        enable_chunked_prefill=True,
        max_num_batched_tokens=2048,
        max_num_seqs=64,
    )
    facts = Facts(
        version=f"{vllm.__version__} (CPU)",
        settings="float32 weights and KV, prefix caching and chunked prefill (2048) on, engine in process",
        weight_bytes=sum(path.stat().st_size for path in setup.directory.glob("*.safetensors")),
        kv_token_bytes=token_bytes,
    )
    return Vllm(llm, facts)


@dataclass(slots=True)
class Vllm:
    """``LLMEngine`` stepped by hand, so that each token's time is known."""

    llm: Any
    facts: Facts
    _ids: Iterator[int] = field(default_factory=itertools.count)

    def reset(self) -> None:
        self.llm.reset_prefix_cache()

    def run(self, prompts: Sequence[Sequence[int]], num_new: int) -> list[Answer]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=0.0,
            max_tokens=num_new,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        engine = self.llm.llm_engine
        answers: dict[str, Answer] = {}
        started = time.perf_counter()
        for prompt in prompts:
            name = str(next(self._ids))
            engine.add_request(name, {"prompt_token_ids": list(prompt)}, params)
            answers[name] = Answer([], [])
        while engine.has_unfinished_requests():
            for output in engine.step():
                now = time.perf_counter() - started
                new = list(output.outputs[0].token_ids)
                answers[output.request_id].tokens.extend(new)
                answers[output.request_id].times_s.extend([now] * len(new))
        return list(answers.values())
