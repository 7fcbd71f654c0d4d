"""Who wrote a page: all that its key covers besides salt and tokens. Pages of another writer are never found by key, so
this only tells why not.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import cbor2

from kvloom.memory.keys import KEY_VERSION

Differs = Literal["keys", "weights", "formats", "unknown"]
"""By what another writer's pages cannot be used: the version of keys, the model's weights and how they run, the formats
of pages, or nobody knows.
"""


@dataclass(frozen=True)
class Writer:
    """``weights`` and ``formats``: as in ``keys.root_key``. ``model``: its name, for people."""

    weights: str
    formats: str
    keys: int = KEY_VERSION
    model: str = ""

    @cached_property
    def tag(self) -> int:
        """A number from 1 on, below 2**32, for headers of pages."""
        fields = {"formats": self.formats, "keys": self.keys, "weights": self.weights}
        digest = hashlib.sha256(cbor2.dumps(fields, canonical=True)).digest()
        return int.from_bytes(digest[:4], "little") or 1

    def differs(self, other: Writer | None) -> Differs:
        """By what first, from one that is not the same; None: of whom nothing is known."""
        if other is None:
            return "unknown"
        if self.keys != other.keys:
            return "keys"
        return "weights" if self.weights != other.weights else "formats"


@dataclass(frozen=True, slots=True)
class Other:
    """A writer, and what makes its pages another's."""

    writer: Writer
    differs: Differs
