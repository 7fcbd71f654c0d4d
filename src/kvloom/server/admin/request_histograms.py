"""What answered requests took and asked for: histograms with vLLM's names, and with all of its buckets."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from prometheus_client import CollectorRegistry, Histogram

from kvloom.engine.outputs import RequestUpdate
from kvloom.engine.params import SamplingParams

ENGINE = "0"
"""vLLM labels what it measures with the number of an engine; here there is one."""

_FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
)
_TOKEN_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80),
)
_REQUEST_S = (
    *(0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480),
    *(960, 1920, 7680),
)
_NUMBERS = (1, 2, 5, 10, 20)


class RequestHistograms:
    """``max_len``: tokens of the longest request, up to which buckets of tokens go."""

    def __init__(self, registry: CollectorRegistry, model: str, max_len: int) -> None:
        self._registry, self._model = registry, model
        tokens = _up_to(max_len)
        self._ttft = self._histogram("time_to_first_token_seconds", "Time to the first token", _FIRST_TOKEN_S)
        self._itl = self._histogram("inter_token_latency_seconds", "Time between two tokens", _TOKEN_S)
        self._tpot = self._histogram(
            "request_time_per_output_token_seconds", "Mean time between a request's tokens", _TOKEN_S
        )
        self._e2e = self._histogram("e2e_request_latency_seconds", "Time to the last token", _REQUEST_S)
        self._queue = self._histogram("request_queue_time_seconds", "Time before the first step", _REQUEST_S)
        self._inference = self._histogram(
            "request_inference_time_seconds", "Time from the first step to the last token", _REQUEST_S
        )
        self._prefill = self._histogram(
            "request_prefill_time_seconds", "Time from the first step to the first token", _REQUEST_S
        )
        self._decode = self._histogram(
            "request_decode_time_seconds", "Time from the first token to the last", _REQUEST_S
        )
        self._prompt = self._histogram("request_prompt_tokens", "Prompt tokens of a request", tokens)
        self._computed = self._histogram(
            "request_prefill_kv_computed_tokens", "Prompt tokens whose KV was not found", tokens
        )
        self._generated = self._histogram(
            "request_generation_tokens", "Tokens generated for a request, in all of its answers", tokens
        )
        self._longest = self._histogram(
            "request_max_num_generation_tokens", "Tokens of a request's longest answer", tokens
        )
        self._n = self._histogram("request_params_n", "Answers asked for by a request", _NUMBERS)
        self._max_tokens = self._histogram(
            "request_params_max_tokens", "The max_tokens of requests that set it", tokens
        )

    def observe(self, update: RequestUpdate, params: SamplingParams) -> None:
        """Record a finished request, which ``update`` is the last of."""
        self._observe_times(update)
        metrics, prompt = update.metrics, len(update.prompt_token_ids)
        answers = metrics.answer_tokens.values()
        self._prompt.observe(prompt)
        self._computed.observe(max(0, prompt - metrics.cached_tokens - metrics.lossy_tokens))
        self._generated.observe(sum(answers))
        self._longest.observe(max(answers, default=0))
        self._n.observe(params.n)
        if params.max_tokens is not None:
            self._max_tokens.observe(params.max_tokens)

    def _observe_times(self, update: RequestUpdate) -> None:
        metrics = update.metrics
        times = metrics.token_times_s
        for earlier, later in pairwise(times):
            self._itl.observe(later - earlier)
        if len(times) > 1:
            self._tpot.observe((times[-1] - times[0]) / (len(times) - 1))
        if metrics.ttft_s is not None:
            self._ttft.observe(metrics.ttft_s)
        begun, ended = metrics.queue_s, metrics.total_s
        if begun is None or ended is None:
            return
        first = ended if metrics.ttft_s is None else metrics.ttft_s
        for histogram, seconds in (
            (self._queue, begun),
            (self._e2e, ended),
            (self._inference, ended - begun),
            (self._prefill, first - begun),
            (self._decode, ended - first),
        ):
            histogram.observe(seconds)

    def _histogram(self, name: str, help_text: str, buckets: Iterable[float]) -> Histogram:
        labels = ("model_name", "engine")
        histogram = Histogram(f"vllm:{name}", help_text, labels, registry=self._registry, buckets=tuple(buckets))
        return histogram.labels(model_name=self._model, engine=ENGINE)


def _up_to(limit: int) -> list[int]:
    """1, 2, 5, 10, ... up to ``limit``, as vLLM has them.

    >>> _up_to(60)
    [1, 2, 5, 10, 20, 50]
    """
    bounds = [step * 10**power for power in range(len(str(limit))) for step in (1, 2, 5)]
    return [bound for bound in bounds if bound <= limit]
