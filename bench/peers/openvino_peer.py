"""OpenVINO GenAI: its continuous-batching pipeline, which reads the GGUF file itself."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.peers.base import Facts, Setup
from kvloom.bench.target import Answer

_BLOCK_TOKENS = 32


def open_peer(setup: Setup) -> OpenVino:
    import openvino_genai as genai

    scheduler = genai.SchedulerConfig()
    scheduler.num_kv_blocks = -(-setup.kv_tokens // _BLOCK_TOKENS)
    scheduler.max_num_batched_tokens = 512
    scheduler.enable_prefix_caching = True
    properties = {"INFERENCE_NUM_THREADS": setup.threads, "PERFORMANCE_HINT": "LATENCY"}
    pipe = genai.ContinuousBatchingPipeline(str(setup.gguf), scheduler, "CPU", properties)
    facts = Facts(
        version=genai.__version__,
        settings="weights from the GGUF file as OpenVINO repacks them, KV in its default (u8), prefix caching on, "
        "512 tokens per step; its prefix cache cannot be emptied, but no two prompts begin alike",
        weight_bytes=setup.gguf.stat().st_size,
        kv_token_bytes=0,
    )
    return OpenVino(pipe, facts)


@dataclass(slots=True)
class OpenVino:
    """Requests are added, then the pipeline is stepped until all are done."""

    pipe: Any
    facts: Facts
    _ids: Iterator[int] = field(default_factory=itertools.count)

    def reset(self) -> None:
        """There is no such call."""

    def run(self, prompts: Sequence[Sequence[int]], num_new: int) -> list[Answer]:
        import openvino
        import openvino_genai as genai

        config = genai.GenerationConfig()
        config.max_new_tokens = num_new
        config.ignore_eos = True
        config.do_sample = False
        answers = [Answer([], []) for _ in prompts]
        started = time.perf_counter()
        handles = [
            self.pipe.add_request(next(self._ids), openvino.Tensor(np.array([prompt], dtype=np.int64)), config)
            for prompt in prompts
        ]
        while self.pipe.has_non_finished_requests():
            self.pipe.step()
            now = time.perf_counter() - started
            for answer, handle in zip(answers, handles, strict=True):
                while handle.can_read():
                    new = [token for output in handle.read().values() for token in output.generated_ids]
                    answer.tokens.extend(new)
                    answer.times_s.extend([now] * len(new))
        return answers
