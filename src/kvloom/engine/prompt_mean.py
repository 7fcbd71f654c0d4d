"""The mean of a prompt's last hidden states, gathered as they are computed: an embedding of the text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvloom.arrays import Floats
from kvloom.errors import NumericsError


@dataclass(slots=True)
class PromptMean:
    """Added up in the order of positions, in float64: the same bits however the prompt is cut into steps.

    ``count``: positions that are in it. After a preemption the first ones come again, and are passed over.
    """

    count: int = 0
    _total_C: npt.NDArray[np.float64] | None = None

    def take(self, first: int, states_RC: Floats) -> None:
        """Add the states of the positions from ``first`` on, none of which lies beyond ``count``."""
        assert first <= self.count, f"{first} comes after a gap from {self.count}"
        if self._total_C is None:
            self._total_C = np.zeros(states_RC.shape[1])
        for state_C in states_RC[self.count - first :]:
            self._total_C += state_C
        self.count = max(self.count, first + len(states_RC))

    def unit(self) -> Floats:
        """The mean, of Euclidean length 1. Raises NumericsError when there is no such thing."""
        assert self._total_C is not None
        length = float(np.sqrt(np.square(self._total_C).sum()))
        if not np.isfinite(length) or length == 0.0:
            raise NumericsError("the prompt's hidden states have no direction: the model's weights are damaged")
        return (self._total_C / length).astype(np.float32)
