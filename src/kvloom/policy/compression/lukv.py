"""Every byte goes to the KV head that needs it most, by what a profile knows of each: over all layers at once.

Source: LU-KV (Tang et al. 2026, arXiv 2602.08585). What a head loses by keeping its scorer's best n entries is no
convex function of n; its lower convex hull is, and for hulls it is best to spend where the next byte saves most. The
losses are learned beforehand (``Profile``).
We differ: the paper solves every question for its best division, averages these, and looks them up at run time; a
profile of ours has average losses, and we divide when a context is there. Thus one profile serves any ratio, floor,
window, entry size and page. What counts is loss per byte. Parts of the hulls that are equally steep are filled alike.

Legend: N KV heads of all layers, G points of a curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kvloom.errors import ParamsError
from kvloom.policy.compression.base import Counts, LayerScores, Origin
from kvloom.policy.compression.heads import Heads, check_floor
from kvloom.policy.compression.hull import Curve, spend
from kvloom.policy.compression.profile import FILES, Profile, read_profile, shipped_profile
from kvloom.policy.compression.words import FILE
from kvloom.policy.learned_files import shipped_files


@dataclass(frozen=True, slots=True)
class LuKv:
    """``profile``: the file; None: the one that ships for the model and the scorer. ``floor``: the share of its entries
    that every KV head keeps, 0 to 1, as far as an even division has room for it. ``page``: heads get room by so many
    entries; with the engine's 16 no page is half empty, and what counts is the bytes of pages: more entries may stay
    than ``Uniform`` keeps, in no more pages.
    Who removes more keeps a part of what who removes less keeps, as long as an even division has room for what is safe.
    Raises DataFileError when the file cannot be read.
    """

    name: ClassVar[str] = "lukv"
    profile: Path | None = field(default=None, metadata=FILE)
    floor: float = 0.01
    page: int = 1
    _named: Profile | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        check_floor(self.floor)
        if self.page < 1:
            raise ParamsError(f"page must be a number of entries from 1, got {self.page}", param="page")
        if self.profile is not None:
            object.__setattr__(self, "_named", read_profile(self.profile))

    @property
    def reads(self) -> tuple[Path, ...]:
        """The files that may be read although none is named."""
        return shipped_files(FILES) if self.profile is None else ()

    def kept(self, ratio: float, scores: Sequence[LayerScores], origin: Origin) -> list[Counts]:
        heads = Heads.of(ratio, scores)
        curves = self._curves(heads, scores, origin)
        even_N = -(-heads.uniform_N // self.page)
        budget = sum(int(even) * curve.unit_bytes for even, curve in zip(even_N, curves, strict=True))
        units_N = spend(curves, budget)
        return heads.by_layer(np.minimum(units_N * self.page, heads.size_N))

    def _curves(self, heads: Heads, scores: Sequence[LayerScores], origin: Origin) -> list[Curve]:
        profile = self._named or shipped_profile(origin.weights, origin.scorer, origin.params)
        _check(profile, scores, origin)
        whole_N = np.array(origin.whole, np.int64)[heads.slot_N] if origin.whole else heads.size_N
        known = profile.losses_of(int(whole_N.max(initial=0)))
        losses_NG = [losses_G for layer in origin.layers for losses_G in known[profile.layers.index(layer)]]
        floor_N = np.minimum(np.round(self.floor * heads.size_N).astype(np.int64), heads.uniform_N)
        least_N = np.maximum(floor_N, heads.least_N)
        return [
            curve_of(profile.shares_G, losses_G, (whole, size, least), self.page, origin.entry_bytes[slot])
            for losses_G, whole, size, least, slot in zip(
                losses_NG, *(each_N.tolist() for each_N in (whole_N, heads.size_N, least_N, heads.slot_N)), strict=True
            )
        ]


def _check(profile: Profile, scores: Sequence[LayerScores], origin: Origin) -> None:
    """Raises ParamsError when the profile is of another model, which it also is when nobody names it, or scorer."""
    profile.made_for.check(
        replace(profile.made_for, weights=origin.weights, scorer=origin.scorer, params=origin.params)
    )
    width = profile.losses_BLKG.shape[2]
    for layer, scores_KS in zip(origin.layers, scores, strict=True):
        if layer not in profile.layers or len(scores_KS) != width:
            raise ParamsError(
                f"the profile is for {width} KV heads of {len(profile.layers)} layers; "
                f"layer {layer} has {len(scores_KS)}",
                param="profile",
            )


def curve_of(
    shares_G: npt.NDArray[np.float64],
    losses_G: npt.NDArray[np.float64],
    entries: tuple[int, int, int],
    page: int,
    entry_bytes: int,
) -> Curve:
    """Losses over whole pages, straight between the points that are known.

    ``entries``: how many there were, how many of them there are, and how many are given; shares are of the first.
    """
    whole, size, least = entries
    units, first = -(-size // page), -(-least // page)
    known = np.round(shares_G * -(-whole // page)).astype(np.int64)
    units_P = np.unique(np.append(known[(known > first) & (known < units)], [first, units]))
    shares_P = np.minimum(units_P * page, size) / max(1, whole)
    return Curve(units_P, np.interp(shares_P, shares_G, losses_G), page * entry_bytes)
