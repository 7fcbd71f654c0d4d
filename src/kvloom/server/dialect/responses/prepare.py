"""From a checked body, and the response that it continues, to what is asked of the engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from kvloom.engine.cache_params import CacheParams
from kvloom.policy.compression import Compression
from kvloom.server.dialect.answering import Served
from kvloom.server.dialect.breakpoints import Reach, breakpoints_in
from kvloom.server.dialect.conversing import Asked, job_of, prompted
from kvloom.server.dialect.fields import Json
from kvloom.server.dialect.naming import Naming
from kvloom.server.dialect.responses.items import turns_of
from kvloom.server.dialect.responses.schemas import InputRequest, ResponsesRequest
from kvloom.server.dialect.tools.conversation import Conversation
from kvloom.server.job import Job


async def responses_job(
    body: ResponsesRequest,
    history: Sequence[Json],
    served: Served,
    naming: Naming,
    default: Compression | None = None,
) -> Job:
    """``history``: all items, those of the body included. ``default``: what is done to contexts unless it says.

    Raises RequestError, or ModelError when the model has no chat template.
    """
    params, cache = body.params(served.engine.sampling_defaults), body.cache_params(default)
    asked = _asked(body, history)
    points = breakpoints_in(asked.conversation.turns, body.lifetime_s, body.most_breakpoints, "input")
    asked = dataclasses.replace(asked, marks=Reach(asked.conversation, points))
    return await job_of(asked, served, params, cache, naming, says_compression=body.says_compression)


async def count_tokens(body: InputRequest, history: Sequence[Json], served: Served, naming: Naming) -> int:
    """Raises as ``responses_job``."""
    found = await prompted(_asked(body, history), served, CacheParams(), naming)
    return len(found.prompt.token_ids)


def _asked(body: InputRequest, history: Sequence[Json]) -> Asked:
    turns = turns_of(history)
    if body.instructions:
        turns.insert(0, {"role": "system", "content": body.instructions})
    effort = body.reasoning.effort if body.reasoning is not None else None
    return Asked(Conversation(turns, body.use(), body.form()), _size(turns), "input", "text", effort=effort)


def _size(turns: Sequence[Json]) -> int:
    """Characters of text."""
    return sum(_length(turn["content"]) for turn in turns)


def _length(content: str | list[Json]) -> int:
    return len(content) if isinstance(content, str) else sum(len(part.get("text") or "") for part in content)
