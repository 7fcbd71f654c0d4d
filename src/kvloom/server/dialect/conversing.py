"""From a conversation, whatever dialect it came in, to a job with one prompt and one answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from kvloom.engine.cache_params import CacheParams, Mark
from kvloom.engine.params import SamplingParams
from kvloom.model.text.documents import Spans
from kvloom.server.dialect.answering import Served
from kvloom.server.dialect.breakpoints import Rendering
from kvloom.server.dialect.naming import Naming
from kvloom.server.dialect.prepare import held_to
from kvloom.server.dialect.reasoning import Effort
from kvloom.server.dialect.tools.conversation import Conversation, form_of, reader_of
from kvloom.server.dialect.tools.forms import ToolForm
from kvloom.server.job import Job, Prompt, blamed


def no_marks(_: Rendering, __: str, ___: list[int]) -> tuple[Mark, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class Asked:
    """``size``: characters, about. ``prompt_field``, ``form_field``, ``effort_field``: where the body has the
    conversation, the form of the answer, and ``effort``, of reasoning. ``prefill``: text that the answer continues.
    ``reasoning_tokens``: at most so many of them. ``marks``: of the prompt, from its text and tokens.
    """

    conversation: Conversation
    size: int
    prompt_field: str
    form_field: str
    prefill: str = ""
    effort: Effort | None = None
    effort_field: str = "reasoning"
    reasoning_tokens: int | None = None
    marks: Callable[[Rendering, str, list[int]], tuple[Mark, ...]] = no_marks


@dataclass(frozen=True, slots=True)
class Prompted:
    """``documents``: where they are, in tokens. ``text``: of the prompt."""

    prompt: Prompt
    documents: Spans
    marks: tuple[Mark, ...]
    form: ToolForm | None
    text: str


async def prompted(asked: Asked, served: Served, cache: CacheParams | None, naming: Naming) -> Prompted:
    """The prompt, as long as a request of ``cache`` may be, or, with None, of any length.

    Raises RequestError, or ModelError when the model has no chat template.
    """
    limit = None if cache is None else served.engine.longest(cache)

    def render() -> Prompted:
        naming.resolve(asked.conversation.turns)
        form = served.forms.get() if asked.conversation.needs_tool_form else None
        rendering = Rendering(served.engine.tokenizer, form, asked.conversation.documents, limit)
        directed = served.reasoning.directed(asked.conversation, asked.effort, asked.effort_field)
        text, found = rendering.prompt(directed, asked.prefill)
        marks = asked.marks(rendering, text, found.ids)
        return Prompted(Prompt(found.ids, asked.prefill), found.documents, marks, form, text)

    with blamed(asked.prompt_field):
        return await served.lanes.run(render, asked.size)


async def job_of(
    asked: Asked, served: Served, params: SamplingParams, cache: CacheParams, naming: Naming, *, says_compression: bool
) -> Job:
    """``says_compression``: whether the body does, or ``cache`` has a default. Raises as ``prompted``."""
    found = await prompted(asked, served, cache, naming)
    cache = cache.over(found.documents)
    conversation = asked.conversation
    field = "tools" if conversation.use.choice.mode == "required" else asked.form_field
    params = await held_to(served.engine, params, form_of(conversation, found.form), field)
    cache = dataclasses.replace(cache, marks=found.marks)
    params = served.reasoning.bounded(params, found.text, asked.reasoning_tokens)
    held = params.structured_outputs is not None
    reading = served.reasoning.reading(reader_of(conversation, found.form), found.text, held)
    unasked = cache.compression is not None and not says_compression
    return Job(
        (found.prompt,),
        params,
        cache,
        otherwise=dataclasses.replace(cache, compression=None) if unasked else None,
        prompt_field=asked.prompt_field,
        new_reader=reading.reader,
        new_tokens=reading.tokens,
    )
