"""The methods of compression by name, and how one is made of what a request, a command line or a file says.

A method is a scorer, an allocator that its scores are good enough for, a compactor, and what goes with any of them
(``BESIDE``): ``METHODS`` and ``ALLOCATORS`` say what goes with what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvloom.errors import ParamsError
from kvloom.policy.compression.allocators import ALLOCATORS, EVEN, all_kinds
from kvloom.policy.compression.base import Allocator, Compactor, Scale, Scorer
from kvloom.policy.compression.blended_leverage import BlendedLeverage
from kvloom.policy.compression.compactors import AS_IT_IS, COMPACTORS, compactor_kinds
from kvloom.policy.compression.compression import Compression
from kvloom.policy.compression.controls import KeepAll, KeepNone
from kvloom.policy.compression.critical import Critical
from kvloom.policy.compression.demote import Demote
from kvloom.policy.compression.expected_attention import ExpectedAttention
from kvloom.policy.compression.h2o import H2o
from kvloom.policy.compression.keydiff import KeyDiff
from kvloom.policy.compression.knorm import Knorm
from kvloom.policy.compression.kvzap import KvZap
from kvloom.policy.compression.kvzip import KvZip
from kvloom.policy.compression.laq import Laq
from kvloom.policy.compression.leverage import Leverage
from kvloom.policy.compression.observed_attention import ObservedAttention
from kvloom.policy.compression.protect import Protect
from kvloom.policy.compression.random import Random
from kvloom.policy.compression.sink_recent import SinkRecent
from kvloom.policy.compression.snapkv import SnapKv
from kvloom.policy.compression.tova import Tova
from kvloom.policy.compression.words import kinds_of


@dataclass(frozen=True, slots=True)
class Method:
    """``scorer`` makes one, of its parameters by name. ``ratio``: the only one that makes sense, if there is one: then
    there is nothing to allocate or protect. ``scale``: across what its scores can be compared; a scorer from a user's
    file has the default.
    """

    scorer: Callable[..., Scorer]
    ratio: float | None = None
    scale: Scale = Scale.SHARES

    @property
    def kinds(self) -> dict[str, type]:
        """Types of the parameters: fields by what they are without being given. Of equal names it is the scorer's."""
        parts = {"allocator": str, **all_kinds(), "compactor": str, **compactor_kinds(), **beside_kinds()}
        others = parts if self.ratio is None else {}
        return {**kinds_of(self.scorer), **{key: kind for key, kind in others.items() if key not in self.own}}

    @property
    def own(self) -> dict[str, type]:
        """The scorer's."""
        return kinds_of(self.scorer)


BESIDE: Mapping[str, Callable[..., Any]] = {"protect": Protect, "critical": Critical, "demote": Demote}
"""What goes with any scorer, allocator and compactor, by its field of ``Compression``."""

METHODS: Mapping[str, Method] = {
    "keep_all": Method(KeepAll, ratio=0.0),
    "keep_none": Method(KeepNone, ratio=1.0),
    "random": Method(Random),
    "sink_recent": Method(SinkRecent, scale=Scale.HEAD),
    "knorm": Method(Knorm, scale=Scale.LAYER),
    "keydiff": Method(KeyDiff, scale=Scale.LAYER),
    "leverage": Method(Leverage),
    "compactor": Method(BlendedLeverage, scale=Scale.LAYER),
    "h2o": Method(H2o),
    "tova": Method(Tova),
    "snapkv": Method(SnapKv),
    "laq": Method(Laq),
    "observed_attention": Method(ObservedAttention),
    "kvzip": Method(KvZip),
    "kvzap": Method(KvZap),
    "expected_attention": Method(ExpectedAttention, scale=Scale.LAYER),
}


def compression_of(
    name: str, /, ratio: float | None = None, budget: int | None = None, **params: object
) -> Compression:
    """A method by its name. Raises ParamsError, ``param`` being what is at fault.

    >>> compression_of("sink_recent", 0.5, sinks=2).scorer
    SinkRecent(sinks=2)
    >>> compression_of("knorm", 0.5, allocator="adakv", floor=0.1, protect_first=4).allocator
    AdaKv(floor=0.1)
    """
    method = METHODS.get(name)
    if method is None:
        raise ParamsError(f"unknown method `{name}`", hint=f"one of {', '.join(METHODS)}", param="method")
    return made(name, method, ratio, params, budget)


