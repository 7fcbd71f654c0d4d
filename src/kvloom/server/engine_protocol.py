"""The engine interface that the server uses: ``kvloom.engine.async_engine.AsyncEngine``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Protocol, TypeVar

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.defaults import SamplingDefaults
from kvloom.engine.engine import Engine
from kvloom.engine.facts import KvFacts
from kvloom.engine.outputs import RequestUpdate
from kvloom.engine.overview import Overview
from kvloom.engine.params import SamplingParams
from kvloom.engine.stats import EngineStats
from kvloom.engine.text import TokenStream
from kvloom.policy.events import Listener

T = TypeVar("T")


class Tokenizer(Protocol):
    """Text to token ids and back. Called from worker threads."""

    @property
    def chat_template(self) -> str | None:
        """The model's, in Jinja."""
        ...

    def described(self) -> dict[str, Any]:
        """As a file ``tokenizer_config.json`` says it."""
        ...

    def encode(self, text: str, add_special_tokens: bool | None = True, max_tokens: int | None = None) -> list[int]:
        """Raises RequestError; PromptTooLong as soon as the text is certain to exceed ``max_tokens``."""
        ...

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str: ...
    def token_text(self, token_id: int, /) -> str: ...
    def token_bytes(self, token_id: int, /) -> bytes: ...
    def stream(self, skip_special_tokens: bool, after: Sequence[int] = (), /) -> TokenStream:
        """Decode tokens incrementally."""
        ...

    def chat_prompt(
        self,
        messages: list[dict[str, Any]],
        add_generation_prompt: bool = True,
        chat_template_kwargs: dict[str, Any] | None = None,
        tools: Sequence[dict[str, Any]] | None = None,
        continue_final_message: bool = False,
    ) -> str:
        """Render a conversation. Raises RequestError, or ModelError when the model has no chat template."""
        ...


class ServedEngine(Protocol):
    """A running engine."""

    @property
    def model_name(self) -> str: ...
    @property
    def max_model_len(self) -> int:
        """Tokens that a request may have whose KV has no budget of its own."""
        ...

    @property
    def facts(self) -> KvFacts:
        """What is fixed about its KV memory."""
        ...

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def sampling_defaults(self) -> SamplingDefaults: ...
    @property
    def alive(self) -> bool:
        """Whether requests make progress: False once the engine's thread has ended."""
        ...

    def longest(self, cache: CacheParams) -> int:
        """Tokens that such a request may have."""
        ...

    async def compiled(self, params: SamplingParams) -> object:
        """Compile the form of the answer, if it is to have one. Raises ParamsError when it is none."""
        ...

    def validate(self, prompt_ids: list[int], params: SamplingParams, cache: CacheParams) -> None:
        """Raise RequestError when such a request can never be served."""
        ...

    def stream(
        self,
        prompt: str | list[int],
        params: SamplingParams,
        request_id: str | None = None,
        *,
        client: str = "",
        cache: CacheParams | None = None,
    ) -> AsyncGenerator[RequestUpdate, None]:
        """Yield what each step adds. Raises RequestError before the first update. Clients get their turns fairly.

        Closing the generator, or cancelling the task that waits on it, aborts the request at once.
        """
        ...

    def stats(self) -> EngineStats: ...
    async def overview(self, request_ids: Sequence[str]) -> Overview:
        """How memory is filled, and where the KV of these requests lies. Costs the engine's thread a bounded time."""
        ...

    async def ask(self, question: Callable[[Engine], T]) -> T:
        """Answer on the engine's thread, between two steps."""
        ...

    async def listen(self, listener: Listener) -> None:
        """Tell ``listener``, on the engine's thread, what is stored in RAM, and every event from now on."""
        ...

    async def reset_cache(self) -> None: ...
    async def check(self) -> None:
        """Audit every byte of KV memory, between two steps. Raises InternalError when something does not add up."""
        ...
