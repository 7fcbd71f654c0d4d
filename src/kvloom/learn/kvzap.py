"""Learn to predict KVzip's scores: ridge regression, per layer and KV head, of their logarithms on hidden states.

Source: KVzap (arXiv 2601.07891), its linear kind. KVzip is run on every text; what its repetition says of an entry is
what the hidden state of that entry has to say by itself.

Legend: L layers, K KV heads, C width of the model, S entries; X is C and a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from kvloom.errors import EvalError
from kvloom.eval.single import SingleSequence
from kvloom.eval.subject import Subject
from kvloom.policy.compression import Compression
from kvloom.policy.compression.base import Floats, LayerContext
from kvloom.policy.compression.kvzip import KvZip
from kvloom.policy.compression.needs import Hidden, Need
from kvloom.policy.compression.predictor import STEPS, Predictor, normed

Doubles = npt.NDArray[np.float64]

LEAST_SCORE = 1e-5
"""Scores below count as this: what nobody attends to differs by noise alone."""

RIDGES = (1e-5, 1e-4, 1e-3, 1e-2)
"""By which part of the mean square of a feature maps are held down: the best on texts held out is taken."""

_HELD_OUT = 6
"""Every so many-th text is for testing."""


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
    return (normed(x_RC) / STEPS).astype(np.float32)


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
    """Sums by layer: of texts to learn from, and of those that are held out."""

    learned: dict[int, Sums] = field(default_factory=dict)
    held_out: dict[int, Sums] = field(default_factory=dict)

    def add(self, context: LayerContext, y_KS: Floats, hold_out: bool) -> None:
        hidden_SC = context.measured.hidden_SN
        assert hidden_SC is not None
        x_SX = np.concatenate([hidden_SC, np.ones((len(hidden_SC), 1), np.float32)], axis=1).astype(np.float64)
        y_SK = np.log(np.maximum(y_KS.T.astype(np.float64), LEAST_SCORE))
        into = self.held_out if hold_out else self.learned
        into.setdefault(context.layer, Sums.empty(x_SX.shape[1], y_SK.shape[1])).add(x_SX, y_SK)


def learn(
    subject: Subject, texts: Sequence[Sequence[int]], advance: Callable[[int], None] = lambda tokens: None, **about: Any
) -> Predictor:
    """A predictor for the subject's model. ``advance`` is told the tokens of each text that is done.

    Raises EvalError when there are too few texts to hold one out.
    """
    if len(texts) <= _HELD_OUT:
        raise EvalError(f"{len(texts)} texts are too few to learn from", hint=f"at least {_HELD_OUT + 1}")
    compression, lesson = Compression(Teacher(), 0.0), Lesson()
    for number, text in enumerate(texts):
        sequence = SingleSequence(subject.engine, min(subject.engine.max_len, 2 * len(text) + 16))
        sequence.watch(compression, text)
        sequence.append(text)
        for context in sequence.contexts(compression):
            lesson.add(context, compression.scorer.scores(context), number % _HELD_OUT == _HELD_OUT - 1)
        advance(len(text))
    return fitted(subject, lesson, {"texts": len(texts), "tokens": sum(map(len, texts)), **about})


def fitted(subject: Subject, lesson: Lesson, about: dict[str, Any]) -> Predictor:
    layers = tuple(sorted(lesson.learned))
    maps, offsets, explained = [], [], []
    for layer in layers:
        learned, held_out = lesson.learned[layer], lesson.held_out[layer]
        tried = [learned.solved(ridge) for ridge in RIDGES]
        map_XK = max(tried, key=lambda each: float(held_out.explained(each).mean()))
        maps.append(map_XK[:-1].T)
        offsets.append(map_XK[-1])
        explained.append(float(held_out.explained(map_XK).mean()))
    about |= {"explained": {str(layer): round(share, 3) for layer, share in zip(layers, explained, strict=True)}}
    maps_LKC, offsets_LK = np.stack(maps), np.stack(offsets).astype(np.float32)
    return Predictor.of(subject.engine.model.weights_id, subject.name, layers, maps_LKC, offsets_LK, about)
