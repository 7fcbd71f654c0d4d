"""From a checked body, and the response that it continues, to a job."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from kvloom.engine.cache_params import CacheParams
from kvloom.policy.compression import Compression
from kvloom.server.dialect.fields import Json
from kvloom.server.dialect.responses.items import turns_of
from kvloom.server.dialect.responses.schemas import ResponsesRequest
from kvloom.server.engine_protocol import ServedEngine
from kvloom.server.job import Job, Prompt, blamed
from kvloom.server.lanes import Lanes


async def responses_job(
    body: ResponsesRequest,
    history: Sequence[Json],
    engine: ServedEngine,
    lanes: Lanes,
    default: Compression | None = None,
) -> Job:
    """``history``: all items, those of the body included. ``default``: what is done to contexts unless it says.

    Raises RequestError, or ModelError when the model has no chat template.
    """
    params, cache = body.params(engine.sampling_defaults), body.cache_params(default)
    ids = await prompt_ids(body.instructions, history, engine, lanes, cache)
    unasked = cache.compression is not None and not body.says_compression
    otherwise = dataclasses.replace(cache, compression=None) if unasked else None
    return Job((Prompt(ids, ""),), params, cache, otherwise=otherwise, prompt_field="input")


async def prompt_ids(
    instructions: str | None, history: Sequence[Json], engine: ServedEngine, lanes: Lanes, cache: CacheParams
) -> list[int]:
    """The prompt of a conversation. Raises as ``responses_job``."""
    turns = turns_of(history)
    if instructions:
        turns.insert(0, {"role": "system", "content": instructions})
    tokenizer, limit = engine.tokenizer, engine.longest(cache)
    with blamed("input"):
        return await lanes.run(
            lambda: tokenizer.encode(tokenizer.chat_prompt(turns), False, max_tokens=limit), _size(turns)
        )


def _size(turns: Sequence[Json]) -> int:
    """Characters of text."""
    contents = (turn["content"] for turn in turns)
    return sum(len(each) if isinstance(each, str) else sum(len(part["text"]) for part in each) for each in contents)
