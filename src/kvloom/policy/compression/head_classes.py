"""Some KV heads keep all, the others a few first and last entries.

Source: DuoAttention (Xiao et al. 2024, arXiv 2410.10819): a gate for each KV head, learned beforehand, tells retrieval
heads (high) from streaming heads. The paper chooses how many heads stream; here the total follows from the ratio as for
every allocator, so heads become streaming ones from the lowest gate on until enough is removed, the last of them in
part, heads with equal gates alike. When all stream and it is not enough, all lose alike. Which entries a streaming head
keeps is the scorer's choice: ``sink_recent`` makes it the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kvloom.errors import DataFileError, ParamsError
from kvloom.policy.compression.base import Counts, LayerScores, Origin
from kvloom.policy.compression.heads import Heads, apportion
from kvloom.policy.compression.tables import read_table
from kvloom.policy.compression.words import FILE


@dataclass(frozen=True, slots=True)
class HeadClasses:
    """``gates``: a text file with a line for each layer of the model and a number for each KV head; 0 and 1 will do.

    ``streaming``: how many entries a streaming head keeps; 128 sinks and 256 recent ones in the paper.
    Raises DataFileError when the file cannot be read.
    """

    name: ClassVar[str] = "head_classes"
    gates: Path | None = field(default=None, metadata=FILE)
    streaming: int = 384
    _gates_LK: npt.NDArray[np.float64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.gates is None:
            raise ParamsError("head_classes needs gates: a file with a number for each KV head", param="gates")
        if self.streaming < 1:
            raise ParamsError(f"streaming must be a number of entries from 1, got {self.streaming}", param="streaming")
        gates_LK = read_table(self.gates)
        if not np.isfinite(gates_LK).all():
            raise DataFileError("holds what is no number", path=self.gates)
        object.__setattr__(self, "_gates_LK", gates_LK)

    def kept(self, ratio: float, scores: Sequence[LayerScores], origin: Origin) -> list[Counts]:
        heads = Heads.of(ratio, scores)
        counts_N, floor_N = heads.size_N.copy(), np.minimum(self.streaming, heads.size_N)
        gates_N = self._of(scores, origin)
        for gate in np.unique(gates_N):
            these_N = gates_N == gate
            least_N = np.where(these_N, np.maximum(floor_N, heads.least_N), counts_N)
            if least_N.sum() <= heads.total:
                return heads.by_layer(_even(heads.total, least_N, counts_N))
            counts_N = least_N
        return heads.by_layer(_even(heads.total, heads.least_N, counts_N))

    def _of(self, scores: Sequence[LayerScores], origin: Origin) -> npt.NDArray[np.float64]:
        layers, width = self._gates_LK.shape
        for layer, scores_KS in zip(origin.layers, scores, strict=True):
            if layer >= layers or len(scores_KS) != width:
                raise ParamsError(
                    f"`{self.gates}` has {layers} layers of {width} KV heads; layer {layer} has {len(scores_KS)}",
                    param="gates",
                )
        return self._gates_LK[list(origin.layers)].reshape(-1)


def _even(total: int, least_N: Counts, most_N: Counts) -> Counts:
    return apportion(most_N.astype(np.float64), total, least_N, most_N)
