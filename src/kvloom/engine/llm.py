"""The library's main entry point: a model in this process, driven by the calling thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, cast

from kvloom.config import (
    DEFAULT_KV_DTYPE,
    DEFAULT_RETENTION,
    Activations,
    CacheConfig,
    EngineConfig,
    GenerationConfig,
    KvDtype,
    RetentionName,
    SchedulerConfig,
    TierConfig,
)
from kvloom.engine.build import build
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.chunks import Chunks
from kvloom.engine.driving import Asked, Driver
from kvloom.engine.edits import Edit
from kvloom.engine.engine import Engine
from kvloom.engine.outputs import RequestOutput
from kvloom.engine.params import SamplingParams
from kvloom.engine.prompting import Message, Prepared, Prompt, Prompting, as_list
from kvloom.engine.stats import CacheStats
from kvloom.engine.vllm_names import with_vllm_names
from kvloom.errors import RequestError
from kvloom.model.text.tokenizer import Tokenizer

Kind = TypeVar("Kind")


class CacheView:
    """The KV cache of an LLM: statistics, reset and audit."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def stats(self) -> CacheStats:
        """Bytes, pages and hit counts right now."""
        return self._engine.stats().cache

    def reset(self) -> None:
        """Drop all reusable KV."""
        self._engine.reset_cache()

    def check(self) -> None:
        """Audit every byte. Raises InternalError on any inconsistency."""
        self._engine.check()


