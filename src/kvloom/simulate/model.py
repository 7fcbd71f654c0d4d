"""A model that computes nothing: it has a shape, takes time, and says what it is told to say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Bytes, Floats
from kvloom.attend.observe import NOBODY, Asked, Observers
from kvloom.attend.plan import Plan
from kvloom.errors import InternalError
from kvloom.model.base import Indices, Logits, Scores
from kvloom.model.kv_map import KvMap

VOCAB_SIZE = 2**40
"""As many different tokens as a trace may have, and more."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the engine and its policies need to know of a model: see ``model.base.Model``."""

    kv_map: KvMap
    query_heads: int
    layer_parameters: int
    context_length: int
    weights_id: str


@dataclass(frozen=True)
class SimulatedModel:
    """``shape``: the model whose place it takes. ``spend``: called with the plan of every step, to let its time pass.
    ``say``: which token it names after which. Hidden states have no width, and all scores are 0.
    """

    shape: Shape
    spend: Callable[[Plan], None]
    say: Callable[[int], int]
    vocab_size: int = VOCAB_SIZE

    @property
    def kv_map(self) -> KvMap:
        return self.shape.kv_map

    @property
    def query_heads(self) -> int:
        return self.shape.query_heads

    @property
    def width(self) -> int:
        return 0

    @property
    def layer_parameters(self) -> int:
        return self.shape.layer_parameters

    @property
    def context_length(self) -> int:
        return self.shape.context_length

    @property
    def weights_id(self) -> str:
        return self.shape.weights_id

    def turn(self, layer: int) -> npt.NDArray[np.float64]:
        return np.zeros(0)

    def output_map(self, layer: int) -> Floats:
        return np.zeros((self.query_heads, self.kv_map.layers[layer].v_dim, 0), np.float32)

    def embed(self, tokens_T: Indices) -> Floats:
        return np.zeros((len(tokens_T), 0), np.float32)

    def run(
        self,
        x_TC: Floats,
        plan: Plan,
        attend: object,
        layers: range,
        rows_R: Indices | None = None,
        observers: Observers = NOBODY,
    ) -> Floats:
        if layers and layers.start == 0:
            self.spend(plan)
        return x_TC if rows_R is None else x_TC[rows_R]

    def logits(self, x_RC: Floats) -> Logits:
        return np.broadcast_to(np.zeros(1, np.float32), (len(x_RC), self.vocab_size))

    def forward(
        self,
        tokens_T: Indices,
        plan: Plan,
        attend: object,
        rows_R: Indices | None = None,
        observers: Observers = NOBODY,
    ) -> Floats:
        return self.run(self.embed(tokens_T), plan, attend, range(len(self.kv_map.layers)), rows_R)

    def scores(
        self, tokens_T: Indices, plan: Plan, attend: object, rows_R: Indices, observers: Observers = NOBODY
    ) -> Scores:
        hidden_RC = self.forward(tokens_T, plan, attend, rows_R)
        return Scores(self.logits(hidden_RC), [self.say(token) for token in tokens_T[rows_R].tolist()])


class NoAttend:
    """In place of kernels: nothing ever asks it."""

    def write(self, k_TKD: Floats, v_TKD: Floats, plan: Plan, layer: int) -> None:
        raise InternalError("a simulated model writes no KV")

    def attend(self, q_THD: Floats, plan: Plan, layer: int) -> tuple[Floats, Floats]:
        raise InternalError("a simulated model attends to nothing")

    def observe(self, q_THD: Floats, lse_TH: Floats, plan: Plan, layer: int, asked: Sequence[Asked]) -> None:
        raise InternalError("a simulated model has nothing to observe")


class Unbacked:
    """In place of memory: addresses with nothing behind them."""

    def __init__(self, size: int) -> None:
        self.memory: Bytes = np.zeros(0, np.uint8)

    def copy(self, source: int, target: int, size: int) -> None:
        pass

    def give_up(self, start: int, size: int) -> None:
        pass


class _SilentStream:
    def push(self, token_id: int) -> str:
        return ""

    def flush(self) -> str:
        return ""


class SilentTokenizer:
    """Tokens that are no text, and none of which ends an answer."""

    eos_token_ids: frozenset[int] = frozenset()

    def token_text(self, token_id: int) -> str:
        return ""

    def stream(self, skip_special_tokens: bool, after: Sequence[int] = ()) -> _SilentStream:
        return _SilentStream()
