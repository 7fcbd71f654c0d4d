"""The field ``kvloom`` of a body: settings for which neither OpenAI's API nor vLLM's has a field.

    {"kvloom": {"cache": {"read": false, "write": false}}}

Unknown names in it are rejected, never ignored.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from kvloom.engine.cache_params import CacheParams
from kvloom.errors import ParamsError, RequestError
from kvloom.server.dialect.field_table import Json

_ELSEWHERE = {
    "kvloom.cache.salt": "use `cache_salt`, beside `kvloom`",
    "kvloom.cache.cache_salt": "it stands beside `kvloom`",
    "kvloom.cache.match": "the server's setting `share_prefixes` says it",
}


class CacheFields(BaseModel):
    """What a client may set. The salt is a field of the body, as in vLLM; match granularity is a server setting."""

    model_config = ConfigDict(strict=True, extra="allow", json_schema_extra={"additionalProperties": False})

    read: bool | None = None
    write: bool | None = None
    priority: int | None = None


class Extension(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", json_schema_extra={"additionalProperties": False})

    cache: CacheFields | None = None

    def check(self) -> None:
        """Reject unknown names. Raises RequestError."""
        _only(self, "kvloom")
        if self.cache is not None:
            _only(self.cache, "kvloom.cache")


def cache_params(extension: Extension | None, salt: str | None) -> CacheParams:
    """Null means the default. Raises ParamsError."""
    asked = extension.cache if extension is not None else None
    said: Json = {} if asked is None else asked.model_dump(include=set(CacheFields.model_fields), exclude_none=True)
    try:
        return CacheParams(salt=salt, **said)
    except ParamsError as error:
        if error.param in said:
            error.param = f"kvloom.cache.{error.param}"
        raise


def _only(fields: BaseModel, place: str) -> None:
    for name in fields.model_extra or {}:
        *names, last = [f"`{one}`" for one in type(fields).model_fields]
        known = f"{', '.join(names)} and {last}" if names else last
        full = f"{place}.{name}"
        raise RequestError(f"`{full}` is unknown", hint=_ELSEWHERE.get(full, f"`{place}` has {known}"), param=full)
