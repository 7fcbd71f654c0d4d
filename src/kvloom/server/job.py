"""What a dialect asks of the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.params import SamplingParams
from kvloom.errors import PromptTooLong
from kvloom.server.pieces import PieceReader, PlainReader, TokenCount


@dataclass(frozen=True, slots=True)
class Prompt:
    """``text`` is what ``echo`` repeats, and what an answer continues."""

    token_ids: list[int]
    text: str


@dataclass(frozen=True, slots=True)
class Job:
    """Continue each of ``prompts`` in ``params.n`` ways. Choice ``p * n + i`` is continuation i of prompt p.

    ``otherwise``: how instead, where ``cache`` asks for something by default, and a prompt cannot have it.
    ``echo``: answers begin with the prompt. ``show_prompt_logprobs``: the caller asked for them by name.
    ``show_token_ids``: beside the text. ``tokens_as_ids``: log probabilities name tokens ``token_id:123``.
    ``new_reader``: makes what cuts a choice's text into pieces; ``new_tokens``: what counts its tokens of reasoning,
    where that is told apart. ``prompt_field``: where the body has the prompt.
    """

    prompts: tuple[Prompt, ...]
    params: SamplingParams
    cache: CacheParams
    echo: bool = False
    show_prompt_logprobs: bool = False
    otherwise: CacheParams | None = None
    show_token_ids: bool = False
    tokens_as_ids: bool = False
    new_reader: Callable[[], PieceReader] = PlainReader
    new_tokens: Callable[[], TokenCount] | None = None
    prompt_field: str = "prompt"


@contextmanager
def blamed(prompt_field: str) -> Iterator[None]:
    """A prompt that is too long is the fault of this field of the body."""
    try:
        yield
    except PromptTooLong as error:
        error.param = prompt_field
        raise