def made(
    name: str, method: Method, ratio: float | None, params: Mapping[str, object], budget: int | None = None
) -> Compression:
    """A method that may not be in the table. Raises ParamsError."""
    if ratio is None and budget is None:
        ratio = method.ratio
    if ratio is None and budget is None:
        raise ParamsError(
            f"method `{name}` needs a ratio, the share that is removed, or a budget, the bytes that are left",
            hint="ratio=0.5 removes half of the entries",
            param="ratio",
        )
    if method.ratio is not None and ratio != method.ratio:
        raise ParamsError(f"method `{name}` has no ratio but {method.ratio:g}", param="ratio")
    values: dict[str, Any] = {key: _value(name, method, key, value) for key, value in params.items()}
    scorer = method.scorer(**_taken(values, method.own))
    beside = {field: part(**_taken(values, kinds_of(part))) for field, part in BESIDE.items()}
    compactor = _compactor(values)
    allocator = _allocator(name, method, values)
    return Compression(scorer, ratio, allocator, compactor, budget=budget, **beside)


def beside_kinds() -> dict[str, type]:
    """The types of the parameters of what goes with anything."""
    return {name: kind for each in BESIDE.values() for name, kind in kinds_of(each).items()}


def _taken(values: dict[str, Any], kinds: Mapping[str, type]) -> dict[str, Any]:
    """The words of a part, taken out of ``values``."""
    return {key: values.pop(key) for key in list(values) if key in kinds}


def _value(name: str, method: Method, key: str, value: object) -> object:
    kind = method.kinds.get(key)
    if kind is None:
        hint = f"its parameters: {', '.join(method.kinds) or 'none'}"
        raise ParamsError(f"method `{name}` has no parameter `{key}`", hint=hint, param=key)
    fits = isinstance(value, Path) if kind is Path else type(value) is kind or (kind is float and type(value) is int)
    if not fits:  # a string is no file: what comes over a net must open none
        raise ParamsError(f"method `{name}`: {key} must be of type {kind.__name__}, got {value!r}", param=key)
    return value


def _compactor(values: dict[str, Any]) -> Compactor:
    """Takes its words out of ``values``."""
    name = str(values.pop("compactor", AS_IT_IS))
    if name not in COMPACTORS:
        raise ParamsError(f"unknown compactor `{name}`", hint=f"one of {', '.join(COMPACTORS)}", param="compactor")
    kinds = kinds_of(COMPACTORS[name])
    foreign = next((key for key in values if key in compactor_kinds() and key not in kinds), None)
    if foreign is not None:
        hint = f"its parameters: {', '.join(kinds) or 'none'}"
        raise ParamsError(f"compactor `{name}` has no parameter `{foreign}`", hint=hint, param=foreign)
    return COMPACTORS[name](**_taken(values, kinds))


def _allocator(method_name: str, method: Method, values: dict[str, Any]) -> Allocator:
    name = str(values.pop("allocator", EVEN))
    allocation = ALLOCATORS.get(name)
    if allocation is None:
        raise ParamsError(f"unknown allocator `{name}`", hint=f"one of {', '.join(ALLOCATORS)}", param="allocator")
    for key in values:
        if key not in allocation.kinds:
            hint = f"its parameters: {', '.join(allocation.kinds) or 'none'}"
            raise ParamsError(f"allocator `{name}` has no parameter `{key}`", hint=hint, param=key)
    if allocation.compares > method.scale:
        fits = [key for key, each in ALLOCATORS.items() if each.compares <= method.scale]
        raise ParamsError(
            f"allocator `{name}` compares scores by {allocation.compares.name.lower()}, "
            f"and those of `{method_name}` only mean something by {method.scale.name.lower()}",
            hint=f"with `{method_name}`: {', '.join(fits)}",
            param="allocator",
        )
    return allocation.allocator(**values)
