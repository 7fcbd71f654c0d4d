"""Which compressions of documents a fusion can read, and repair."""

from __future__ import annotations

from kvloom.errors import ParamsError
from kvloom.policy.compression import Compression
from kvloom.policy.compression.needs import MEASURED
from kvloom.policy.compression.needs import Need as CompressionNeed
from kvloom.policy.fusion import Fusion, Need

ONE_BY_ONE = "documents are compressed one by one, all of each"

_COPYING = ("gather", "recode")
"""Compactors that leave entries what they were."""


def check_of_documents(fusion: Fusion, compression: Compression) -> None:
    """Raises ParamsError when a method looks at more than what is stored, or when a selector does.

    A row that is computed again takes the place of its entries in all heads, and comes back where it was removed. So
    entries that stand for several rows cannot be repaired.
    """
    if _looks_on(compression.needs):
        parts = (compression.scorer, compression.compactor)
        name = next((part.name for part in parts if _looks_on(part.needs)), compression.name)
        raise ParamsError(
            f"`{name}` looks on while a context is computed, and {ONE_BY_ONE}, by what is stored of it",
            hint="a method that is content with keys and values, such as knorm or keydiff",
            param="compression",
        )
    if fusion.scorers and compression.compactor.name not in _COPYING:
        raise ParamsError(
            f"compactor `{compression.compactor.name}` makes one entry of several, which cannot be repaired row by row",
            hint=f"selector `reuse`, or compactor {' or '.join(_COPYING)}",
            param="compression",
        )
    if Need.CHECKED_VALUES in fusion.needs:
        raise ParamsError(
            f"selector `{fusion.name}` compares all values of a document, and a compression removes some",
            hint="a3, epic, fusionrag, prophetkv, recompute or reuse",
            param="compression",
        )


def _looks_on(needs: frozenset[CompressionNeed]) -> bool:
    return any(isinstance(need, MEASURED) for need in needs)
