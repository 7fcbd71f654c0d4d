"""The field ``kvloom`` of a body: settings for which neither OpenAI's API nor vLLM's has a field.

    {"kvloom": {"cache": {"read": false, "write": false}}}
    {"kvloom": {"cache": {"priority": 80, "ttl_s": 30}}}
    {"kvloom": {"cache": {"kept_as": "chunk"}}}
    {"kvloom": {"cache": {"compression": {"method": "knorm", "ratio": 0.5}, "compress_after": 1000}}}
    {"kvloom": {"cache": {"lossy": true}}}
    {"kvloom": {"cache": {"compression": {"method": "exact"}}}}
    {"kvloom": {"cache": {"fusion": {"selector": "a3", "ratio": 0.15}}}}
    {"kvloom": {"cache": {"fusion": {"selector": "a3"}, "documents": "by content"}}}
    {"kvloom": {"cache": {"fusion": {"selector": "a3"}, "documents": [[12, 512], [512, 1024]]}}}
    {"kvloom": {"cache": {"compression": {"method": "knorm", "ratio": 0.5}, "guard": {"every": 8, "drift": 0.05}}}}

Unknown names in it are rejected, never ignored.
"""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from kvloom.engine.cache_params import CacheParams, Guard, Where
from kvloom.errors import ParamsError, RequestError
from kvloom.policy.compression import Compression, asked_for
from kvloom.policy.fusion import Fusion, fusion_of
from kvloom.server.dialect.field_table import Json
from kvloom.server.dialect.fields import Real, must_be

_ELSEWHERE = {
    "kvloom.cache.salt": "use `cache_salt`, beside `kvloom`",
    "kvloom.cache.cache_salt": "it stands beside `kvloom`",
    "kvloom.cache.match": "the server's setting `share_prefixes` says it",
}


class CompressionFields(BaseModel):
    """A method by its name, the share of entries that it removes or the bytes that it leaves, and its own parameters
    beside them; or ``exact``.
    """

    model_config = ConfigDict(strict=True, extra="allow")

    method: str
    ratio: Real | None = None
    budget: int | None = None

    def compression(self) -> Compression | None:
        """Raises ParamsError."""
        try:
            return asked_for(self.method, self.ratio, self.budget, **(self.model_extra or {}))
        except ParamsError as error:
            error.param = f"kvloom.cache.compression.{error.param}"
            raise


class GuardFields(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", json_schema_extra={"additionalProperties": False})

    every: int | None = None
    drift: Real | None = None

    def guard(self) -> Guard:
        """Null means the default. Raises ParamsError."""
        try:
            return Guard(**self.model_dump(include=set(type(self).model_fields), exclude_none=True))
        except ParamsError as error:
            error.param = f"kvloom.cache.{error.param}"
            raise


RatioField = Annotated[Real | Literal["loading"], must_be("a number, or `loading`")]


class FusionFields(BaseModel):
    """A selector by its name, the share of tokens that is computed again, or the rule for it, and its own parameters
    beside them. Targets are met by the profile that comes with the model: files are the operator's.
    """

    model_config = ConfigDict(strict=True, extra="allow")

    selector: str
    ratio: RatioField | None = None
    least: Real | None = None
    target: Real | None = None

    def fusion(self) -> Fusion:
        """Null means the default. Raises ParamsError."""
        more = {name: value for name, value in (self.model_extra or {}).items() if value is not None}
        try:
            if "profile" in more:
                raise ParamsError("a profile is a file, and cannot be chosen by a request", param="profile")
            return fusion_of(self.selector, self.ratio, least=self.least, target=self.target, **more)
        except ParamsError as error:
            error.param = f"kvloom.cache.fusion.{error.param}"
            raise


DocumentsField = Annotated[
    Where | list[Annotated[list[int], Field(min_length=2, max_length=2)]],
    must_be("`marked`, `by content`, or a list of [start, stop], spans of the prompt's tokens"),
]


class CacheFields(BaseModel):
    """What a client may set. The salt is a field of the body, as in vLLM; match granularity is a server setting."""

    model_config = ConfigDict(strict=True, extra="allow", json_schema_extra={"additionalProperties": False})

    read: bool | None = None
    write: bool | None = None
    priority: int | None = None
    ttl_s: Real | None = None
    pin_s: Real | None = None
    kept_as: str | None = None
    compression: CompressionFields | None = None
    compress_after: int | None = None
    compress_when: str | None = None
    lossy: bool | None = None
    guard: GuardFields | None = None
    fusion: FusionFields | None = None
    documents: DocumentsField | None = None


class Extension(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", json_schema_extra={"additionalProperties": False})

    cache: CacheFields | None = None

    @property
    def says_compression(self) -> bool:
        """Whether anything is said of it: then no default has a part in it that is not asked for."""
        asked = self.cache
        return asked is not None and (asked.compression or asked.guard or asked.compress_after) is not None

    def check(self) -> None:
        """Reject unknown names. Raises RequestError."""
        _only(self, "kvloom")
        if self.cache is not None:
            _only(self.cache, "kvloom.cache")
            if self.cache.guard is not None:
                _only(self.cache.guard, "kvloom.cache.guard")


def cache_params(extension: Extension | None, salt: str | None, default: Compression | None = None) -> CacheParams:
    """Null means the default. ``default``: the caller's compression, of texts alone, and not for who takes lossy KV or
    a fusion instead. Raises ParamsError.
    """
    asked = extension.cache if extension is not None else None
    if asked is not None and (asked.kept_as not in (None, "text") or asked.fusion is not None):
        default = None
    said: Json = {name: value for name in CacheFields.model_fields if (value := getattr(asked, name, None)) is not None}
    fields = said.get("compression")
    unsaid = None if said.get("lossy") else default
    said["compression"] = fields.compression() if isinstance(fields, CompressionFields) else unsaid
    if isinstance(fusion := said.get("fusion"), FusionFields):
        said = {"documents": "marked"} | said | {"fusion": fusion.fusion()}
    if isinstance(spans := said.get("documents"), list):
        said["documents"] = tuple(map(tuple, spans))
    guard = said.get("guard")
    if isinstance(guard, GuardFields):
        said["guard"] = guard.guard()
    try:
        return CacheParams(salt=salt, **said)
    except ParamsError as error:
        if error.param in said:
            error.param = f"kvloom.cache.{error.param}"
        raise


class _Body(Protocol):
    @property
    def cache_salt(self) -> str | None: ...
    @property
    def kvloom(self) -> Extension | None: ...


class AsksOfCache:
    """What a body with these two fields asks of the cache, in any dialect."""

    def cache_params(self: _Body, default: Compression | None = None) -> CacheParams:
        """The caller's cache parameters; ``Caller.own`` applies the caller's permissions.

        ``default``: what is done to the context if the body does not say. Raises ParamsError.
        """
        return cache_params(self.kvloom, self.cache_salt, default)

    @property
    def says_compression(self: _Body) -> bool:
        return self.kvloom is not None and self.kvloom.says_compression


def _only(fields: BaseModel, place: str) -> None:
    for name in fields.model_extra or {}:
        *names, last = [f"`{one}`" for one in type(fields).model_fields]
        known = f"{', '.join(names)} and {last}" if names else last
        full = f"{place}.{name}"
        raise RequestError(f"`{full}` is unknown", hint=_ELSEWHERE.get(full, f"`{place}` has {known}"), param=full)
