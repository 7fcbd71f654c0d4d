"""The allocators by name, and what each asks of the scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kvloom.policy.compression.adakv import AdaKv
from kvloom.policy.compression.base import Allocator, Scale
from kvloom.policy.compression.depthkv import DepthKv
from kvloom.policy.compression.global_top import GlobalTop
from kvloom.policy.compression.head_classes import HeadClasses
from kvloom.policy.compression.lukv import LuKv
from kvloom.policy.compression.pyramid import Pyramid
from kvloom.policy.compression.uniform import Uniform
from kvloom.policy.compression.words import kinds_of
from kvloom.policy.compression.xkv import Xkv


@dataclass(frozen=True, slots=True)
class Allocation:
    """``allocator`` makes one, of its parameters by name. ``compares``: it works with scores of this scale or more."""

    allocator: Callable[..., Allocator]
    compares: Scale = Scale.HEAD

    @property
    def kinds(self) -> dict[str, type]:
        return kinds_of(self.allocator)


ALLOCATORS: Mapping[str, Allocation] = {
    "uniform": Allocation(Uniform),
    "pyramid": Allocation(Pyramid),
    "depthkv": Allocation(DepthKv),
    "head_classes": Allocation(HeadClasses),
    "lukv": Allocation(LuKv),
    "adakv": Allocation(AdaKv, Scale.LAYER),
    "xkv": Allocation(Xkv, Scale.SHARES),
    "global": Allocation(GlobalTop, Scale.SHARES),
}
EVEN = "uniform"


def all_kinds() -> dict[str, type]:
    """The types of all allocators' parameters; those of one name have one type."""
    return {name: kind for each in ALLOCATORS.values() for name, kind in each.kinds.items()}
