"""From a checked body to a job: prompts as token ids, and parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from kvloom.engine.cache_params import CacheParams, Mark
from kvloom.engine.params import SamplingParams
from kvloom.engine.structured import StructuredOutputsParams
from kvloom.errors import ParamsError, PromptTooLong, RequestError, context_overflow
from kvloom.model.text.documents import Encoded
from kvloom.policy.compression import Compression
from kvloom.server.dialect.breakpoints import Reach, Rendering
from kvloom.server.dialect.naming import Naming
from kvloom.server.dialect.reasoning import Reasoning
from kvloom.server.dialect.schemas import ChatRequest, CompletionRequest
from kvloom.server.dialect.tools.conversation import form_of, reader_of
from kvloom.server.dialect.tools.forms import ToolForm, ToolForms
from kvloom.server.engine_protocol import ServedEngine, Tokenizer
from kvloom.server.job import Job, Prompt, blamed
from kvloom.server.lanes import LARGE, Lanes


async def chat_job(
    body: ChatRequest,
    engine: ServedEngine,
    lanes: Lanes,
    forms: ToolForms,
    reasoning: Reasoning,
    naming: Naming,
    default: Compression | None = None,
) -> Job:
    """``default``: what is done to contexts unless the body says.

    Raises RequestError, or ModelError when the model has no chat template.
    """
    body.check()
    params, conversation = body.params(engine.sampling_defaults), body.conversation()
    conversation = reasoning.directed(conversation, body.reasoning_effort, "reasoning_effort")
    cache = body.cache_params(default)
    tokenizer, limit = engine.tokenizer, engine.longest(cache)

    def render() -> tuple[Encoded, tuple[Mark, ...], ToolForm | None, str]:
        naming.resolve(conversation.turns)
        form = forms.get() if conversation.needs_tool_form else None
        special = bool(body.add_special_tokens)
        rendering = Rendering(tokenizer, form, conversation.documents, limit, special)
        text, found = rendering.prompt(conversation)
        return found, Reach(conversation, body.breakpoints(conversation.turns))(rendering, text, found.ids), form, text

    with blamed("messages"):
        found, marks, form, text = await lanes.run(render, body.size)
    cache = dataclasses.replace(cache.over(found.documents), marks=marks)
    required = conversation.use.choice.mode == "required"
    params = await held_to(engine, params, form_of(conversation, form), "tools" if required else _form_field(body))
    params = reasoning.bounded(params, text, body.reasoning_tokens)
    job = _job(body, (Prompt(found.ids, body.echoed()),), params, cache)
    reading = reasoning.reading(reader_of(conversation, form), text, params.structured_outputs is not None)
    return dataclasses.replace(job, new_reader=reading.reader, new_tokens=reading.tokens, prompt_field="messages")


async def held_to(
    engine: ServedEngine, params: SamplingParams, form: StructuredOutputsParams | None, field: str
) -> SamplingParams:
    """``params`` with a form of the answer, which is compiled. Raises ParamsError about ``field`` when it is none."""
    if form is None:
        return params
    params = dataclasses.replace(params, structured_outputs=form)
    try:
        await engine.compiled(params)
    except ParamsError as error:
        error.param = field
        raise
    return params


def _form_field(body: ChatRequest | CompletionRequest) -> str:
    form = body.form()
    return "response_format" if form is None else form[0]


async def completion_job(
    body: CompletionRequest, engine: ServedEngine, lanes: Lanes, default: Compression | None = None
) -> Job:
    """``default``: what is done to contexts unless the body says. Raises RequestError."""
    body.check()
    params, form = body.params(engine.sampling_defaults), body.form()
    if form is not None:
        params = await held_to(engine, params, form[1], form[0])
    echo = bool(body.echo)
    cache = body.cache_params(default).over(())
    limit = engine.longest(cache)
    wanted = _split(body.prompt, limit)
    shown = params.skip_special_tokens if echo else None

    def tokenize(some: list[str | list[int]]) -> list[Prompt]:
        return [_prompt(one, engine.tokenizer, limit, shown, body.add_special_tokens) for one in some]

    return _job(body, await _prepare(wanted, tokenize, lanes, shown is not None), params, cache)


def _job(
    body: ChatRequest | CompletionRequest,
    prompts: tuple[Prompt, ...],
    params: SamplingParams,
    cache: CacheParams,
) -> Job:
    unasked = cache.compression is not None and not body.says_compression
    return Job(
        prompts,
        params,
        cache,
        otherwise=dataclasses.replace(cache, compression=None) if unasked else None,
        echo=bool(body.echo),
        show_prompt_logprobs=body.prompt_logprobs is not None,
        show_token_ids=bool(body.return_token_ids),
        tokens_as_ids=bool(body.return_tokens_as_token_ids),
    )


async def _prepare(
    wanted: list[str | list[int]],
    prepare: Callable[[list[str | list[int]]], list[Prompt]],
    lanes: Lanes,
    shown: bool,
) -> tuple[Prompt, ...]:
    # Threads compete with the kernels' thread pool: without anything to tokenize, two context switches are saved.
    if not shown and all(isinstance(one, list) for one in wanted):
        return tuple(prepare(wanted))
    size = sum(map(len, wanted))
    if size < LARGE:
        return tuple(await lanes.run(lambda: prepare(wanted), size))
    prompts: list[Prompt] = []
    for one in wanted:  # one by one, so that other requests get their turn in between
        prompts += await lanes.run(partial(prepare, [one]), len(one))
    return tuple(prompts)


def _split(prompt: str | list[str] | list[int] | list[list[int]], max_tokens: int) -> list[str | list[int]]:
    """One entry per prompt. Raises RequestError when there are none, or one is empty or too long."""
    many: list[str | list[int]] = []
    if isinstance(prompt, str):
        many = [prompt]
    elif prompt and isinstance(prompt[0], int):
        many = [[token for token in prompt if isinstance(token, int)]]
    else:
        many = [one for one in prompt if not isinstance(one, int)]
    if not many or any(len(one) == 0 for one in many):
        raise RequestError("the prompt is empty", hint="send at least one token", param="prompt")
    longest = max((len(one) for one in many if isinstance(one, list)), default=0)
    if longest > max_tokens:  # before anything iterates over it
        words = context_overflow(max_tokens, f"it has {longest:,} tokens.")
        raise PromptTooLong(words, hint="shorten the prompt", param="prompt")
    return many


def _prompt(
    prompt: str | list[int],
    tokenizer: Tokenizer,
    max_tokens: int,
    skip_special_tokens: bool | None,
    add_special_tokens: bool | None,
) -> Prompt:
    """``skip_special_tokens``: how to show token ids; None: not at all."""
    if isinstance(prompt, str):
        return Prompt(tokenizer.encode(prompt, add_special_tokens, max_tokens=max_tokens), prompt)
    if skip_special_tokens is None:
        return Prompt(prompt, "")
    stream = tokenizer.stream(skip_special_tokens)
    return Prompt(prompt, "".join(map(stream.push, prompt)))  # the answer completes a partial character
