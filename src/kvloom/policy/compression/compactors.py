"""The compactors by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kvloom.policy.compression.base import Compactor
from kvloom.policy.compression.cam import Cam
from kvloom.policy.compression.d2o import D2o
from kvloom.policy.compression.gathering import Gathering
from kvloom.policy.compression.keepkv import KeepKv
from kvloom.policy.compression.matching import Matching
from kvloom.policy.compression.recoding import Recoding
from kvloom.policy.compression.words import kinds_of

COMPACTORS: Mapping[str, Callable[..., Compactor]] = {
    "gather": Gathering,
    "keepkv": KeepKv,
    "matching": Matching,
    "cam": Cam,
    "d2o": D2o,
    "recode": Recoding,
}
AS_IT_IS = "gather"


def compactor_kinds() -> dict[str, type]:
    """The types of all compactors' parameters; those of one name have one type."""
    return {name: kind for each in COMPACTORS.values() for name, kind in kinds_of(each).items()}
