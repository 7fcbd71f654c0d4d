"""Prompt caching in OpenAI's words, for all bodies that have them, and what each asks of the cache in its own.

prompt_cache_key                    CacheParams.session
prompt_cache_options.ttl            ttl_s and pin_s of all KV of the request, and of breakpoints that have no own
prompt_cache_options.mode explicit  only what breakpoints say; without any, the cache is neither read nor written
prompt_cache_options.prewarm        no answer: the prompt's KV is computed and kept
prompt_cache_retention "24h"        as a ttl of 24 hours; "in_memory": as ever
prompt_cache_breakpoint             CacheParams.marks: see ``breakpoints``
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.params import SamplingParams
from kvloom.errors import ParamsError, RequestError
from kvloom.policy.compression import Compression
from kvloom.server.dialect.extension import AsksOfCache, Extension
from kvloom.server.dialect.field_table import SERVED
from kvloom.server.dialect.fields import must_be

LIFETIMES_S = {"5m": 300.0, "30m": 1800.0, "1h": 3600.0, "12h": 43_200.0}
"""For which a breakpoint, or a request, may keep KV after its last use."""

DEFAULT_LIFETIME_S = LIFETIMES_S["30m"]
_DAY_S = 86_400.0
_KNOWN = "`5m`, `30m`, `1h` or `12h`"

Lifetime = Annotated[Literal["5m", "30m", "1h", "12h"], must_be(_KNOWN)]
Retention = Annotated[Literal["in_memory", "in-memory", "24h"], must_be("`in_memory` or `24h`")]


class PromptCacheOptions(BaseModel):
    """``comparison_response_id`` has no effect: ``/cache/requests/{id}`` tells what a request missed, and why."""

    model_config = ConfigDict(strict=True, extra="allow", json_schema_extra={"additionalProperties": False})

    mode: Annotated[Literal["implicit", "explicit"], must_be("`implicit` or `explicit`")] | None = None
    ttl: Lifetime | None = None
    prewarm: bool | None = None
    comparison_response_id: str | None = None

    def check(self) -> None:
        """Raises RequestError for an unknown name."""
        for name in self.model_extra or {}:
            known = ", ".join(f"`{one}`" for one in type(self).model_fields)
            place = f"prompt_cache_options.{name}"
            raise RequestError(
                f"`{place}` is not supported by this server", hint=f"`prompt_cache_options` has {known}", param=place
            )


_NO_OPTIONS = PromptCacheOptions()


def _field(name: str) -> Any:
    return Field(default=None, description=SERVED[name].says)


class PromptCacheFields(BaseModel, AsksOfCache):
    """Fields of a body that are about the cache. ``kvloom`` comes first."""

    cache_salt: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="KV is reused only between requests with the same salt"
    )
    kvloom: Extension | None = Field(default=None, description="as in chat completions")
    prompt_cache_key: Annotated[str, Field(min_length=1, max_length=512)] | None = _field("prompt_cache_key")
    prompt_cache_retention: Retention | None = _field("prompt_cache_retention")
    prompt_cache_options: PromptCacheOptions | None = _field("prompt_cache_options")

    @property
    def has_breakpoints(self) -> bool:
        """Whether any part of the prompt is one."""
        return False

    @property
    def lifetime_s(self) -> float:
        """Of breakpoints that say none."""
        return LIFETIMES_S[self._options.ttl] if self._options.ttl is not None else DEFAULT_LIFETIME_S

    @property
    def most_breakpoints(self) -> int:
        """How many count, the latest ones: four, the end of the prompt included where it is one."""
        return 3 if self._kept_s is not None else 4

    def check_prompt_cache(self) -> None:
        """Raises RequestError."""
        self._options.check()

    def cache_params(self, default: Compression | None = None) -> CacheParams:
        """As of any body, with what these fields say unless ``kvloom`` does. Raises ParamsError."""
        cache = super().cache_params(default)
        if self._options.mode == "explicit" and not self.has_breakpoints:
            cache = dataclasses.replace(cache, read=False, write=False)
        if (kept_s := self._kept_s) is not None:
            ttl_s, pin_s = (kept_s if said is None else said for said in (cache.ttl_s, cache.pin_s))
            cache = dataclasses.replace(cache, ttl_s=ttl_s, pin_s=pin_s)
        if self.prompt_cache_key is None:
            return cache
        try:
            return dataclasses.replace(cache, session=self.prompt_cache_key)
        except ParamsError as error:
            error.param = "prompt_cache_key"
            raise

    def prewarmed(self, params: SamplingParams) -> SamplingParams:
        """``params``; without an answer where only the cache is to be prepared."""
        if not self._options.prewarm:
            return params
        return dataclasses.replace(params, n=1, max_tokens=0, min_tokens=0)

    @property
    def _options(self) -> PromptCacheOptions:
        return self.prompt_cache_options or _NO_OPTIONS

    @property
    def _kept_s(self) -> float | None:
        """For how long all of the request's KV is kept, if it says."""
        said = [_DAY_S] if self.prompt_cache_retention == "24h" else []
        if self._options.ttl is not None and self._options.mode != "explicit":
            said.append(LIFETIMES_S[self._options.ttl])
        return max(said, default=None)
