"""What may be done to a context's KV before a question is asked: the hook of lossy methods, and two to judge the judge.

A policy sees the KV of one layer at a time and says, per KV head, which entries stay. What is kept is compacted into
pages of single heads at its old positions (``eval.compact``): the memory that goes really goes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Floats
from kvloom.errors import EvalError

Params = Mapping[str, int | float | str]
QueryProtocol = Literal["query-agnostic", "query-aware"]
"""Whether a policy acts on the context before the question is known (the default), or sees the question as well."""

Kept = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class LayerContext:
    """KV of a context in one owning layer. Legend: S entries, K KV heads, D head dim.

    ``positions_S``: int64, ascending, absolute. ``k_SKD`` (rotated) and ``v_SKD``: float32, as decoded from the cache.
    """

    layer: int
    positions_S: npt.NDArray[np.int64]
    k_SKD: Floats
    v_SKD: Floats


class Policy(Protocol):
    """Something that can be done to a context. Name and parameters go into every row of results."""

    @property
    def name(self) -> str: ...
    @property
    def params(self) -> Params: ...


@runtime_checkable
class KeepPolicy(Policy, Protocol):
    """A policy that drops entries."""

    def keep(self, context: LayerContext) -> list[Kept]:
        """Per KV head: ascending indices into ``positions_S`` of the entries that stay."""
        ...


@dataclass(frozen=True, slots=True)
class Exact:
    """Nothing is dropped: the engine as it is."""

    @property
    def name(self) -> str:
        return "exact"

    @property
    def params(self) -> Params:
        return {}


@dataclass(frozen=True, slots=True)
class Damaged:
    """Drops a random share of the entries of every (layer, KV head): what every metric must notice.

    The draw depends on the seed and on what the context says: one pattern over all samples would be one observation.
    """

    drop: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.drop <= 1.0:
            raise EvalError(f"damaged: drop must be from 0 to 1, got {self.drop}")

    @property
    def name(self) -> str:
        return "damaged"

    @property
    def params(self) -> Params:
        return {"drop": self.drop, "seed": self.seed}

    def keep(self, context: LayerContext) -> list[Kept]:
        count, heads = context.k_SKD.shape[:2]
        rng = np.random.default_rng((self.seed, context.layer, zlib.crc32(context.k_SKD.tobytes())))
        num_kept = count - round(self.drop * count)
        return [np.sort(rng.choice(count, num_kept, replace=False)) for _ in range(heads)]


POLICIES: dict[str, Callable[..., Policy]] = {"exact": Exact, "damaged": Damaged}


def parse_policy(text: str) -> Policy:
    """Read ``name`` or ``name:param=value,...``. Raises EvalError.

    >>> parse_policy("damaged:drop=0.25")
    Damaged(drop=0.25, seed=0)
    """
    name, _, rest = text.partition(":")
    make = POLICIES.get(name)
    if make is None:
        raise EvalError(f"unknown policy `{name}`", hint=f"one of {', '.join(POLICIES)}")
    kinds: dict[str, Callable[[str], Any]] = {
        field.name: type(field.default)
        for field in fields(make)  # type: ignore[arg-type]
    }
    values: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        if key not in kinds:
            known = ", ".join(kinds) or "none"
            raise EvalError(f"policy `{name}` has no parameter `{key}`", hint=f"its parameters: {known}")
        try:
            values[key] = kinds[key](value)
        except ValueError:
            raise EvalError(f"policy `{name}`: cannot read `{value}` as {key}") from None
    return make(**values)
