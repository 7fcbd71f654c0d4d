"""From a checked body to what the engine is asked: prompts as token ids, and parameters."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from kvloom.engine.params import SamplingParams
from kvloom.errors import RequestError
from kvloom.server.engine_protocol import Tokenizer
from kvloom.server.fields import MAX_PROMPTS
from kvloom.server.schemas import ChatRequest, CompletionRequest


@dataclass(frozen=True, slots=True)
class Prompt:
    """``text`` is what ``echo`` repeats."""

    token_ids: list[int]
    text: str


@dataclass(frozen=True, slots=True)
class Job:
    """Continue each of ``prompts`` in ``params.n`` ways. Choice ``p * n + i`` is continuation i of prompt p.

    ``echo``: answers begin with the prompt. ``show_prompt_logprobs``: the caller asked for them by name.
    ``show_token_ids``: beside the text. ``tokens_as_ids``: log probabilities name tokens ``token_id:123``.
    """

    prompts: tuple[Prompt, ...]
    params: SamplingParams
    echo: bool
    show_prompt_logprobs: bool
    show_token_ids: bool = False
    tokens_as_ids: bool = False


async def chat_job(body: ChatRequest, tokenizer: Tokenizer) -> Job:
    """Raises RequestError, or ModelError when the model has no chat template."""
    body.check()
    params = body.params()
    turns = [message.for_template() for message in body.messages]

    def render() -> Prompt:
        text = tokenizer.chat_prompt(turns)
        return Prompt(tokenizer.encode(text, add_special_tokens=False), body.echoed())

    # In a thread: a long conversation takes a while to tokenize, and others are streaming.
    return _job(body, (await asyncio.to_thread(render),), params)


async def completion_job(body: CompletionRequest, tokenizer: Tokenizer) -> Job:
    """Raises RequestError."""
    body.check()
    params = body.params()
    wanted = _split(body.prompt)
    echo = bool(body.echo)

    def prepare() -> tuple[Prompt, ...]:
        return tuple(_prompt(one, tokenizer, echo) for one in wanted)

    # Threads take turns with the kernels' team: where there is nothing to tokenize, two changes of thread are saved.
    ready = not echo and all(isinstance(one, list) for one in wanted)
    prompts = prepare() if ready else await asyncio.to_thread(prepare)
    return _job(body, prompts, params)


def _job(body: ChatRequest | CompletionRequest, prompts: tuple[Prompt, ...], params: SamplingParams) -> Job:
    return Job(
        prompts,
        params,
        echo=bool(body.echo),
        show_prompt_logprobs=body.prompt_logprobs is not None,
        show_token_ids=bool(body.return_token_ids),
        tokens_as_ids=bool(body.return_tokens_as_token_ids),
    )


def _split(prompt: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    """One entry per prompt. Raises RequestError when there is none, too many, or one is empty."""
    many: list[str | list[int]] = []
    if isinstance(prompt, str):
        many = [prompt]
    elif prompt and isinstance(prompt[0], int):
        many = [[token for token in prompt if isinstance(token, int)]]
    else:
        many = [one for one in prompt if not isinstance(one, int)]
    if len(many) > MAX_PROMPTS:
        raise RequestError(f"prompt has {len(many)} entries, at most {MAX_PROMPTS} are allowed", param="prompt")
    if not many or any(len(one) == 0 for one in many):
        raise RequestError("the prompt is empty", hint="send at least one token", param="prompt")
    return many


def _prompt(prompt: str | list[int], tokenizer: Tokenizer, echo: bool) -> Prompt:
    if isinstance(prompt, str):
        return Prompt(tokenizer.encode(prompt), prompt)
    return Prompt(prompt, tokenizer.decode(prompt) if echo else "")