class LLM:
    """Generates text with one model. Names and arguments follow vLLM's where it has them.

    Parameters
    ----------
    model:
        A pulled name, a GGUF file or a directory with safetensors.
    kv_bytes:
        Hard limit on all KV memory, such as ``"2GiB"``; ``"auto"`` derives one.
    retention:
        Which reusable pages are evicted first: those that pay least for being kept (``"survival"``), the least recently
        (``"lru"``) or least frequently (``"lfu"``) used, or as one of ``"fifo"``, ``"pgdsf"``, ``"max_score"``,
        ``"pensieve"``, ``"tail_lru"``, ``"pause"``, ``"ttl"`` and ``"asymcache"`` says (the README has a table).
    max_pinned_share:
        Part of ``kv_bytes`` that requests may pin (``CacheParams.pin_s``).
    session_share:
        Part of ``kv_bytes`` that sessions (``CacheParams.session``) which come again do not lose to other requests.
    chunk_share:
        Part of ``kv_bytes`` that chunks (``llm.chunks``) do not lose to the KV of texts, nor texts the rest to chunks.
    max_model_len:
        Maximum length of prompt plus answer in tokens; None uses the model's context, as far as the budget allows.
    threads:
        Number of cores to use; None uses all that are available to this process.
    activations:
        ``"int8"`` rounds activations to 8 bits in products with quantized weights, for speed; ``"float32"`` is exact.
    generation_config:
        Without ``sampling_params``, ``"auto"`` samples as the model's authors recommend, ``"none"`` at temperature 1.
    step_tokens, max_seqs:
        Maximum tokens computed per step, and maximum number of concurrently running sequences.
    tiers:
        Where KV is kept that RAM has no room for, such as a directory; None: nowhere. Then ``close`` it, or use it in a
        ``with`` statement: what waits to be written is lost otherwise.
    vllm:
        vLLM's names for these settings (``max_num_batched_tokens``, ``max_num_seqs``, ``kv_cache_memory_bytes``). Other
        vLLM arguments that kvloom does not support raise a ConfigError that says what to use instead.

    Examples
    --------
    >>> from kvloom import LLM, SamplingParams  # doctest: +SKIP
    >>> llm = LLM("smollm2-135m-instruct", kv_bytes="256MiB")  # doctest: +SKIP
    >>> params = SamplingParams(temperature=0, max_tokens=3)  # doctest: +SKIP
    >>> llm.generate("The capital of France is", params)[0].outputs[0].text  # doctest: +SKIP
    ' Paris.'
    """

    def __init__(
        self,
        model: str,
        *,
        kv_bytes: int | str = "auto",
        kv_dtype: KvDtype = DEFAULT_KV_DTYPE,
        retention: RetentionName = DEFAULT_RETENTION,
        max_pinned_share: float = 0.25,
        session_share: float = 0.75,
        chunk_share: float = 0.5,
        max_model_len: int | None = None,
        threads: int | None = None,
        seed: int = 0,
        activations: Activations = "int8",
        generation_config: GenerationConfig = "auto",
        step_tokens: int = 512,
        max_seqs: int = 64,
        tiers: TierConfig | None = None,
        **vllm: Any,
    ) -> None:
        config = EngineConfig(
            model=model,
            max_model_len=max_model_len,
            threads=threads,
            seed=seed,
            activations=activations,
            generation_config=generation_config,
            cache=CacheConfig(
                kv_bytes=kv_bytes,
                kv_dtype=kv_dtype,
                retention=retention,
                max_pinned_share=max_pinned_share,
                session_share=session_share,
                chunk_share=chunk_share,
            ),
            scheduler=SchedulerConfig(step_tokens=step_tokens, max_seqs=max_seqs),
            tiers=tiers or TierConfig(),
        )
        loaded = build(with_vllm_names(config, vllm))
        self._tokenizer = loaded.tokenizer
        self._defaults = loaded.defaults
        self.engine = loaded.engine
        self.cache = CacheView(loaded.engine)
        self._driver = Driver(loaded.engine)
        self.chunks = Chunks(loaded.engine, loaded.tokenizer, self._driver.compute)

    def close(self) -> None:
        """Write what waits to be written to tiers, and close them. Nothing can be generated any more."""
        self.engine.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    @property
    def max_model_len(self) -> int:
        """Maximum tokens in one sequence, prompt and answer together; those whose KV has a budget may have more."""
        return self.engine.max_len

    def get_tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """Defaults for prompts without ``sampling_params``: the model's recommendations, unless turned off."""
        return self._defaults.params()

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        cache_params: CacheParams | Sequence[CacheParams] | None = None,
        use_tqdm: bool = False,
        add_special_tokens: bool | None = None,
    ) -> list[RequestOutput]:
        """Complete prompts; results are in the same order. Raises RequestError before anything runs.

        If a prompt fails, the others still complete: its output has ``error`` set and the finish reason ``error``. If
        all fail, the first error is raised.

        Prompts are independent: the rest of the list never changes an answer (a request that samples without a
        ``seed`` gets one derived from its number since the engine started). ``cache_params``: how prompts use the KV
        cache; one for all, or one per prompt. Parts of a prompt may be documents (``{"prompt": ["Answer from ...",
        {"type": "document", "text": "..."}, "Question: ..."]}``), which ``CacheParams(fusion=..., documents="marked")``
        reuses wherever they stand. ``use_tqdm`` shows progress on stderr. ``add_special_tokens``: prepend
        the model's start token to texts; None prepends it unless the text already begins with it.
        """
        items = as_list(prompts)
        asked = self._asked(sampling_params, cache_params, len(items))
        prepared = [
            self._prompting.prompt(item, cache, add_special_tokens)
            for item, (_, cache) in zip(items, asked, strict=True)
        ]
        return self._run(prepared, asked, use_tqdm)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        cache_params: CacheParams | Sequence[CacheParams] | None = None,
        use_tqdm: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation or several, through the model's own chat template.

        Parts of a message's content may be documents, as in ``generate``. ``chat_template_kwargs``: variables for the
        template, such as ``{"enable_thinking": False}``.
        """
        if not messages:
            raise RequestError("a conversation needs at least one message", param="messages")
        several = not isinstance(messages[0], Mapping)
        conversations: Any = messages if several else [messages]
        asked = self._asked(sampling_params, cache_params, len(conversations))
        prepared = [
            self._prompting.chat(conversation, cache, chat_template_kwargs)
            for conversation, (_, cache) in zip(conversations, asked, strict=True)
        ]
        return self._run(prepared, asked, use_tqdm)

    def edit(self, context: Prompt | RequestOutput, *, add_special_tokens: bool | None = None) -> Edit:
        """A context to be edited: a prompt, or the prompt and the first answer of a result.

        Nothing is computed. ``edit.prompt`` is a prompt like any other, all of whose KV is exact;
        ``cache_params=edit.reusing(fusion_of("a3", 0.15))`` reuses what comes after the edit, and repairs it.

        Examples
        --------
        >>> edit = llm.edit(output).delete(120, 1150).append("And now?")  # doctest: +SKIP
        >>> fork = llm.edit(output).replace(0, 34, "You are a pirate.")  # doctest: +SKIP
        >>> cache = fork.reusing(fusion_of("reuse"))  # doctest: +SKIP
        >>> llm.generate(fork.prompt, params, cache_params=cache)  # doctest: +SKIP
        """
        if isinstance(context, RequestOutput):
            answer = context.outputs[0].token_ids if context.outputs else []
            tokens = [*context.prompt_token_ids, *answer]
        else:
            (_, tokens), _ = self._prompting.prompt(context, CacheParams(), add_special_tokens)
        return Edit.of(tokens, partial(self._tokenizer.encode, add_special_tokens=False))

    @property
    def _prompting(self) -> Prompting:
        return Prompting(self._tokenizer, self.engine.intake)

    def _asked(
        self,
        sampling: SamplingParams | Sequence[SamplingParams] | None,
        cache: CacheParams | Sequence[CacheParams] | None,
        count: int,
    ) -> list[Asked]:
        params = self._defaults.params() if sampling is None else sampling
        caches = CacheParams() if cache is None else cache
        return list(
            zip(
                _per_prompt("sampling_params", params, SamplingParams, count),
                _per_prompt("cache_params", caches, CacheParams, count),
                strict=True,
            )
        )

    def _run(self, prepared: list[Prepared], asked: list[Asked], show_progress: bool) -> list[RequestOutput]:
        prompts = [encoded for encoded, _ in prepared]
        asked = [(params, cache) for (params, _), (_, cache) in zip(asked, prepared, strict=True)]
        found: dict[int, RequestOutput] = {}
        with _progress(len(prompts), show_progress) as advance:

            def ended(number: int, output: RequestOutput) -> None:
                found[number] = output
                advance(1)

            self._driver.run(prompts, asked, ended)
        errors = [output.error for output in found.values() if output.error is not None]
        if errors and len(errors) == len(found):
            raise errors[0]
        return [found[number] for number in range(len(prompts))]


@contextmanager
def _progress(total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, or nothing; yields what to call with the number of requests that ended."""
    if not shown:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("requests", total=total)
        yield lambda count: bar.advance(task, count)


def _per_prompt(name: str, given: Kind | Sequence[Kind], kind: type[Kind], count: int) -> list[Kind]:
    """One for all, or one per prompt."""
    if isinstance(given, kind):
        return [given] * count
    many = list(cast("Sequence[Kind]", given))
    if len(many) != count:
        raise RequestError(f"{count} prompts but {len(many)} {name}", param=name)
    return many
