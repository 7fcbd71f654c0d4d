"""What was learned beforehand about a model and selectors: how far answers are from a full prefill, by ratio.

On disk a profile is one JSON object, UTF-8:

    format    "kvloom-fusion-profile"
    version   1
    made_for  {"weights", "texts"}: the model, and a digest of what was read and how it was cut
    curves    {selector: {"ratios": [...], "kl": [...]}}: mean KL, nats per token, at ascending ratios, not rising

A selector is named with all that changes what it chooses, as ``selector_of`` says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from kvloom.errors import ParamsError
from kvloom.policy.learned_files import read_profile_file, shipped_files

FORMAT, VERSION = "kvloom-fusion-profile", 1
FILES = "fusion-*.json"
"""Of those that ship."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Raises ValueError when it is none."""

    ratios: tuple[float, ...]
    kl: tuple[float, ...]

    def __post_init__(self) -> None:
        steps, falls = np.diff(self.ratios), np.diff(self.kl)
        if len(self.ratios) < 2 or len(self.ratios) != len(self.kl) or (self.ratios[0], self.ratios[-1]) != (0, 1):
            raise ValueError("a curve does not go from ratio 0 to 1")
        if not np.isfinite(self.kl).all() or min(self.kl) < 0 or (steps <= 0).any() or (falls > 0).any():
            raise ValueError("a curve's ratios do not ascend, or its KL rises")

    @staticmethod
    def of(measured: Sequence[tuple[float, float]]) -> Curve:
        """From (ratio, KL): what is not better than less was, by chance, counts as that.

        >>> Curve.of([(0.0, 0.3), (0.5, 0.1), (1.0, 0.2)]).kl
        (0.3, 0.1, 0.1)
        """
        ratios, kls = zip(*sorted(measured), strict=True)
        return Curve(tuple(ratios), tuple(float(kl) for kl in np.minimum.accumulate(kls)))

    def ratio_for(self, kl: float) -> float:
        """The least at which the curve is at most so high, on straight lines between what was measured; 1 if it never
        is.

        >>> Curve((0.0, 0.5, 1.0), (0.3, 0.1, 0.0)).ratio_for(0.2)
        0.25
        """
        for n, found in enumerate(self.kl):
            if found <= kl:
                if n == 0:
                    return self.ratios[0]
                above, low = self.kl[n - 1], self.ratios[n - 1]
                share = (above - kl) / (above - found)
                ratio = low + share * (self.ratios[n] - low)
                return min(self.ratios[n], math.ceil(round(1e4 * ratio, 6)) / 1e4)  # never less than it takes
        return 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    weights: str
    texts: str
    curves: Mapping[str, Curve]

    def ratio_for(self, weights: str | None, selector: str, kl: float) -> float:
        """Raises ParamsError when it was made for another model, or for other selectors, or when the target cannot be
        met: some selectors leave most alone whatever the ratio.
        """
        if weights != self.weights:
            raise ParamsError(
                f"the profile is for weights {self.weights!r}, these are {weights!r}",
                hint="a profile serves the model that it was made with, and no other",
                param="profile",
            )
        if selector not in self.curves:
            raise ParamsError(
                f"the profile knows nothing of `{selector}`", hint=f"it has {', '.join(self.curves)}", param="target"
            )
        curve = self.curves[selector]
        if kl < curve.kl[-1]:
            raise ParamsError(
                f"`{selector}` comes as close as {curve.kl[-1]:.4f} nats per token, not {kl:g}",
                hint="another selector, or a higher target",
                param="target",
            )
        return curve.ratio_for(kl)


def write_profile(profile: Profile, path: Path) -> None:
    curves = {name: {"ratios": list(each.ratios), "kl": list(each.kl)} for name, each in profile.curves.items()}
    made_for = {"weights": profile.weights, "texts": profile.texts}
    shown = {"format": FORMAT, "version": VERSION, "made_for": made_for, "curves": curves}
    path.write_text(json.dumps(shown, allow_nan=False, indent=1) + "\n", encoding="utf-8")


def read_profile(path: Path) -> Profile:
    """Raises DataFileError when it is none."""
    return read_profile_file(path, FORMAT, VERSION, _profile)


@cache
def shipped_profiles() -> tuple[Profile, ...]:
    """Those that ship with kvloom."""
    return tuple(map(read_profile, shipped_files(FILES)))


def shipped_profile(weights: str | None) -> Profile:
    """Raises ParamsError when none ships for this model."""
    for profile in shipped_profiles():
        if profile.weights == weights:
            return profile
    raise ParamsError(
        "no profile ships for this model: it is not known which ratio meets a target",
        hint="make one: kvloom profile fusion MODEL --output FILE, and name it: profile=FILE; or give a ratio",
        param="target",
    )


def _profile(shown: Mapping[str, Any]) -> Profile:
    curves = {name: Curve(tuple(each["ratios"]), tuple(each["kl"])) for name, each in shown["curves"].items()}
    return Profile(_text(shown["made_for"]["weights"]), _text(shown["made_for"]["texts"]), curves)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("made_for does not say what for")
    return value
