"""What a method does to a context, as bytes: with equal ones, equal contexts come to the same."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cbor2
import numpy as np

from kvloom.policy.compression.allocators import ALLOCATORS
from kvloom.policy.compression.compactors import COMPACTORS
from kvloom.policy.compression.compression import Compression
from kvloom.policy.compression.methods import BESIDE, METHODS


def identity_of(compression: Compression) -> bytes | None:
    """A digest of all that is asked for, and of what its files held when they were read, whatever they are called.

    None: of a method with a budget, whose result depends on more than a context, and of one that is not ours, or has
    parameters of kinds that ours have not: nobody knows what it depends on. What ships is the same for as long as a
    process lives, and no part of it.

    >>> from kvloom.policy.compression import compression_of
    >>> identity_of(compression_of("knorm", 0.5)) == identity_of(compression_of("knorm", 0.6))
    False
    """
    if compression.ratio is None or not _is_ours(compression):
        return None
    try:
        plain = _plain(compression)
    except TypeError:
        return None
    return hashlib.sha256(cbor2.dumps(plain, canonical=True)).digest()


def _is_ours(compression: Compression) -> bool:
    method, allocation = METHODS.get(compression.name), ALLOCATORS.get(compression.allocator.name)
    pairs = [
        (compression.scorer, None if method is None else method.scorer),
        (compression.allocator, None if allocation is None else allocation.allocator),
        (compression.compactor, COMPACTORS.get(compression.compactor.name)),
        *((getattr(compression, name), kind) for name, kind in BESIDE.items()),
    ]
    return all(type(part) is kind for part, kind in pairs)


def _plain(value: Any) -> Any:
    """What CBOR has words for. Raises TypeError where it has none."""
    match value:
        case None | bool() | int() | float() | str() | bytes():
            return value
        case Path():
            return None  # what it held is another field
        case np.ndarray():
            return [value.dtype.str, list(value.shape), np.ascontiguousarray(value).tobytes()]
        case Mapping():
            return [[_plain(key), _plain(value[key])] for key in sorted(value)]
        case tuple() | list():
            return [_plain(each) for each in value]
    if dataclasses.is_dataclass(value):
        fields = [[each.name, _plain(getattr(value, each.name))] for each in dataclasses.fields(value)]
        return [type(value).__qualname__, fields]
    raise TypeError(f"a parameter of type {type(value).__name__}")
