"""Learn to predict KVzip's scores: ridge regression, per layer and KV head, of their logarithms on hidden states; then,
of what that leaves, a hidden layer.

Source: KVzap (arXiv 2601.07891). KVzip is run on every text; what its repetition says of an entry is what the hidden
state of that entry has to say by itself.

Legend: L layers, K KV heads, M hidden units, C width of the model, S entries; X is C and a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from kvloom.engine.kv.learned_digest import EPSILON
from kvloom.errors import EvalError
from kvloom.eval.single import SingleSequence
from kvloom.eval.subject import Subject
from kvloom.learn.hidden_layer import HiddenLayer, Rows, beside_linear
from kvloom.model.ops import rms_norm
from kvloom.policy.compression import Compression
from kvloom.policy.compression.base import Floats, LayerContext
from kvloom.policy.compression.kvzip import KvZip
from kvloom.policy.compression.needs import Hidden, Need
from kvloom.policy.compression.predictor import Predictor

Doubles = npt.NDArray[np.float64]

LEAST_SCORE = 1e-5
"""Scores below count as this: what nobody attends to differs by noise alone."""

RIDGES = (1e-5, 1e-4, 1e-3, 1e-2)
"""By which part of the mean square of a feature maps are held down: the best on texts held out is taken."""

_HELD_OUT = 7
"""Every so many-th text is for testing: no multiple of the kinds of texts that the mixture has in turn."""

HIDDEN = 32
"""Units of the hidden layer."""

_ROWS_BYTES = 2**31
"""Memory for hidden states that hidden layers learn from: where there are more, some are left out at even distances."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """KVzip, with the hidden states of its entries beside its scores."""

    name: ClassVar[str] = "kvzip with hidden states"
    teacher: KvZip = field(default_factory=KvZip)

    @property
    def needs(self) -> frozenset[Need]:
        return self.teacher.needs | {Hidden(_digest_for)}

    def scores(self, context: LayerContext) -> Floats:
        return self.teacher.scores(context)


def _digest_for(weights: str) -> Callable[[int, Floats], Floats]:
    return _digest


def _digest(layer: int, x_RC: Floats) -> Floats:
    return rms_norm(x_RC, np.ones(x_RC.shape[1], np.float32), EPSILON, 1)


@dataclass(slots=True, eq=False)
class Sums:
    """What a least-squares fit of one layer needs of all texts: X'X, X'Y, the sums of Y and of its square, rows."""

    xx_XX: Doubles
    xy_XK: Doubles
    y_K: Doubles
    yy_K: Doubles
    rows: int = 0

    @staticmethod
    def empty(width: int, heads: int) -> Sums:
        return Sums(np.zeros((width, width)), np.zeros((width, heads)), np.zeros(heads), np.zeros(heads))

    def add(self, x_SX: Doubles, y_SK: Doubles) -> None:
        np.add(self.xx_XX, x_SX.T @ x_SX, out=self.xx_XX)
        np.add(self.xy_XK, x_SX.T @ y_SK, out=self.xy_XK)
        np.add(self.y_K, y_SK.sum(axis=0), out=self.y_K)
        np.add(self.yy_K, np.square(y_SK).sum(axis=0), out=self.yy_K)
        self.rows += len(x_SX)

    def solved(self, ridge: float) -> Doubles:
        """(X, K). The constant is not held down."""
        held_X = np.full(len(self.xx_XX), ridge * self.rows)
        held_X[-1] = 0
        return np.asarray(np.linalg.solve(self.xx_XX + np.diag(held_X), self.xy_XK), np.float64)

    def explained(self, map_XK: Doubles) -> Doubles:
        """(K,): the share of the variance of Y that a map explains."""
        fitted_K = np.einsum("xk,xy,yk->k", map_XK, self.xx_XX, map_XK, optimize=True)
        residual_K = self.yy_K - 2 * (map_XK * self.xy_XK).sum(axis=0) + fitted_K
        total_K = self.yy_K - np.square(self.y_K) / self.rows
        shares_K: Doubles = 1 - residual_K / np.maximum(total_K, 1e-12)
        return shares_K


@dataclass(slots=True, eq=False)
class Lesson:
    """By layer, of texts to learn from, and of those that are held out: sums; and rows, of as many as there will be in
    all layers together. 0: none are kept.
    """

    rows_to_come: int = 0
    learned: dict[int, Sums] = field(default_factory=dict)
    held_out: dict[int, Sums] = field(default_factory=dict)
    rows: dict[int, Rows] = field(default_factory=dict)
    rows_held_out: dict[int, Rows] = field(default_factory=dict)

    def add(self, context: LayerContext, y_KS: Floats, hold_out: bool) -> None:
        hidden_SC = context.measured.hidden_SN
        assert hidden_SC is not None
        x_SX = np.concatenate([hidden_SC, np.ones((len(hidden_SC), 1), np.float32)], axis=1).astype(np.float64)
        y_SK = np.log(np.maximum(y_KS.T.astype(np.float64), LEAST_SCORE))
        into = self.held_out if hold_out else self.learned
        into.setdefault(context.layer, Sums.empty(x_SX.shape[1], y_SK.shape[1])).add(x_SX, y_SK)
        if self.rows_to_come:
            rows = self.rows_held_out if hold_out else self.rows
            stride = -(-2 * self.rows_to_come * hidden_SC.shape[1] // _ROWS_BYTES)
            rows.setdefault(context.layer, Rows()).add(hidden_SC[::stride], y_SK[::stride])


def learn(
    subject: Subject,
    texts: Sequence[Sequence[int]],
    advance: Callable[[int], None] = lambda tokens: None,
    hidden: int = HIDDEN,
    **about: Any,
) -> Predictor:
    """A predictor for the subject's model. ``advance`` is told the tokens of each text that is done. ``hidden``: units
    of a hidden layer; 0: it is linear.

    Raises EvalError when there are too few texts to hold one out.
    """
    if len(texts) <= _HELD_OUT:
        raise EvalError(f"{len(texts)} texts are too few to learn from", hint=f"at least {_HELD_OUT + 1}")
    tokens, kv_layers = sum(map(len, texts)), subject.engine.model.kv_map.layers
    owners = sum(layer == kv.owner for layer, kv in enumerate(kv_layers))
    compression, lesson = Compression(Teacher(), 0.0), Lesson(tokens * owners if hidden else 0)
    for number, text in enumerate(texts):
        sequence = SingleSequence(subject.engine, min(subject.engine.max_len, 2 * len(text) + 16))
        sequence.watch(compression, text)
        sequence.append(text)
        for context in sequence.contexts(compression):
            lesson.add(context, compression.scorer.scores(context), number % _HELD_OUT == _HELD_OUT - 1)
        advance(len(text))
    return fitted(subject, lesson, {"texts": len(texts), "tokens": tokens, **about}, hidden)


def fitted(subject: Subject, lesson: Lesson, about: dict[str, Any], hidden: int = 0) -> Predictor:
    layers = tuple(sorted(lesson.learned))
    maps, offsets, onto, explained = [], [], [], []
    for layer in layers:
        learned, held_out = lesson.learned[layer], lesson.held_out[layer]
        tried = [learned.solved(ridge) for ridge in RIDGES]
        map_XK = max(tried, key=lambda each: float(held_out.explained(each).mean()))
        beside, share = _nothing(map_XK), float(held_out.explained(map_XK).mean())
        if hidden:
            beside, share = beside_linear(map_XK, lesson.rows[layer], lesson.rows_held_out[layer], hidden, layer)
        maps.append(np.concatenate([map_XK[:-1].T, beside.maps_MC]))
        offsets.append(np.concatenate([map_XK[-1], beside.offsets_M]))
        onto.append(beside.onto_KM)
        explained.append(share)
    about |= {"explained": {str(layer): round(share, 3) for layer, share in zip(layers, explained, strict=True)}}
    return Predictor(
        subject.engine.model.weights_id,
        subject.name,
        layers,
        np.stack(maps).astype(np.float16),
        np.stack(offsets).astype(np.float32),
        np.stack(onto).astype(np.float16),
        about,
    )


def _nothing(map_XK: Doubles) -> HiddenLayer:
    width, heads = map_XK.shape[0] - 1, map_XK.shape[1]
    zeros = np.zeros((0, width), np.float32), np.zeros(0, np.float32), np.zeros((heads, 0), np.float32)
    return HiddenLayer(*zeros)
