"""What the engine needs from a model, whatever its family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Floats
from kvloom.attend.base import Attend
from kvloom.attend.plan import Plan
from kvloom.model.kv_map import KvMap

Indices = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Vocabulary logits of some rows, and the token of each row's largest one: the lowest id where several are."""

    logits_RV: Logits
    likeliest_R: list[int]

    @staticmethod
    def of(logits_RV: Logits) -> Scores:
        return Scores(logits_RV, logits_RV.argmax(axis=1).tolist())


class Model(Protocol):
    """A causal language model. Pure function of its inputs and the pages that ``attend`` holds."""

    @property
    def kv_map(self) -> KvMap: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def context_length(self) -> int:
        """Positions the model was trained for."""
        ...

    @property
    def weights_id(self) -> str:
        """Hex SHA-256 of the weights' content and of the settings they run with (RoPE too): equal ids may share KV."""
        ...

    def forward(self, tokens_T: Indices, plan: Plan, attend: Attend, wanted_R: Indices | None = None) -> Floats:
        """Run the layers over the step's rows; return hidden states after the final norm, float32 (R, width).

        ``tokens_T`` is int64. Positions are ``plan.positions_T``. ``wanted_R``: the rows asked for, ascending, int64;
        None asks for all. The KV of all rows is written, in the pages that ``attend`` holds.
        """
        ...

    def scores(self, tokens_T: Indices, plan: Plan, attend: Attend, wanted_R: Indices) -> Scores:
        """``logits`` of ``forward``, in one go: what a step needs unless somebody asks for hidden states."""
        ...

    def logits(self, hidden_RC: Floats) -> Logits:
        """Vocabulary logits of chosen rows, float32 (R, vocab_size). Row r's bits depend on row r only."""
        ...
