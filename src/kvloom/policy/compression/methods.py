"""The methods of compression by name, and how one is made of what a request, a command line or a file says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kvloom.errors import ParamsError
from kvloom.policy.compression.base import Scorer
from kvloom.policy.compression.compression import Compression
from kvloom.policy.compression.keep_all import KeepAll
from kvloom.policy.compression.keep_none import KeepNone
from kvloom.policy.compression.knorm import Knorm
from kvloom.policy.compression.random import Random
from kvloom.policy.compression.sink_recent import SinkRecent


@dataclass(frozen=True, slots=True)
class Method:
    """``scorer`` makes one, of its parameters by name. ``ratio``: the only one that makes sense, if there is one."""

    scorer: Callable[..., Scorer]
    ratio: float | None = None

    @property
    def kinds(self) -> dict[str, type]:
        """Types of the parameters: the fields of the scorer, by what they are without being given."""
        if not dataclasses.is_dataclass(self.scorer):
            return {}
        return {each.name: type(each.default) for each in dataclasses.fields(self.scorer)}


METHODS: Mapping[str, Method] = {
    "keep_all": Method(KeepAll, ratio=0.0),
    "keep_none": Method(KeepNone, ratio=1.0),
    "random": Method(Random),
    "sink_recent": Method(SinkRecent),
    "knorm": Method(Knorm),
}


def compression_of(name: str, /, ratio: float | None = None, **params: object) -> Compression:
    """A method by its name. Raises ParamsError, ``param`` being what is at fault.

    >>> compression_of("sink_recent", 0.5, sinks=2).scorer
    SinkRecent(sinks=2)
    """
    method = METHODS.get(name)
    if method is None:
        raise ParamsError(f"unknown method `{name}`", hint=f"one of {', '.join(METHODS)}", param="method")
    return made(name, method, ratio, params)


def made(name: str, method: Method, ratio: float | None, params: Mapping[str, object]) -> Compression:
    """A method that may not be in the table. Raises ParamsError."""
    if ratio is None:
        ratio = method.ratio
    if ratio is None:
        hint = "ratio=0.5 removes half of the entries"
        raise ParamsError(f"method `{name}` needs a ratio: the share that is removed", hint=hint, param="ratio")
    if method.ratio is not None and ratio != method.ratio:
        raise ParamsError(f"method `{name}` has no ratio but {method.ratio:g}", param="ratio")
    for key, value in params.items():
        kind = method.kinds.get(key)
        if kind is None:
            hint = f"its parameters: {', '.join(method.kinds) or 'none'}"
            raise ParamsError(f"method `{name}` has no parameter `{key}`", hint=hint, param=key)
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ParamsError(f"method `{name}`: {key} must be of type {kind.__name__}, got {value!r}", param=key)
    return Compression(method.scorer(**params), ratio)
