"""Entries stay of which hidden states say that KVzip would keep them: its choice at the price of an ordinary prefill.

Source: KVzap (arXiv 2601.07891): small models that predict KVzip's scores from the hidden states that go into a layer:
linear ones, and such with a hidden layer, which here is added to a linear one. We differ: it drops what is below a
threshold, here the budget says how many stay; and what is learned from are texts of our own (``kvloom profile kvzip``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from kvloom.policy.compression.base import Floats, LayerContext
from kvloom.policy.compression.needs import Hidden, LearnedMaps, Need
from kvloom.policy.compression.predictor import FILES, Predictor, predictor_for, read_predictor
from kvloom.policy.compression.words import FILE
from kvloom.policy.learned_files import shipped_files


@dataclass(frozen=True, slots=True)
class KvZap:
    """``predictor``: its file; None: the one that ships for the model. Raises DataFileError when it cannot be read."""

    name: ClassVar[str] = "kvzap"
    predictor: Path | None = field(default=None, metadata=FILE)
    _named: Predictor | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        if self.predictor is not None:
            object.__setattr__(self, "_named", read_predictor(self.predictor))

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Hidden(self.digest_for)})

    @property
    def reads(self) -> tuple[Path, ...]:
        """The files that may be read although none is named."""
        return shipped_files(FILES) if self.predictor is None else ()

    def digest_for(self, weights: str) -> LearnedMaps:
        """Raises ParamsError where there is none for a model."""
        return predictor_for(weights, self._named).by_layer

    def scores(self, context: LayerContext) -> Floats:
        assert context.measured.hidden_SN is not None
        return np.ascontiguousarray(np.exp(context.measured.hidden_SN.T.astype(np.float64)).astype(np.float32))
