"""What LU-KV has learned beforehand about a model and a scorer: what it costs a KV head to keep no more than so much.

On disk a profile is one JSON object, UTF-8:

    format    "kvloom-lu-profile"
    version   1
    made_for  {"weights", "scorer", "params", "settings"}: what it is bound to (``MadeFor``)
    lengths   [B] of the contexts that were looked at, ascending
    layers    [L] indices of the layers that own KV, ascending
    shares    [G] of a context's entries that are kept, ascending from 0 to 1
    losses    [B][L][K][G] utility that is lost when the scorer's best of these stay, not rising over G, 0 at the end

Legend: B lengths, L layers, K KV heads, G shares.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kvloom.errors import ParamsError
from kvloom.policy.learned_files import read_profile_file, shipped_files

FORMAT, VERSION = "kvloom-lu-profile", 1
FILES = "lu-*.json"
"""Of those that ship."""


@dataclass(frozen=True, slots=True)
class MadeFor:
    """``weights``: of which model; None where nobody says, which fits no profile. ``scorer`` and ``params``: who ranks
    the entries. ``settings``: a digest of what else changes losses: texts, questions, how many tokens of each answer.
    """

    weights: str | None
    scorer: str
    params: Mapping[str, int | float | str] = field(default_factory=dict)
    settings: str = ""

    def check(self, wanted: MadeFor) -> None:
        """Raises ParamsError, which says both, when this is another model, scorer or way of making a profile."""
        for each in fields(self):
            have, want = getattr(self, each.name), getattr(wanted, each.name)
            if have != want:
                raise ParamsError(
                    f"the profile is for {each.name} {have!r}, this is {want!r}",
                    hint="a profile serves the model, the scorer and the settings that it was made with, and no other",
                    param="profile",
                )


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """``losses_BLKG``: comparable over all heads of a length, and nothing else is asked of their unit.

    Raises ValueError when it is none.
    """

    made_for: MadeFor
    lengths: tuple[int, ...]
    layers: tuple[int, ...]
    shares_G: npt.NDArray[np.float64]
    losses_BLKG: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        faults = {
            "lengths are not ascending": not self.lengths or self.lengths[0] < 1 or not _ascends(self.lengths),
            "layers are not ascending": not self.layers or self.layers[0] < 0 or not _ascends(self.layers),
            "shares do not ascend from 0 to 1": self.shares_G.ndim != 1
            or len(self.shares_G) < 2
            or (self.shares_G[0], self.shares_G[-1]) != (0, 1)
            or not _ascends(self.shares_G),
        }
        for fault, is_so in faults.items():
            if is_so:
                raise ValueError(fault)
        shape = self.losses_BLKG.shape
        if len(shape) != 4 or (*shape[:2], shape[3]) != (len(self.lengths), len(self.layers), len(self.shares_G)):
            raise ValueError(f"losses of shape {shape} for other lengths, layers or shares")
        if not np.isfinite(self.losses_BLKG).all() or (self.losses_BLKG[..., -1] != 0).any():
            raise ValueError("losses are no numbers, or not 0 where everything is kept")
        if (np.diff(self.losses_BLKG, axis=-1) > 0).any():
            raise ValueError("losses rise where more is kept")

    def losses_of(self, length: int) -> npt.NDArray[np.float64]:
        """(L, K, G) of the length that is nearest by ratio, of two the shorter."""
        away_B: npt.NDArray[np.float64] = np.abs(np.log(np.array(self.lengths) / max(1, length)))
        losses_LKG: npt.NDArray[np.float64] = self.losses_BLKG[int(np.argmin(away_B))].astype(np.float64)
        return losses_LKG


def write_profile(profile: Profile, path: Path) -> None:
    shown = {
        "format": FORMAT,
        "version": VERSION,
        "made_for": {**asdict(profile.made_for), "params": dict(profile.made_for.params)},
        "lengths": list(profile.lengths),
        "layers": list(profile.layers),
        "shares": profile.shares_G.tolist(),
        "losses": _short(profile.losses_BLKG),
    }
    path.write_text(json.dumps(shown, allow_nan=False) + "\n", encoding="utf-8")


def read_profile(path: Path, wanted: MadeFor | None = None) -> Profile:
    """Raises DataFileError when it is none, and ParamsError when it was made for something else than ``wanted``."""
    profile = read_profile_file(path, FORMAT, VERSION, _profile)
    if wanted is not None:
        profile.made_for.check(wanted)
    return profile


@cache
def shipped_profiles() -> tuple[Profile, ...]:
    """Those that ship with kvloom."""
    return tuple(map(read_profile, shipped_files(FILES)))


def shipped_profile(weights: str | None, scorer: str, params: Mapping[str, int | float | str]) -> Profile:
    """Raises ParamsError when none ships for this model and this scorer."""
    for profile in shipped_profiles():
        made_for = profile.made_for
        if (made_for.weights, made_for.scorer, dict(made_for.params)) == (weights, scorer, dict(params)):
            return profile
    raise ParamsError(
        f"no profile ships for this model and `{scorer}` with these parameters",
        hint=f"make one: kvloom profile lu MODEL --method {scorer} --output FILE, and name it: profile=FILE",
        param="profile",
    )


def _profile(shown: Mapping[str, Any]) -> Profile:
    made_for = MadeFor(**shown["made_for"])
    if not isinstance(made_for.params, dict) or not all(
        isinstance(each, str) for each in (made_for.weights, made_for.scorer, made_for.settings)
    ):
        raise ValueError("made_for does not say what for")
    lengths, layers = (tuple(int(n) for n in shown[key]) for key in ("lengths", "layers"))
    shares_G, losses = np.array(shown["shares"], np.float64), np.array(shown["losses"], np.float64)
    return Profile(made_for, lengths, layers, shares_G, losses.astype(np.float32))


def _short(losses_BLKG: npt.NDArray[np.float32]) -> Any:
    """The shortest decimals that are read as the same float32."""
    return [
        [[[float(str(loss)) for loss in losses_G] for losses_G in losses_KG] for losses_KG in losses_LKG]
        for losses_LKG in losses_BLKG
    ]


def _ascends(values: Any) -> bool:
    return bool((np.diff(values) > 0).all())
