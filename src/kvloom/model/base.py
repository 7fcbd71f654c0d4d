"""What the engine needs from a model, whatever its family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Floats
from kvloom.attend.base import Attend
from kvloom.attend.observe import NOBODY, Observers
from kvloom.attend.plan import Plan
from kvloom.model.kv_map import KvMap

Indices = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Vocabulary logits of some rows, and each row's argmax: the lowest id where several are largest."""

    logits_RV: Logits
    argmax_R: list[int]

    @staticmethod
    def of(logits_RV: Logits) -> Scores:
        return Scores(logits_RV, logits_RV.argmax(axis=1).tolist())


class Model(Protocol):
    """A causal language model. Pure function of its inputs and the pages that ``attend`` holds.

    It runs in layer ranges: ``embed``, then ``run`` over ``range(0, a)``, ``range(a, b)`` ..., then ``logits``. What
    goes from one to the next is ``x``, the residual stream, float32 (rows, width). Every split into ranges gives the
    same bits, and row r's bits depend on row r only. ``forward`` and ``scores`` do the same in one call.
    """

    @property
    def kv_map(self) -> KvMap:
        """Has one entry per layer."""
        ...

    @property
    def query_heads(self) -> int:
        """Of every layer."""
        ...

    @property
    def width(self) -> int:
        """Of the residual stream."""
        ...

    @property
    def layer_parameters(self) -> int:
        """Numbers in the matrices that every token is multiplied with, embedding and head not included."""
        ...

    def turn(self, layer: int) -> npt.NDArray[np.float64]:
        """(F,): the angle by position, in radians, by which a layer turns each pair (n, n + F) of dimensions of queries
        and keys; empty where it does not.
        """
        ...

    def output_map(self, layer: int) -> Floats:
        """(H, D, C): what each query head's output becomes in the residual stream, float32, made anew by every call."""
        ...

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

    def embed(self, tokens_T: Indices) -> Floats:
        """``x_TC`` as it goes into layer 0. ``tokens_T`` is int64."""
        ...

    def run(
        self,
        x_TC: Floats,
        plan: Plan,
        attend: Attend,
        layers: range,
        rows_R: Indices | None = None,
        observers: Observers = NOBODY,
    ) -> Floats:
        """``x_RC`` as it comes out of the last of ``layers``, which are contiguous. ``x_TC`` stays as it is.

        Positions are ``plan.positions_T``. These layers' KV of all rows is written, in the pages that ``attend`` holds.
        ``rows_R``: rows that go on, ascending, int64; None: all. A later range then takes ``narrowed(plan, rows_R)``,
        and writes no KV of the others. No layers: ``x_TC``, or those rows of it.
        ``observers``: probes that see all rows of these layers (see ``attend.observe``).
        """
        ...

    def logits(self, x_RC: Floats) -> Logits:
        """Vocabulary logits, float32 (R, vocab_size): final norm and head over what came out of any layer."""
        ...

    def forward(
        self,
        tokens_T: Indices,
        plan: Plan,
        attend: Attend,
        rows_R: Indices | None = None,
        observers: Observers = NOBODY,
    ) -> Floats:
        """``embed``, and ``run`` over all layers."""
        ...

    def scores(
        self, tokens_T: Indices, plan: Plan, attend: Attend, rows_R: Indices, observers: Observers = NOBODY
    ) -> Scores:
        """``forward`` and ``logits``: what an ordinary step needs."""
        ...
