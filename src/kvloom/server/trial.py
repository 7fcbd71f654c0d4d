"""A default compression is tried once before anybody comes, so that whoever set it learns what is wrong with it."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.params import SamplingParams
from kvloom.errors import ConfigError, RequestError
from kvloom.policy.compression import METHODS, Compression, text_of
from kvloom.server.engine_protocol import ServedEngine

_TOKENS = 256
_TEXT = "In the beginning there were many words, and nobody had told them apart yet. " * _TOKENS


async def tried(engine: ServedEngine, compression: Compression) -> str | None:
    """What to tell the operator: None when a short context was compressed.

    Raises ConfigError when a file that the method needs is none for this model: then no context ever will be.
    """
    ids = engine.tokenizer.encode(_TEXT)[: min(_TOKENS, engine.max_model_len // 2)]
    cache = CacheParams(compression=compression, read=False, write=False)
    try:
        async with aclosing(engine.stream(ids, SamplingParams(max_tokens=1), cache=cache)) as updates:
            async for update in updates:
                if update.error is not None:
                    raise update.error
    except RequestError as error:
        text = text_of(compression)
        if METHODS[compression.name].kinds.get(error.param or "") is Path:
            raise ConfigError(f"compression `{text}`: {error}", hint=error.hint) from None
        return f"`{text}` cannot be done to a context of {len(ids)} tokens, and such are left exact: {error}"
    return None
