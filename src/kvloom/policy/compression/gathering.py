"""What stays is moved together as it is stored, what goes is gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kvloom.policy.compression.base import Kept, LayerContext
from kvloom.policy.compression.needs import Need


@dataclass(frozen=True, slots=True)
class Gathering:
    name: ClassVar[str] = "gather"
    rest: ClassVar[str | None] = None
    needs: ClassVar[frozenset[Need]] = frozenset()

    def stored(self, context: LayerContext, kept: Sequence[Kept]) -> list[None]:
        return [None] * len(kept)
