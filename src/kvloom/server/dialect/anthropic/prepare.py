"""From a checked body to what is asked of the engine, and how many tokens each breakpoint keeps."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from kvloom.engine.aligned import aligned
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.edits import reusing
from kvloom.policy.compression import Compression
from kvloom.policy.fusion import Fusion
from kvloom.server.dialect.answering import Served
from kvloom.server.dialect.anthropic.clearing import cleared, told
from kvloom.server.dialect.anthropic.conversation import Turns
from kvloom.server.dialect.anthropic.management import ClearToolUses
from kvloom.server.dialect.anthropic.schemas import CountRequest, MessagesRequest
from kvloom.server.dialect.breakpoints import Reach
from kvloom.server.dialect.conversing import Asked, job_of, prompted
from kvloom.server.dialect.fields import Json
from kvloom.server.dialect.naming import Naming
from kvloom.server.dialect.tools.conversation import Conversation
from kvloom.server.job import Job


@dataclass(frozen=True, slots=True)
class Managed:
    """A body after the edits that it asks for. ``applied``: what the reply says of them, None where it asks for none.
    ``original``: tokens of the prompt before them.
    """

    body: CountRequest
    applied: list[Json] | None = None
    original: list[int] = field(default_factory=list)


async def messages_job(
    body: MessagesRequest, served: Served, naming: Naming, default: Compression | None = None
) -> tuple[Job, list[Json] | None]:
    """The job, and ``Managed.applied``. ``default``: what is done to contexts unless the body says.

    Raises RequestError, or ModelError when the model has no chat template.
    """
    body.check()
    params, cache = body.params(served.engine.sampling_defaults), body.cache_params(default)
    managed = await _managed(body, served, naming)
    job = await job_of(_asked(managed.body), served, params, cache, naming, says_compression=body.says_compression)
    if managed.applied and (fusion := body.repair) is not None:
        job = await served.lanes.run(lambda: _reusing(job, managed.original, fusion), body.size)
    return job, managed.applied


def _reusing(job: Job, original: list[int], fusion: Fusion) -> Job:
    """With KV of the conversation before its edits for what comes after them."""
    (prompt,) = job.prompts
    cache = reusing(original, aligned(original, prompt.token_ids), fusion, job.cache)
    return dataclasses.replace(job, cache=cache)


async def count_tokens(body: CountRequest, served: Served, naming: Naming) -> Json:
    """Raises as ``messages_job``."""
    body.check()
    managed = await _managed(body, served, naming)
    found = await prompted(_asked(managed.body), served, CacheParams(), naming)
    counted: Json = {"input_tokens": len(found.prompt.token_ids)}
    if managed.applied is not None:
        counted["context_management"] = {"original_input_tokens": len(managed.original)}
    return counted


async def _managed(body: CountRequest, served: Served, naming: Naming) -> Managed:
    """The conversation before an edit may be longer than the model's context."""
    if body.context_management is None:
        return Managed(body)

    async def tokens_of(body: CountRequest) -> list[int]:
        return (await prompted(_asked(body), served, None, naming)).prompt.token_ids

    original = await tokens_of(body)
    tokens = len(original)
    applied: list[Json] = []
    for edit in body.context_management.edits or ():
        turns, count = cleared(edit, body.messages, tokens)
        if not count:
            continue
        after = body.model_copy(update={"messages": turns})
        left = len(await tokens_of(after))
        if tokens - left >= (edit.least_tokens if isinstance(edit, ClearToolUses) else 1):
            applied.append(told(edit, count, tokens - left))
            body, tokens = after, left
    return Managed(body, applied, original)


def _asked(body: CountRequest) -> Asked:
    turns = Turns.of(body)
    conversation = Conversation(turns.turns, body.use(), body.form())
    marks = Reach(conversation, tuple(turns.breakpoints))
    thinking = body.thinking
    return Asked(
        conversation,
        body.size,
        "messages",
        "output_config",
        turns.prefill,
        None if thinking is None else thinking.effort,
        "thinking",
        None if thinking is None else thinking.tokens,
        marks=marks,
    )
