"""kvloom as a model of lm-evaluation-harness, for MMLU, GSM8K and its other tasks.

import kvloom.eval.lm_eval_adapter
lm_eval.simple_evaluate("kvloom", model_args="model=smollm2-135m-instruct", tasks=["gsm8k"])
"""

from __future__ import annotations

from typing import Any

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from kvloom.config import DEFAULT_KV_DTYPE, Activations, CacheConfig, EngineConfig, KvDtype
from kvloom.engine.build import build
from kvloom.engine.params import SamplingParams
from kvloom.errors import ModelError
from kvloom.eval.drive import complete
from kvloom.eval.pairs import cut_left, encode_pair, encode_text, first_token, score_pairs
from kvloom.eval.subject import Subject, subject_of

_NEW_TOKENS = 256
"""Used when a task sets none: the harness's own default."""


@register_model("kvloom")
class KvloomLM(LM):  # type: ignore[misc]
    """Implements the harness's interface ``LM``. Too long contexts are truncated on the left, as in its own models.

    Parameters
    ----------
    model:
        A pulled name, a GGUF file or a directory with safetensors; or a subject that is loaded already.
    """

    def __init__(
        self,
        model: str | Subject,
        kv_bytes: int | str = "auto",
        kv_dtype: KvDtype = DEFAULT_KV_DTYPE,
        activations: Activations = "int8",
        max_model_len: int | None = None,
        threads: int | None = None,
        in_flight: int = 8,
        **ignored: Any,  # the harness adds batch_size, max_batch_size and device
    ) -> None:
        super().__init__()
        if isinstance(model, str):
            cache = CacheConfig(kv_bytes=kv_bytes, kv_dtype=kv_dtype)
            config = EngineConfig(
                model=model, max_model_len=max_model_len, threads=threads, activations=activations, cache=cache
            )
            model = subject_of(build(config))
        self._subject = model
        self._in_flight = in_flight

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in the harness's caches."""
        return self._subject.name

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The model's own prompt for a chat. Raises ModelError when it has none."""
        render = getattr(self._subject.tokenizer, "chat_prompt", None)
        if render is None:
            raise ModelError(f"model `{self._subject.name}` has no chat template")
        return str(render(chat_history, add_generation_prompt=add_generation_prompt))

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """(log probability, is greedy) of every (context, continuation)."""
        engine, tokenizer = self._subject.engine, self._subject.tokenizer
        pairs = [cut_left(encode_pair(tokenizer, *request.args), engine.context_limit) for request in requests]
        found = score_pairs(engine, pairs)
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, (answer.logprob, answer.greedy))
        return [(answer.logprob, answer.greedy) for answer in found]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Log probability of every whole text, in windows of the model's context where it is longer."""
        return [self._rolling(*request.args) for request in requests]

    def generate_until(self, requests: list[Any]) -> list[str]:
        """A continuation of every (context, settings)."""
        prompts, params = [], []
        for request in requests:
            text, settings = request.args
            wanted = _sampling(settings)
            room = self._subject.engine.max_len - (wanted.max_tokens or 0)
            tokens = encode_text(self._subject.tokenizer, text) or [first_token(self._subject.tokenizer)]
            prompts.append(tokens[-max(1, room) :])
            params.append(wanted)
        texts = complete(self._subject.engine, prompts, params, self._in_flight)
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    # -- inside ----------------------------------------------------------------------------------------------------

    def _rolling(self, text: str) -> float:
        tokens = self._subject.tokenizer.encode(text, add_special_tokens=False)
        limit, first = self._subject.engine.context_limit - 1, first_token(self._subject.tokenizer)
        windows = get_rolling_token_windows(tokens, first, max_seq_len=limit, context_len=1)
        pairs = [make_disjoint_window(window) for window in windows]
        return sum(answer.logprob for answer in score_pairs(self._subject.engine, pairs))


def _sampling(settings: dict[str, Any]) -> SamplingParams:
    until = settings.get("until") or []
    stops = [until] if isinstance(until, str) else list(until)
    sampled = settings.get("do_sample", False)
    return SamplingParams(
        max_tokens=int(settings.get("max_gen_toks", _NEW_TOKENS)),
        temperature=float(settings.get("temperature", 1.0)) if sampled else 0.0,
        top_p=float(settings.get("top_p", 1.0)) if sampled else 1.0,
        stop=[stop for stop in stops if stop],
    )
